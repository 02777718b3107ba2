"""Probability integral transform: where the truth falls among the samples."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from pyro_vble._arguments import Count, CountOrZero, Seed, checked
from pyro_vble._tensors import OpenProbability, RealTensor
from pyro_vble.diagnostics._source import SamplesLike, Source, axes
from pyro_vble.metrics import BORDER, inner


@checked
def pit(samples: SamplesLike, truth: RealTensor, *, num_samples: Count = 100, seed: Seed | None = None) -> Tensor:
    r"""The randomised probability integral transform of every pixel, (B, C, H, W) in (0, 1).

    .. math:: u_i = \frac{\#\{j : x_i^{(j)} < x_i\} + v_i (1 + \#\{j : x_i^{(j)} = x_i\})}{n + 1},
        \qquad v_i \sim \mathcal U(0, 1)

    If truth and samples come from the same distribution, u is uniform, whatever the number of samples. Where the truth
    is NaN, so is u. It is of the samples: a calibration of intervals does not change it.

    References:
        | Probabilistic forecasts, calibration and sharpness (Gneiting et al., 2007)
        | https://doi.org/10.1111/j.1467-9868.2007.00587.x

    Args:
        samples: A posterior, or samples (n, B, C, H, W).
        truth: The true image (B, C, H, W).
        num_samples: How many samples to draw from a posterior; their memory does not grow with their number.
        seed: Seed of samples and v; that of the posterior by default.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If the truth has another shape or no known value, or a sample is not finite.

    Example:
        >>> import torch
        >>> from pyro_vble.diagnostics import pit
        >>> u = pit(torch.randn(99, 1, 1, 50, 50), torch.randn(1, 1, 50, 50), seed=0)
        >>> bool((u > 0).all() and (u < 1).all())
        True
    """
    source = Source(samples, truth, num_samples, seed)
    truth, below, equal = source.truth, 0, 0
    for chunk in source:
        below = below + (chunk < truth).sum(0)
        equal = equal + (chunk == truth).sum(0)
    u = (below + source.uniform() * (1 + equal)) / (source.num_samples + 1)
    return torch.where(torch.isfinite(truth), u, torch.nan)


@dataclass(frozen=True)
class PITHistogram:
    """A histogram of the probability integral transform; flat is calibrated.

    Attributes:
        edges: Edges of the bins.
        density: Share of the pixels over width of the bin: 1 if calibrated.
        band: Lower and upper end of the band that holds the density of a bin with ``probability``, if calibrated.
        probability: That of the band.
        num_pixels: Number of values with a truth.
        num_independent: How many of them the band takes as independent.
    """

    edges: np.ndarray
    density: np.ndarray
    band: tuple[float, float]
    probability: float
    num_pixels: int
    num_independent: int


@checked
def pit_histogram(
    samples: SamplesLike,
    truth: RealTensor,
    *,
    bins: Count = 20,
    num_samples: Count = 100,
    seed: Seed | None = None,
    border: CountOrZero = BORDER,
    spacing: Count = 8,
    probability: OpenProbability = 0.95,
) -> PITHistogram:
    """The histogram of :func:`pit`: U-shaped where intervals are too narrow, a hump where they are too wide.

    The band is binomial, for as many independent pixels as a lattice of ``spacing`` pixels has: errors of neighbours,
    and of the bands of a pixel, go together.

    Args:
        samples: A posterior, or samples (n, B, C, H, W).
        truth: The true image (B, C, H, W).
        bins: Number of bins.
        num_samples: How many samples to draw from a posterior.
        seed: Seed.
        border: Pixels left out at the border.
        spacing: Distance in pixels beyond which errors are taken as independent.
        probability: Probability of the band, bin by bin.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If the truth has another shape or no known value inside its border, or a sample is not finite.

    Example:
        >>> import torch
        >>> from pyro_vble.diagnostics import pit_histogram
        >>> too_narrow = 0.5 * torch.randn(99, 1, 1, 99, 99)
        >>> histogram = pit_histogram(too_narrow, torch.randn(1, 1, 99, 99), bins=10, seed=0)
        >>> bool(histogram.density[0] > 2 > 1 > histogram.density[5])
        True
    """
    u = inner(pit(samples, truth, num_samples=num_samples, seed=seed), border)
    independent = num_independent(u, spacing)
    u = known_values(u)
    counts, edges = np.histogram(u, bins=bins, range=(0, 1))
    tail = (1 - probability) / 2
    low, high = stats.binom.ppf([tail, 1 - tail], independent, 1 / bins) / independent * bins
    return PITHistogram(edges, counts / u.size * bins, (float(low), float(high)), probability, u.size, independent)


@checked
def plot_pit_histogram(histogram: PITHistogram, *, ax: Any = None, label: str | None = None) -> Any:
    """Draw it with its band; returns the axes."""
    ax = axes(ax)
    ax.axhspan(*histogram.band, color="0.85", label=f"calibrated, {histogram.probability:.0%}")
    ax.axhline(1, color="0.4", linewidth=1)
    ax.stairs(histogram.density, histogram.edges, fill=True, alpha=0.7, label=label)
    ax.set(xlim=(0, 1), ylim=(0, None), xlabel="probability integral transform", ylabel="density")
    ax.set_title("PIT: the truth among the samples")
    ax.legend(frameon=False)
    return ax


def num_independent(image: Tensor, spacing: int) -> int:
    """Number of values with a truth (NaN elsewhere) that are taken as independent: a lattice's, one of all bands."""
    bands = image.shape[-3] if image.dim() >= 3 else 1
    return max(1, int(torch.isfinite(image).sum()) // (bands * spacing**2))


def known_values(values: Tensor) -> np.ndarray:
    """Those of the values that are finite, which are those with a truth.

    Raises:
        ValueError: If there is none.
    """
    known = values[torch.isfinite(values)].cpu().numpy()
    if not known.size:
        raise ValueError("truth must have a known value inside its border; received one of NaN alone there.")
    return known
