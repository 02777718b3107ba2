"""Per-pixel statistics of samples that arrive in chunks, in memory that does not grow with their number."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

#: Up to this many samples a quantile is exact; beyond it, it is read off a histogram per pixel.
EXACT_SAMPLES = 128
_BINS = 256
_SORT_BUDGET = 1 << 24
_NO_SAMPLES = "Statistics are of one sample or more; received none; have chunks() yield as many as it is asked for."
# Enough to go from the spacing of float64 to its range.
_DOUBLINGS = 2048


class Moments:
    """Mean and variance of a stream, merged chunk by chunk (Chan, Golub and LeVeque, 1983)."""

    def __init__(self) -> None:
        self.count = 0
        # The mean, and the sum of squared distances from it.
        self._found: tuple[Tensor, Tensor] | None = None

    def update(self, chunk: Tensor) -> None:
        """Take in samples (n, ...)."""
        n, mean = len(chunk), chunk.mean(0)
        squares = (chunk - mean).square().sum(0)
        if self._found is None:
            self.count, self._found = n, (mean, squares)
            return
        total, (before, squares_before) = self.count + n, self._found
        shift = mean - before
        squares = squares_before + squares + shift.square() * (self.count * n / total)
        self.count, self._found = total, (before + shift * (n / total), squares)

    @property
    def mean(self) -> Tensor:
        """The mean.

        Raises:
            ValueError: If there was no sample.
        """
        return self._of_samples()[0]

    @property
    def std(self) -> Tensor:
        """Standard deviation, with n - 1 in the denominator (0 for one sample).

        Raises:
            ValueError: If there was no sample.
        """
        return (self._of_samples()[1] / max(self.count - 1, 1)).sqrt()

    def _of_samples(self) -> tuple[Tensor, Tensor]:
        if self._found is None:
            raise ValueError(_NO_SAMPLES)
        return self._found


def streamed_quantiles(chunks: Callable[[], Iterable[Tensor]], levels: Tensor, num_samples: int) -> Tensor:
    """Quantiles (number of levels, ...) of a stream of samples (n, ...).

    The q-quantile of n samples in order is the one at position q (n + 1), between two of them in proportion, at most
    the last and at least the first: another sample lies below it with probability q, whatever the distribution.

    Up to ``EXACT_SAMPLES`` samples they are sorted. Beyond, each pixel gets a histogram of 256 equal bins, first over
    the range of the first samples, widened by half of it on either side; where a later sample falls outside, pairs of
    bins become one and the range doubles. Within a bin samples are taken as evenly spread: the error is a small part
    of a bin, of which a Gaussian's is about 0.03 standard deviations wide and at most twice that.
    """
    if num_samples <= EXACT_SAMPLES:
        return sorted_quantiles(joined(chunks(), num_samples), levels)
    histogram = _Histogram(num_samples)
    for chunk in chunks():
        histogram.update(chunk)
    return histogram.quantiles(levels)


def joined(chunks: Iterable[Tensor], num_samples: int) -> Tensor:
    """All samples, held once: a list of chunks and what they are joined to would be twice.

    Raises:
        ValueError: If there is none.
    """
    samples, seen = None, 0
    for chunk in chunks:
        samples = chunk.new_empty((num_samples, *chunk.shape[1:])) if samples is None else samples
        samples[seen : seen + len(chunk)] = chunk
        seen += len(chunk)
    if samples is None:
        raise ValueError(_NO_SAMPLES)
    return samples


class _Histogram:
    """One histogram a pixel, over a range that doubles where a sample falls outside."""

    def __init__(self, num_samples: int) -> None:
        self.num_samples = num_samples
        self.total = 0
        self._first: list[Tensor] | None = []

    def update(self, chunk: Tensor) -> None:
        """Take in samples (n, ...)."""
        self.total += len(chunk)
        if self._first is not None:
            self._first.append(chunk.clone())
            if self.total < min(EXACT_SAMPLES, self.num_samples):
                return
            chunk, self._first = torch.cat(self._first), None
            self._start(chunk)
        self._make_room(chunk.amin(0), chunk.amax(0))
        for sample in chunk:
            index = ((sample - self.low) / self.step).nan_to_num(0.0).clamp(0, _BINS - 1).long()
            self.counts.scatter_add_(0, index[None], torch.ones_like(index[None], dtype=self.counts.dtype))

    def quantiles(self, levels: Tensor) -> Tensor:
        """Quantiles (number of levels, ...)."""
        positions = [min(max(level * (self.total + 1), 1.0), float(self.total)) for level in levels.tolist()]
        ranks = sorted({whole for position in positions for whole in (math.floor(position), math.ceil(position))})
        value = dict(zip(ranks, self._ranked(ranks), strict=True))
        pairs = [(value[math.floor(position)], value[math.ceil(position)], position % 1) for position in positions]
        return torch.stack([torch.lerp(low, high, part) for low, high, part in pairs])

    def _ranked(self, ranks: list[int]) -> list[Tensor]:
        """The samples of these ranks, counted from 1, from below."""
        below = torch.zeros(self.low.shape, dtype=torch.int32, device=self.low.device)
        found = [self.low + self.step * _BINS for _ in ranks]
        for b in range(_BINS):
            inside = self.counts[b]
            for k, rank in enumerate(ranks):
                here = (below < rank) & (below + inside >= rank)
                # Sample j of those inside stands at (j - 1/2) / inside of the bin.
                fraction = (rank - below - 0.5) / inside.clamp_min(1)
                found[k] = torch.where(here, self.low + self.step * (b + fraction), found[k])
            below = below + inside
        return found

    def _start(self, samples: Tensor) -> None:
        low, high = (value.nan_to_num() for value in (samples.amin(0), samples.amax(0)))
        margin = ((high - low) / 2).clamp_min(torch.finfo(low.dtype).eps * (1 + high.abs()))
        self.low, self.step = low - margin, (high - low + 2 * margin) / _BINS
        # CUDA adds to no less than 32 bits at once.
        dtype = torch.int16 if self.num_samples < 2**15 and not low.is_cuda else torch.int32
        self.counts = torch.zeros(_BINS, *low.shape, dtype=dtype, device=low.device)

    def _make_room(self, low: Tensor, high: Tensor) -> None:
        """Double ranges, downwards or upwards, until they hold these values; infinite ones count in the last bins."""
        for _ in range(_DOUBLINGS):
            down = (low < self.low) & low.isfinite()
            outside = down | ((high >= self.low + self.step * _BINS) & high.isfinite())
            if not bool(outside.any()):
                return
            pairs = self.counts[0::2] + self.counts[1::2]
            empty = torch.zeros_like(pairs)
            doubled = torch.where(down, torch.cat((empty, pairs)), torch.cat((pairs, empty)))
            self.counts = torch.where(outside, doubled, self.counts)
            self.low = torch.where(down, self.low - self.step * _BINS, self.low)
            self.step = torch.where(outside, 2 * self.step, self.step)


def sorted_quantiles(samples: Tensor, levels: Tensor) -> Tensor:
    """Exact quantiles over the first dimension, a block of pixels at a time to bound the memory of sorting."""
    n, shape = len(samples), samples.shape[1:]
    flat = samples.reshape(n, -1)
    position = (levels.to(flat) * (n + 1) - 1).clamp(0, n - 1)
    low = position.floor().long()
    fraction = (position - low)[:, None]
    blocks = []
    for block in flat.split(max(1, _SORT_BUDGET // n), dim=1):
        ordered = block.sort(0).values
        blocks.append(torch.lerp(ordered[low], ordered[(low + 1).clamp_max(n - 1)], fraction))
    return torch.cat(blocks, 1).reshape(len(levels), *shape)
