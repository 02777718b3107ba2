"""Coverage: how many pixels the intervals hold, at every level."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats
from torch import Tensor

from pyro_vble.diagnostics._source import BORDER, Samples, axes, inner
from pyro_vble.diagnostics.pit import num_independent, pit

_LEVELS = (*(round(0.05 * k, 2) for k in range(1, 20)), 0.99)


@dataclass(frozen=True)
class CoverageCurve:
    """Nominal against observed coverage of central intervals.

    Attributes:
        nominal: Probability of the intervals.
        observed: Share of the pixels inside.
        low, high: Band that holds the observed coverage with the probability asked for, if calibrated.
        num_pixels: Number of pixels.
        num_independent: Number of pixels that the band takes as independent.
    """

    nominal: np.ndarray
    observed: np.ndarray
    low: np.ndarray
    high: np.ndarray
    num_pixels: int
    num_independent: int

    def at(self, nominal: float) -> float:
        """Observed coverage at a nominal one, linearly interpolated."""
        return float(np.interp(nominal, [0, *self.nominal, 1], [0, *self.observed, 1]))


def coverage_curve(
    samples: Samples,
    truth: Tensor,
    *,
    levels: Sequence[float] = _LEVELS,
    num_samples: int = 100,
    seed: int | None = None,
    border: int = BORDER,
    spacing: int = 8,
    probability: float = 0.95,
) -> CoverageCurve:
    r"""The share of pixels whose truth lies in the central interval of every level.

    .. math:: c(p) = \frac 1N \#\{i : |u_i - \tfrac12| \le \tfrac p2\}

    with u the probability integral transform (:func:`pit`), which makes c(p) = p for a calibrated posterior whatever
    the number of samples. The band is binomial, for as many independent pixels as a lattice of ``spacing`` pixels has:
    neighbouring errors go together.

    Args:
        samples: A posterior, or samples (n, B, C, H, W).
        truth: The true image (B, C, H, W).
        levels: Nominal probabilities.
        num_samples: How many samples to draw from a posterior.
        seed: Seed.
        border: Pixels left out at the border.
        spacing: Distance in pixels beyond which errors are taken as independent.
        probability: Probability of the band, level by level.

    Raises:
        ValueError: If a level is no probability, or the truth has another shape.

    Example:
        >>> import torch
        >>> from pyro_vble.diagnostics import coverage_curve
        >>> calibrated = torch.randn(99, 1, 1, 99, 99)
        >>> curve = coverage_curve(calibrated, torch.randn(1, 1, 99, 99), levels=[0.5, 0.9], seed=0)
        >>> bool(abs(curve.at(0.9) - 0.9) < 0.02)
        True
    """
    nominal = np.asarray(levels, dtype=float)
    if not ((nominal >= 0) & (nominal <= 1)).all():
        raise ValueError(f"levels must be probabilities in [0, 1]; received {list(levels)}.")
    u = inner(pit(samples, truth, num_samples=num_samples, seed=seed), border)
    distance = (u - 0.5).abs().cpu().numpy().ravel()
    observed = np.array([(distance <= p / 2).mean() for p in nominal])
    independent = num_independent(u, spacing)
    tail = (1 - probability) / 2
    low, high = (stats.binom.ppf(q, independent, nominal) / independent for q in (tail, 1 - tail))
    return CoverageCurve(nominal, observed, low, high, u.numel(), independent)


def plot_coverage(curves: CoverageCurve | Mapping[str, CoverageCurve], *, ax: Any = None) -> Any:
    """Draw one curve, or several by name, against the diagonal; returns the axes."""
    ax = axes(ax)
    curves = {"posterior": curves} if isinstance(curves, CoverageCurve) else dict(curves)
    first = next(iter(curves.values()))
    ax.fill_between(first.nominal, first.low, first.high, color="0.85", linewidth=0, label="calibrated, 95 %")
    ax.plot([0, 1], [0, 1], color="0.4", linewidth=1)
    for name, curve in curves.items():
        ax.plot(curve.nominal, curve.observed, marker=".", label=name)
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="nominal coverage", ylabel="observed coverage")
    ax.set_title("Coverage of central intervals")
    ax.legend(frameon=False)
    return ax
