"""A Gaussian seen through a sensor that saturates and quantises."""

import math
from typing import ClassVar, Self

import torch
from pyro.distributions import Normal, TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_vble.distributions._expand import expanded
from pyro_vble.distributions.gaussian_uniform import GaussianUniform

# How close to an end of the range a value counts as that end, in parts of it: numbers that were stored in float32.
_CLOSE = 2e-6
# Part of the Gaussian's variance that is left where saturation leaves almost none: residuals are divided by it.
_LEAST_VARIANCE = 0.01


class SensedNormal(TorchDistribution):
    r"""A Gaussian clipped to a range and rounded to steps, as a sensor does: :math:`y = \eta(v)`, v ~ N(mu, sigma²).

    .. math:: p(y) = \begin{cases}
        \Phi\big(\tfrac{\mathrm{low} - \mu}{\sigma}\big) & y = \mathrm{low} \\
        \tfrac1q \Big[\Phi\big(\tfrac{y + s + q/2 - \mu}{\sigma}\big)
        - \Phi\big(\tfrac{y + s - q/2 - \mu}{\sigma}\big)\Big] & \text{between} \\
        1 - \Phi\big(\tfrac{\mathrm{high} - \mu}{\sigma}\big) & y = \mathrm{high} \end{cases}

    with q the step (without one, the Gaussian's density between) and s how far the middle of what is rounded to y lies
    above y: 0 where the sensor rounds, q/2 where it cuts off. At the ends the limits are those of what is rounded to
    them, (low + s + q/2) and (high + s - q/2). There it is a probability, in between a density.

    References:
        | Estimation of relationships for limited dependent variables (Tobin, 1958)
        | https://www.jstor.org/stable/1907382

    Args:
        loc: Mean of the Gaussian, any shape.
        scale: Its standard deviation.
        low: Smallest value that the sensor returns; -inf if there is none.
        high: Largest value.
        step: Distance of the values it returns; 0 if it returns all.
        shift: s.

    Example:
        >>> import torch
        >>> from pyro_vble.distributions import SensedNormal
        >>> p = SensedNormal(torch.tensor([0.5, 2.0]), torch.tensor(0.1), high=1.0)
        >>> p.log_prob(torch.tensor([0.5, 1.0])).exp()  # a density, and the probability of saturation
        tensor([3.9894, 1.0000])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.real,
        "scale": constraints.positive,
    }
    support: ClassVar[constraints.Constraint] = constraints.real
    has_rsample = False

    def __init__(
        self,
        loc: Tensor,
        scale: Tensor,
        *,
        low: float = -math.inf,
        high: float = math.inf,
        step: float = 0.0,
        shift: float = 0.0,
        validate_args: bool | None = None,
    ) -> None:
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        self.low, self.high, self.step, self.shift = low, high, step, shift
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, batch_shape, _instance=None) -> Self:
        """Return the distribution broadcast to ``batch_shape``."""
        parameters = {"loc": self.loc.expand(batch_shape), "scale": self.scale.expand(batch_shape)}
        sensor = {"low": self.low, "high": self.high, "step": self.step, "shift": self.shift}
        return expanded(self, SensedNormal, _instance, batch_shape, parameters | sensor)

    @property
    def unsensed(self) -> Normal:
        """The Gaussian before the sensor."""
        return Normal(self.loc, self.scale, validate_args=False)

    def sample(self, sample_shape=()) -> Tensor:
        """Draw from the Gaussian, round and clip."""
        value = self.unsensed.sample(sample_shape)
        if self.step:
            value = self._rounded(value)
        return value.clamp(self.low, self.high)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density, at the ends log-probability, in nats."""
        if self.step:
            between = GaussianUniform(self.loc, self.scale, self.step, validate_args=False)
            log_prob = between.log_prob(value + self.shift)
        else:
            log_prob = self.unsensed.log_prob(value)
        lowest, highest = self._limits()
        if math.isfinite(self.low):
            below = torch.special.log_ndtr((lowest - self.loc) / self.scale)
            log_prob = torch.where(value <= self.low + self._tolerance(self.low), below, log_prob)
        if math.isfinite(self.high):
            above = torch.special.log_ndtr((self.loc - highest) / self.scale)
            log_prob = torch.where(value >= self.high - self._tolerance(self.high), above, log_prob)
        return log_prob

    @property
    def mean(self) -> Tensor:
        """The mean of the clipped Gaussian; rounding leaves it, but for the shift."""
        return self.loc + self._clipped_moments()[0] - self.shift

    @property
    def variance(self) -> Tensor:
        """The variance of the clipped Gaussian, with that of rounding; at least a hundredth of the Gaussian's."""
        variance = self._clipped_moments()[1]
        return torch.maximum(variance + self.step**2 / 12, _LEAST_VARIANCE * self.scale**2)

    def _limits(self) -> tuple[float, float]:
        """Beyond which values of the Gaussian the ends are returned."""
        return self.low + self.shift + self.step / 2, self.high + self.shift - self.step / 2

    def _rounded(self, value: Tensor) -> Tensor:
        origin = self.low if math.isfinite(self.low) else (self.high if math.isfinite(self.high) else 0.0)
        return ((value - self.shift - origin) / self.step).round() * self.step + origin

    def _tolerance(self, end: float) -> float:
        return self.step / 4 if self.step else _CLOSE * max(1.0, abs(end))

    def _clipped_moments(self) -> tuple[Tensor, Tensor]:
        """Mean less that of the Gaussian, and variance, of clip(v, low, high) + shift.

        The variance is a sum of what lies beyond the ends and of what lies between them, about the mean: a difference
        of second moments would be lost in rounding.
        """
        told = [(self.low, 1.0), (self.high, -1.0)]
        ends = [(end + self.shift - self.loc, sign) for end, sign in told if math.isfinite(end)]
        gaps = [(gap, torch.special.ndtr(sign * gap / self.scale)) for gap, sign in ends]
        density = torch.zeros_like(self.loc)  # φ at the lower end less φ at the upper, and t φ(t) likewise
        first = torch.zeros_like(self.loc)
        for gap, sign in ends:
            t = gap / self.scale
            phi = sign * torch.exp(-0.5 * t**2) / math.sqrt(2 * math.pi)
            density, first = density + phi, first + t * phi
        mean = self.scale * density + sum(gap * beyond for gap, beyond in gaps)
        between = self._between()
        variance = self.scale**2 * (between + first) - 2 * self.scale * mean * density + mean**2 * between
        return mean, variance + sum((gap - mean) ** 2 * beyond for gap, beyond in gaps)

    def _between(self) -> Tensor:
        """The probability between the ends, from the tail that is the smaller."""
        low, high = ((end + self.shift - self.loc) / self.scale for end in (self.low, self.high))
        right = torch.special.ndtr(-low) - torch.special.ndtr(-high)
        return torch.where(low > 0, right, torch.special.ndtr(high) - torch.special.ndtr(low))
