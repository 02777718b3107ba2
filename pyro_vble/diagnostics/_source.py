"""Where samples come from: a posterior, or a tensor of samples from anywhere."""

from collections.abc import Iterator
from typing import Annotated, Any

import torch
from torch import Tensor

from pyro_vble._arguments import BrokenRuleError, Rule
from pyro_vble._streaming import Moments, joined
from pyro_vble._tensors import real_tensor
from pyro_vble.samples import Fitted, Samples, StoredSamples
from pyro_vble.seeding import derived_seed, seeded


def _fitted(value: Any) -> Fitted:
    if not isinstance(value, Fitted):
        raise BrokenRuleError("type")
    return value


def samples_of(value: Any) -> Samples:
    """A posterior itself, or a tensor of samples as one."""
    if isinstance(value, Samples):
        return value
    if real_tensor(value).dim() < 2:
        raise BrokenRuleError("value")
    return StoredSamples(value)


OnePosterior = Annotated[Fitted, Rule("a posterior, as restore returns it", _fitted)]
#: A posterior, or samples (n, B, C, H, W).
SamplesLike = Annotated[
    Samples | Tensor,
    Rule("a posterior, or a tensor of samples (n, B, C, H, W) of floating-point numbers", samples_of),
]


class Source:
    """Samples to be gone through in chunks, as often as needed, always the same.

    Args:
        samples: The samples.
        truth: The true image (B, C, H, W).
        num_samples: How many to draw from a posterior; all of those that are stored are used.
        seed: Seed of the draws.

    Raises:
        ValueError: If samples and truth do not belong to the same images, or no value of the truth is known.
    """

    def __init__(self, samples: Samples | Tensor, truth: Tensor, num_samples: int, seed: int | None = None) -> None:
        samples = samples_of(samples)
        self.samples, self.seed = samples, samples.lasting_seed(seed) if samples.stored is None else seed
        self.num_samples, shape = samples.stored or num_samples, samples.shape
        if tuple(truth.shape) != tuple(shape):
            raise ValueError(f"truth must have the shape of one sample, {tuple(shape)}; received {tuple(truth.shape)}.")
        if not bool(truth.isfinite().any()):
            raise ValueError("truth must have a known value; received one of NaN alone.")
        self.truth = truth.to(samples.output_device)

    def __iter__(self) -> Iterator[Tensor]:
        """The samples, in chunks (n, B, C, H, W).

        Raises:
            ValueError: If one is not finite.
        """
        for chunk in self.samples.chunks(self.num_samples, seed=self.seed):
            if not bool(chunk.isfinite().all()):
                raise ValueError(
                    "samples must be finite; received NaN or infinite ones; NaN may be in the truth alone."
                )
            yield chunk.to(self.samples.output_device)

    def check_stored(self) -> None:
        """Look at stored samples, which may be anything, for a statistic that does not go through this source."""
        if self.samples.stored is not None:
            for _ in self:
                pass

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
    """Draw a map, bands averaged, with its colour bar; returns the axes.

    Raises:
        ValueError: If it is a batch, or no map.
    """
    if not 2 <= image.dim() <= 3:
        raise ValueError(
            f"A map is drawn of one image, (C, H, W) or (H, W); received shape {tuple(image.shape)}; take one of a "
            "batch: score[0]."
        )
    ax = axes(ax, (4.6, 3.9))
    shown = image.detach().float().cpu()
    shown = shown if shown.dim() == 2 else shown.mean(0)
    drawn = ax.imshow(shown.numpy(), interpolation="nearest", **options)
    ax.set(xticks=[], yticks=[], title=title)
    ax.figure.colorbar(drawn, ax=ax, label=label, fraction=0.046)
    return ax
