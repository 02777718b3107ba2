"""Samples that were drawn for one statistic, kept for the next."""

import math
from collections.abc import Callable, Iterator

from torch import Tensor

# Up to this many values the samples of one seed are kept: 100 samples of a 384x384 photograph.
_KEEP_VALUES = 50_000_000


class KeptSamples:
    """The last set of samples that was drawn whole."""

    def __init__(self) -> None:
        self._kept: tuple[tuple, list[Tensor]] | None = None

    def chunks(
        self, key: tuple, num_samples: int, shape: tuple[int, ...], draw: Callable[[], Iterator[Tensor]]
    ) -> Iterator[Tensor]:
        """Chunks of the samples of this key: those that are kept, or drawn and kept if they are few."""
        kept = self._kept  # looked at once: another thread may exchange it
        if kept is not None and kept[0] == key:
            yield from kept[1]
            return
        if None in key or num_samples * math.prod(shape) > _KEEP_VALUES:
            yield from draw()
            return
        # In one tensor: chunks among the networks' own freed arrays would keep the allocator from using those again.
        samples, seen, chunks = None, 0, []
        for chunk in draw():
            samples = chunk.new_empty((num_samples, *shape)) if samples is None else samples
            chunks.append(samples[seen : seen + len(chunk)].copy_(chunk))
            seen += len(chunk)
            yield chunks[-1]
        self._kept = key, chunks
