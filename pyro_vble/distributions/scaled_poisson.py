"""Photon counts expressed in image units."""

from typing import ClassVar, Self

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all

from pyro_vble.distributions._expand import expanded


class ScaledPoisson(TorchDistribution):
    r"""A Poisson count times a gain: y = gain · Poisson(rate / gain), so that E[y] = rate.

    .. math:: \log p(y) = k \log\tfrac{r}{g} - \tfrac{r}{g} - \log\Gamma(k + 1), \qquad k = y / g

    Real-valued k is accepted: a measurement divided by its gain is an integer only up to rounding.

    Args:
        rate: Expected value r >= 0 in the units of y, any shape.
        gain: Units of y per count, g > 0.
        validate_args: Whether arguments are checked.

    Raises:
        ValueError: If validation is on and a rate is negative or a gain is not positive.

    Example:
        >>> import torch
        >>> from pyro_vble.distributions import ScaledPoisson
        >>> ScaledPoisson(torch.tensor(0.5), torch.tensor(0.25)).log_prob(torch.tensor(0.5)).exp()
        tensor(0.2707)
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "rate": constraints.nonnegative,
        "gain": constraints.positive,
    }
    support: ClassVar[constraints.Constraint] = constraints.nonnegative

    def __init__(self, rate: Tensor, gain: Tensor | float, *, validate_args: bool | None = None) -> None:
        self.rate, self.gain = broadcast_all(rate, gain)
        super().__init__(self.rate.shape, validate_args=validate_args)

    def expand(self, batch_shape, _instance=None) -> Self:
        """Return the distribution broadcast to ``batch_shape``."""
        parameters = {"rate": self.rate.expand(batch_shape), "gain": self.gain.expand(batch_shape)}
        return expanded(self, ScaledPoisson, _instance, batch_shape, parameters)

    @property
    def mean(self) -> Tensor:
        """The mean, rate."""
        return self.rate

    @property
    def variance(self) -> Tensor:
        """The variance, gain · rate."""
        return self.rate * self.gain

    def sample(self, sample_shape=()) -> Tensor:
        """Draw gain · Poisson(rate / gain)."""
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            return torch.poisson((self.rate / self.gain).expand(shape)) * self.gain

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of ``value``, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        count, intensity = value / self.gain, self.rate / self.gain
        # A zero rate explains a zero count: xlogy is 0 there, where 0 · log 0 would be NaN.
        return (
            torch.xlogy(count, intensity.clamp_min(torch.finfo(value.dtype).tiny)) - intensity - torch.lgamma(count + 1)
        )
