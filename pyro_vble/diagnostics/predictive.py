"""Does the posterior explain its measurement?"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vble.diagnostics._source import draw_map
from pyro_vble.physics import observed_mask
from pyro_vble.posterior import Posterior


@dataclass(frozen=True)
class PredictiveCheck:
    """Residuals of a measurement, in units of the noise, beside those of measurements replicated from the posterior.

    Attributes:
        discrepancy: Mean squared residual of y for each posterior draw, (n, B).
        replicated: The same of one measurement simulated from each draw, (n, B): near 1 by construction.
        residual: Mean residual of every value of y over the draws, (B, ...); NaN where nothing was observed.
    """

    discrepancy: Tensor
    replicated: Tensor
    residual: Tensor

    @property
    def ratio(self) -> Tensor:
        """Root mean square of what is left of each measurement over that of the noise, (B,): 1 is right."""
        return (self.discrepancy.mean(0) / self.replicated.mean(0)).sqrt()

    @property
    def p_value(self) -> Tensor:
        """Share of the draws whose replicated measurement is further off than the real one, (B,)."""
        return (self.replicated >= self.discrepancy).float().mean(0)


def predictive_check(posterior: Posterior, *, num_samples: int = 100, seed: int | None = None) -> PredictiveCheck:
    r"""Compare a measurement with what its own posterior would measure: no truth is needed.

    .. math:: T(y, x) = \operatorname{mean}_i \frac{(y_i - E[y_i|x])^2}{\operatorname{var}[y_i|x]}, \qquad
        x \sim q(x|y), \qquad p = P\big(T(y', x) \ge T(y, x)\big), \quad y' \sim p(y'|x)

    A blur or noise level that is not the measurement's, a value that is no measurement, or a fit that has not
    converged leaves residuals larger than the noise; a noise level that is too high, smaller ones. With as many values
    as an image has, p is 0 or 1 for deviations far too small to matter: ``ratio`` tells how large they are, and
    structure in ``residual`` where they lie.

    References:
        | Posterior predictive assessment of model fitness via realized discrepancies (Gelman, Meng and Stern, 1996),
          section 2
        | https://www.jstor.org/stable/24306036

    Args:
        posterior: A posterior whose operator is known.
        num_samples: Number of draws.
        seed: Seed of the draws; that of the posterior by default.

    Raises:
        ValueError: If the model has no operator, as after loading without one.

    Example:
        >>> import torch, deepinv
        >>> import pyro_vble as pv
        >>> from pyro_vble.diagnostics import predictive_check
        >>> physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))
        >>> y = 0.5 + 0.2 * torch.randn(1, 3, 64, 64)  # twice the noise that the operator tells of
        >>> posterior = pv.restore(y, physics, "cae-bsd", seed=0, num_steps=30, progress=False)
        >>> bool(predictive_check(posterior, num_samples=20).ratio > 1.5)
        True
    """
    chunks = posterior._chunked(num_samples, posterior._lasting_seed(seed), _residuals)
    real, replicated, sums = zip(*chunks, strict=True)
    observed = observed_mask(posterior.model.physics, posterior.y)
    residual = torch.where(observed, sum(sums) / num_samples, torch.nan)
    return PredictiveCheck(*map(posterior._out, (torch.cat(real), torch.cat(replicated), residual)))


def plot_residual(check: PredictiveCheck, image: int = 0, *, ax: Any = None, limit: float = 4.0) -> Any:
    """Draw the residual of one measurement (an image), bands averaged; returns the axes."""
    title = f"Residual, {float(check.ratio[image]):.2f} times the noise"
    label = "residual / standard deviation of the noise"
    return draw_map(check.residual[image], ax, title=title, label=label, cmap="RdBu_r", vmin=-limit, vmax=limit)


@torch.no_grad()
def _residuals(fit: Posterior, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean squared residuals (n, B) of the measurement and of replications, and the former's sum over the draws."""
    y = fit.y
    p_y = fit._replayed(fit.model.measurement, n)[0].expand((n, *y.shape))
    observed = observed_mask(fit.model.physics, y).expand(p_y.batch_shape)
    mean, std = p_y.mean, p_y.variance.sqrt()
    residual, noise = (torch.where(observed, (value - mean) / std, 0.0) for value in (y, p_y.sample()))
    count = observed.flatten(2).sum(2)
    squares = [value.square().flatten(2).sum(2) / count for value in (residual, noise)]
    return *squares, residual.sum(0)
