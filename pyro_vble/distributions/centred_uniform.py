"""The uniform distribution in location-width form."""

from typing import ClassVar, Self

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all

from pyro_vble.distributions._expand import expanded


class CentredUniform(TorchDistribution):
    r"""The uniform distribution U(loc ± width/2), the family of a compressive autoencoder's own encoder.

    .. math:: q(v) = 1/a \quad\text{for } |v - \bar v| \le a/2

    It differs from ``torch.distributions.Uniform(low, high)`` in its support test, which forgives rounding: a
    reparameterised draw next to the border of a narrow interval far from zero must not get log-density
    :math:`-\infty` because ``loc + width * u`` was rounded outwards.

    Args:
        loc: Centre :math:`\bar v`, any shape.
        width: Full width a > 0.
        validate_args: Whether arguments are checked.

    Raises:
        ValueError: If validation is on and a width is not positive.

    Example:
        >>> import torch
        >>> from pyro_vble.distributions import CentredUniform
        >>> CentredUniform(torch.tensor(100.0), torch.tensor(0.5)).log_prob(torch.tensor([100.2, 100.3]))
        tensor([0.6931,   -inf])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.real,
        "width": constraints.positive,
    }
    support: ClassVar[constraints.Constraint] = constraints.real
    has_rsample = True

    def __init__(self, loc: Tensor, width: Tensor, *, validate_args: bool | None = None) -> None:
        self.loc, self.width = broadcast_all(loc, width)
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, batch_shape, _instance=None) -> Self:
        """Return the distribution broadcast to ``batch_shape``."""
        parameters = {"loc": self.loc.expand(batch_shape), "width": self.width.expand(batch_shape)}
        return expanded(self, CentredUniform, _instance, batch_shape, parameters)

    @property
    def mean(self) -> Tensor:
        """The mean, loc."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """The variance, a^2 / 12."""
        return self.width**2 / 12

    def rsample(self, sample_shape=()) -> Tensor:
        """Draw loc + a u with u uniform on (-1/2, 1/2)."""
        shape = self._extended_shape(torch.Size(sample_shape))
        return self.loc + self.width * (torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device) - 0.5)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density at ``value``, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        rounding = 4 * torch.finfo(self.loc.dtype).eps * (self.loc.abs() + self.width)
        inside = (value - self.loc).abs() <= self.width / 2 + rounding
        return torch.where(inside, -self.width.log(), -torch.inf)

    def cdf(self, value: Tensor) -> Tensor:
        """Cumulative distribution function."""
        return ((value - self.loc) / self.width + 0.5).clamp(0, 1)

    def icdf(self, value: Tensor) -> Tensor:
        """Quantile function."""
        return self.loc + self.width * (value - 0.5)
