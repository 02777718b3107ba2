"""Do pixels with wider error bars have larger errors?"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pyro_vble._arguments import Count, CountOrZero, Seed, checked
from pyro_vble._tensors import RealTensor
from pyro_vble.diagnostics._source import SamplesLike, Source, axes
from pyro_vble.metrics import BORDER, inner


@dataclass(frozen=True)
class ErrorByStd:
    """Root mean squares by group of pixels of like predicted standard deviation.

    Attributes:
        std: Predicted standard deviation.
        error: Error of MMSE-x.
    """

    std: np.ndarray
    error: np.ndarray

    @property
    def ratio(self) -> np.ndarray:
        """Mean squared error over mean predicted variance: 1 is right, more is overconfident."""
        return (self.error / self.std) ** 2


@checked
def error_by_std(
    samples: SamplesLike,
    truth: RealTensor,
    *,
    bins: Count = 10,
    num_samples: Count = 100,
    seed: Seed | None = None,
    border: CountOrZero = BORDER,
) -> ErrorByStd:
    r"""Error against predicted standard deviation, by its deciles.

    .. math:: \sqrt{\mathrm{mean}_{i \in G}\,(x_i - E[x_i|y])^2} \quad\text{against}\quad
        \sqrt{\mathrm{mean}_{i \in G}\,\mathrm{var}[x_i|y]}

    Args:
        samples: A posterior, or samples (n, B, C, H, W).
        truth: The true image (B, C, H, W); NaN where it is unknown, which is left out.
        bins: Number of groups, each of as many pixels; 10 for deciles.
        num_samples: How many samples to draw from a posterior.
        seed: Seed of the samples.
        border: Pixels left out at the border.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If the truth has another shape or fewer known values than there are groups, or a sample is not
            finite.

    Example:
        >>> import torch
        >>> from pyro_vble.diagnostics import error_by_std
        >>> std = torch.linspace(0.1, 2.0, 3600).reshape(1, 1, 60, 60)
        >>> found = error_by_std(std * torch.randn(400, 1, 1, 60, 60), std * torch.randn(1, 1, 60, 60), bins=4)
        >>> bool((abs(found.ratio - 1) < 0.3).all())
        True
    """
    source = Source(samples, truth, num_samples, seed)
    moments = source.moments()
    std = inner(moments.std, border).flatten()
    error = inner(source.truth - moments.mean, border).flatten()
    known = torch.isfinite(error)
    std, error = std[known], error[known]
    if len(error) < bins:
        raise ValueError(f"bins must be no more than the {len(error)} known values; received {bins}.")
    groups = std.argsort().tensor_split(bins)
    root_mean_squares = [[float(v[group].square().mean().sqrt()) for group in groups] for v in (std, error)]
    return ErrorByStd(*map(np.array, root_mean_squares))


@checked
def plot_error_by_std(found: ErrorByStd, *, ax: Any = None, label: str | None = None) -> Any:
    """Draw error against predicted standard deviation; returns the axes."""
    ax = axes(ax)
    top = 1.05 * max(found.std.max(), found.error.max())
    ax.plot([0, top], [0, top], color="0.4", linewidth=1)
    ax.plot(found.std, found.error, marker="o", markersize=4, label=label)
    ax.set(xlim=(0, top), ylim=(0, top), aspect="equal")
    ax.set(xlabel="predicted standard deviation (image in [0, 1])", ylabel="error (rms, image in [0, 1])")
    ax.set_title(f"Error by predicted size, {len(found.std)} groups")
    if label:
        ax.legend(frameon=False)
    return ax
