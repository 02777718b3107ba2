"""Where samples come from: a posterior, or a tensor of samples from anywhere."""

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor

from pyro_vble._streaming import Moments, joined
from pyro_vble.posterior import Posterior
from pyro_vble.seeding import derived_seed, seeded

#: A posterior, or samples (n, B, C, H, W).
Samples: TypeAlias = Posterior | Tensor

_AT_ONCE = 16


class Source:
    """Samples to be gone through in chunks, as often as needed, always the same.

    Args:
        samples: A posterior, or samples (n, B, C, H, W).
        truth: The true image (B, C, H, W), if there is one.
        num_samples: How many to draw from a posterior; all of a tensor are used.
        seed: Seed of the draws.

    Raises:
        TypeError: If ``samples`` is neither.
        ValueError: If samples and truth do not belong to the same images.
    """

    def __init__(self, samples: Samples, truth: Tensor | None, num_samples: int, seed: int | None = None) -> None:
        if isinstance(samples, Posterior):
            seed = samples._lasting_seed(seed)
            self._chunks: Callable[[], Iterator[Tensor]] = lambda: (
                samples._out(chunk) for chunk in samples._chunks(num_samples, seed)
            )
            self.num_samples, shape = num_samples, samples.image_shape
        elif isinstance(samples, Tensor) and samples.dim() >= 2:
            self._chunks = lambda: iter(samples.split(_AT_ONCE))
            self.num_samples, shape = len(samples), tuple(samples.shape[1:])
        else:
            raise TypeError(
                "Diagnostics take a posterior, or a tensor of samples (n, B, C, H, W); received "
                f"{type(samples).__name__}."
            )
        if truth is not None and tuple(truth.shape) != shape:
            raise ValueError(f"truth must have the shape of one sample, {shape}; received {tuple(truth.shape)}.")
        self.truth, self.seed = truth, seed

    def __iter__(self) -> Iterator[Tensor]:
        """The samples, in chunks (n, B, C, H, W)."""
        return self._chunks()

    def all(self) -> Tensor:
        """All samples at once."""
        return joined(self, self.num_samples)

    def moments(self) -> Moments:
        """Mean and standard deviation."""
        moments = Moments()
        for chunk in self:
            moments.update(chunk)
        return moments

    def uniform(self) -> Tensor:
        """One uniform random number a pixel, reproducible with a seed."""
        with seeded(derived_seed(self.seed, "ties")):
            return torch.rand(self.truth.shape, dtype=self.truth.dtype, device=self.truth.device)


def axes(ax: Any, figsize: tuple[float, float] = (4.2, 3.6)) -> Any:
    """The axes to draw into: those given, or those of a new figure."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=figsize, layout="constrained")[1]


def draw_map(image: Tensor, ax: Any, *, title: str, label: str, **options: Any) -> Any:
    """Draw a map, bands averaged, with its colour bar; returns the axes."""
    ax = axes(ax, (4.6, 3.9))
    shown = image.detach().float().cpu()
    while shown.dim() > 2:
        shown = shown.mean(0)
    drawn = ax.imshow(shown.numpy(), interpolation="nearest", **options)
    ax.set(xticks=[], yticks=[], title=title)
    ax.figure.colorbar(drawn, ax=ax, label=label, fraction=0.046)
    return ax
