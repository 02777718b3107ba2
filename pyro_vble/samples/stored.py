"""Samples that are there already."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pyro_vble.samples.samples import Samples

#: Samples of a chunk.
AT_ONCE = 16


class StoredSamples(Samples):
    """Samples that somebody else drew, in memory.

    Args:
        images: (n, B, C, H, W).
        y: Measurement (B, ...), if there is one.
        physics: The operator, if it is known.

    Raises:
        ValueError: If more are asked for than there are.

    Example:
        >>> import torch
        >>> from pyro_vble.samples import StoredSamples
        >>> samples = StoredSamples(torch.rand(50, 1, 3, 8, 8))
        >>> samples.mmse_x().shape, samples.number(None)
        (torch.Size([1, 3, 8, 8]), 50)
    """

    def __init__(self, images: Tensor, *, y: Tensor | None = None, physics: Any = None) -> None:
        super().__init__(images.shape[1:], y=y, physics=physics, seed=0)
        self.images = images
        self.output_device = images.device

    def __repr__(self) -> str:
        """A line: number, shape."""
        return f"{type(self).__name__}({self.stored} samples of {self.shape})"

    @property
    def stored(self) -> int:
        """How many there are."""
        return len(self.images)

    def chunks(self, num_samples: int, *, seed: int | None = None) -> Iterator[Tensor]:
        """The samples in chunks (n, B, C, H, W); fewer than there are, at even distances. A seed changes nothing."""
        return iter(self.images[self._chosen(num_samples, self.stored)].split(AT_ONCE))

    @staticmethod
    def _chosen(num_samples: int, stored: int) -> slice | Tensor:
        if num_samples > stored:
            raise ValueError(
                f"num_samples must be at most {stored}, as many as are stored; received {num_samples}; ask for fewer, "
                "or draw more."
            )
        return slice(None) if num_samples == stored else torch.linspace(0, stored - 1, num_samples).round().long()
