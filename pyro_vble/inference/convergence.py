"""Whether a fit has come to rest: its ELBO, and the centres of its guide."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pyro_vble.guides.abilities import centres
from pyro_vble.inference.settings import FitSettings

# How far centres may still travel between two looks, in their own standard deviations: of the posterior's variance that
# is a tenth of a percent.
_AT_REST = 0.03


def has_settled(trace: Sequence[float], looked_at: int, settings: FitSettings, num_values: int) -> bool:
    """Whether the ELBO, smoothed over a window, has surely stopped growing.

    The window is the last quarter of the trace, so that it averages the more noise away the longer the fit takes; sure
    means two standard errors.

    Args:
        trace: ELBOs.
        looked_at: How many there were at the last look: this one judges only if a window has passed since then.
        settings: Settings of the fit.
        num_values: Number of measured values.
    """
    step, window = len(trace), max(settings.window, len(trace) // 4)
    if settings.tolerance is None or step < 2 * window or step // settings.window == looked_at // settings.window:
        return False
    last, before = torch.tensor(trace[-2 * window :], dtype=torch.float64).reshape(2, window).flip(0)
    error = ((last.var() + before.var()) / window).sqrt()
    return float(last.mean() - before.mean() + 2 * error) < settings.tolerance * num_values


class Travel:
    r"""How far the centres of a guide have travelled between looks, beside the noise that they move about with.

    .. math:: t^2 = \mathrm{mean}_k \frac{(c^3_k - c^2_k)(c^1_k - c^0_k)}{a_k^2}

    for four looks at the centres c, of standard deviations a. A journey goes on in one direction; noise about a place
    has no correlation between the two legs, and cancels in the mean over thousands of latents.

    Args:
        guide: The guide; one that tells no centres is never at rest.
    """

    def __init__(self, guide: Callable) -> None:
        self._guide = guide
        self._looks: list[list[Tensor]] = []

    def look(self) -> float:
        """Look at the centres; returns t of the image and site that travelled furthest, infinite before four looks."""
        with torch.no_grad():
            told = centres(self._guide)
            if not told:
                return float("inf")
            self._looks = [*self._looks[-3:], [loc.clone() for loc, _ in told]]
            if len(self._looks) < 4:
                return float("inf")
            furthest = [
                ((d - c) * (b - a) / std.square()).flatten(1).mean(1).max()
                for a, b, c, d, (_, std) in zip(*self._looks, told, strict=True)
            ]
            return float(torch.stack(furthest).max().clamp_min(0).sqrt())

    def is_over(self) -> bool:
        """Look, and say whether they have come to rest."""
        return self.look() < _AT_REST
