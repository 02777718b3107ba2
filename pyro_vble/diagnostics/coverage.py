"""Coverage: how many pixels the intervals hold, at every level."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from pyro_vble._arguments import BrokenRuleError, Count, CountOrZero, Probability, Rule, Seed, brief, checked, real
from pyro_vble._tensors import OpenProbability, RealTensor
from pyro_vble.diagnostics._source import SamplesLike, Source, axes, samples_of
from pyro_vble.diagnostics.pit import known_values, num_independent, pit
from pyro_vble.metrics import BORDER, inner
from pyro_vble.samples import Samples

_LEVELS = (*(round(0.05 * k, 2) for k in range(1, 20)), 0.99)


def _probabilities(value: Any) -> list[float]:
    if not isinstance(value, list | tuple | range | np.ndarray) or getattr(value, "ndim", 1) != 1:
        raise BrokenRuleError("type")
    levels = sorted(map(real, value))
    if not levels or not all(0 <= level <= 1 for level in levels):
        raise BrokenRuleError("value")
    return levels


Levels = Annotated[
    Sequence[float], Rule("a list of probabilities in [0, 1], at least one", _probabilities, "write 90 % as 0.9")
]


@dataclass(frozen=True)
class CoverageCurve:
    """Nominal against observed coverage of central intervals.

    Attributes:
        nominal: Probability of the intervals.
        observed: Share of the pixels inside.
        low, high: Band that holds the observed coverage with ``probability``, if calibrated.
        probability: That of the band.
        num_pixels: Number of values with a truth.
        num_independent: How many of them the band takes as independent.
    """

    nominal: np.ndarray
    observed: np.ndarray
    low: np.ndarray
    high: np.ndarray
    probability: float
    num_pixels: int
    num_independent: int

    @checked
    def at(self, nominal: Probability) -> float:
        """Observed coverage at a nominal one, linearly interpolated."""
        return float(np.interp(nominal, [0, *self.nominal, 1], [0, *self.observed, 1]))


@checked
def coverage_curve(
    samples: SamplesLike,
    truth: RealTensor,
    *,
    levels: Levels = _LEVELS,
    num_samples: Count = 100,
    seed: Seed | None = None,
    border: CountOrZero = BORDER,
    spacing: Count = 8,
    probability: OpenProbability = 0.95,
) -> CoverageCurve:
    r"""The share of pixels whose truth lies in the central interval of every level.

    .. math:: c(p) = \frac 1N \#\{i : |u_i - \tfrac12| \le \tfrac p2\}

    with u the probability integral transform (:func:`pit`), which makes c(p) = p for a calibrated posterior whatever
    the number of samples; of a posterior with a calibration, the calibrated intervals', at the levels that its scores
    can tell. The band is binomial, for as many independent pixels as a lattice of ``spacing`` pixels has: errors of
    neighbours, and of the bands of a pixel, go together.

    Args:
        samples: A posterior, or samples (n, B, C, H, W).
        truth: The true image (B, C, H, W); NaN where it is unknown, which is left out.
        levels: Nominal probabilities.
        num_samples: How many samples to draw from a posterior.
        seed: Seed.
        border: Pixels left out at the border.
        spacing: Distance in pixels beyond which errors are taken as independent.
        probability: Probability of the band, level by level.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If a level is no probability, the truth has another shape or no known value inside its border, a
            sample is not finite, or the calibration can tell none of the levels.

    Example:
        >>> import torch
        >>> from pyro_vble.diagnostics import coverage_curve
        >>> calibrated = torch.randn(99, 1, 1, 99, 99)
        >>> curve = coverage_curve(calibrated, torch.randn(1, 1, 99, 99), levels=[0.5, 0.9], seed=0)
        >>> bool(abs(curve.at(0.9) - 0.9) < 0.02)
        True
    """
    samples, nominal = samples_of(samples), np.array(levels, dtype=float)
    if samples.calibration is not None:
        nominal = nominal[nominal <= _highest_level(samples.calibration)]
        if not nominal.size:
            raise ValueError(
                f"levels must have one that the calibration can tell, at most "
                f"{_highest_level(samples.calibration):.3f}; received {levels}; calibrate on more pixels."
            )
        level = _calibrated_levels(samples, truth, nominal, num_samples, seed)
    else:
        level = 2 * (pit(samples, truth, num_samples=num_samples, seed=seed) - 0.5).abs()
    level = inner(level, border)
    independent = num_independent(level, spacing)
    level = known_values(level)
    observed = np.array([(level <= p).mean() for p in nominal])
    tail = (1 - probability) / 2
    low, high = (stats.binom.ppf(q, independent, nominal) / independent for q in (tail, 1 - tail))
    return CoverageCurve(nominal, observed, low, high, probability, level.size, independent)


def _highest_level(calibration: Any) -> float:
    """The largest probability whose interval so many scores can tell; they need not tell of 1."""
    fewest = min(map(len, calibration.scores))
    return fewest / (fewest + 1)


def _calibrated_levels(
    posterior: Samples, truth: Tensor, nominal: np.ndarray, num_samples: int, seed: int | None
) -> Tensor:
    """The smallest of the nominal levels whose interval holds the pixel; 1 if none does."""
    source = Source(posterior, truth, num_samples, seed)
    moments, truth = source.moments(), source.truth
    error = (truth - moments.mean).abs()
    level = torch.where(torch.isfinite(truth), 1.0, torch.nan)
    for p in nominal[::-1]:
        if p > 0:
            inside = error <= posterior.calibration.half_width(moments.std, float(p))
            level = torch.where(inside, float(p), level)
    return level


@checked
def plot_coverage(curves: CoverageCurve | Mapping[str, CoverageCurve], *, ax: Any = None) -> Any:
    """Draw one curve, or several by name, against the diagonal; returns the axes."""
    ax = axes(ax)
    curves = {"posterior": curves} if isinstance(curves, CoverageCurve) else dict(curves)
    if not curves or not all(isinstance(curve, CoverageCurve) for curve in curves.values()):
        raise ValueError(f"curves must be one or more of coverage_curve; received {brief(curves)}.")
    first = next(iter(curves.values()))
    ax.fill_between(
        first.nominal, first.low, first.high, color="0.85", linewidth=0, label=f"calibrated, {first.probability:.0%}"
    )
    ax.plot([0, 1], [0, 1], color="0.4", linewidth=1)
    for name, curve in curves.items():
        ax.plot(curve.nominal, curve.observed, marker=".", label=name)
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="nominal coverage", ylabel="observed coverage")
    ax.set_title("Coverage of central intervals")
    ax.legend(frameon=False)
    return ax
