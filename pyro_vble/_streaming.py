"""Per-pixel statistics of samples that arrive in chunks, in memory that does not grow with their number."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

#: Up to this many samples a quantile is exact; beyond it, it is read off a histogram per pixel.
EXACT_SAMPLES = 128
_BINS = 256
_SORT_BUDGET = 1 << 24


class Moments:
    """Mean and variance of a stream, merged chunk by chunk (Chan, Golub and LeVeque, 1983)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Tensor | None = None
        self._squares: Tensor | None = None

    def update(self, chunk: Tensor) -> None:
        """Take in samples (n, ...)."""
        n, mean = len(chunk), chunk.mean(0)
        squares = (chunk - mean).square().sum(0)
        if self.mean is None:
            self.count, self.mean, self._squares = n, mean, squares
            return
        total = self.count + n
        shift = mean - self.mean
        self.mean = self.mean + shift * (n / total)
        self._squares = self._squares + squares + shift.square() * (self.count * n / total)
        self.count = total

    @property
    def std(self) -> Tensor:
        """Standard deviation, with n - 1 in the denominator (0 for one sample)."""
        return (self._squares / max(self.count - 1, 1)).sqrt()


def streamed_quantiles(chunks: Callable[[], Iterable[Tensor]], levels: Tensor, num_samples: int) -> Tensor:
    """Quantiles (number of levels, ...) of a stream of samples (n, ...), linearly interpolated.

    Up to ``EXACT_SAMPLES`` samples they are exact. Beyond, each pixel gets a histogram of 256 equal bins over the
    range of 128 samples, drawn for that alone, widened by half of it on either side; samples beyond that count in the
    outermost bins. Within a bin the cdf is taken as linear: the error is a small part of a bin, about 0.03 standard
    deviations wide for a Gaussian, well below the Monte Carlo error of the quantile itself up to 10,000 samples.
    """
    if num_samples <= EXACT_SAMPLES:
        return _sorted_quantiles(joined(chunks(), num_samples), levels)
    histogram = _Histogram(*_range(chunks()), num_samples)
    for chunk in chunks():
        histogram.update(chunk)
    return histogram.quantiles(levels)


def joined(chunks: Iterable[Tensor], num_samples: int) -> Tensor:
    """All samples, held once: a list of chunks and what they are joined to would be twice."""
    samples, seen = None, 0
    for chunk in chunks:
        samples = chunk.new_empty((num_samples, *chunk.shape[1:])) if samples is None else samples
        samples[seen : seen + len(chunk)] = chunk
        seen += len(chunk)
    return samples


def _range(chunks: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Smallest and largest value of the first samples."""
    low = high = None
    seen = 0
    for chunk in chunks:
        low = chunk.amin(0) if low is None else torch.minimum(low, chunk.amin(0))
        high = chunk.amax(0) if high is None else torch.maximum(high, chunk.amax(0))
        seen += len(chunk)
        if seen >= EXACT_SAMPLES:
            break
    return low, high


class _Histogram:
    """One histogram a pixel."""

    def __init__(self, low: Tensor, high: Tensor, num_samples: int) -> None:
        margin = ((high - low) / 2).clamp_min(torch.finfo(low.dtype).eps * (1 + high.abs()))
        self.low, self.step = low - margin, (high - low + 2 * margin) / _BINS
        self.total = 0
        # CUDA adds to no less than 32 bits at once.
        dtype = torch.int16 if num_samples < 2**15 and not low.is_cuda else torch.int32
        self.counts = torch.zeros(_BINS, *low.shape, dtype=dtype, device=low.device)

    def update(self, chunk: Tensor) -> None:
        self.total += len(chunk)
        for sample in chunk:
            index = ((sample - self.low) / self.step).long().clamp(0, _BINS - 1)
            self.counts.scatter_add_(0, index[None], torch.ones_like(index[None], dtype=self.counts.dtype))

    def quantiles(self, levels: Tensor) -> Tensor:
        results = []
        for level in levels.tolist():
            target = level * self.total
            below = torch.zeros(self.low.shape, dtype=torch.int32, device=self.low.device)
            result = self.low + self.step * _BINS
            found = torch.zeros_like(below, dtype=torch.bool)
            for b in range(_BINS):
                inside = self.counts[b]
                here = ~found & (below + inside >= target) & (inside > 0)
                fraction = ((target - below) / inside.clamp_min(1)).clamp(0, 1)
                result = torch.where(here, self.low + self.step * (b + fraction), result)
                found |= here
                below = below + inside
            results.append(result)
        return torch.stack(results)


def _sorted_quantiles(samples: Tensor, levels: Tensor) -> Tensor:
    """Exact quantiles over the first dimension, a block of pixels at a time to bound the memory of sorting."""
    n, shape = len(samples), samples.shape[1:]
    flat = samples.reshape(n, -1)
    position = levels.to(flat) * (n - 1)
    low = position.floor().long()
    fraction = (position - low)[:, None]
    blocks = []
    for block in flat.split(max(1, _SORT_BUDGET // n), dim=1):
        ordered = block.sort(0).values
        blocks.append(torch.lerp(ordered[low], ordered[(low + 1).clamp_max(n - 1)], fraction))
    return torch.cat(blocks, 1).reshape(len(levels), *shape)
