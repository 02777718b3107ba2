"""The convolution of a Gaussian with a uniform distribution."""

import math
from typing import ClassVar, Self

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all

from pyro_vble.distributions._expand import expanded
from pyro_vble.distributions._numerics import log_ndtr_difference


class GaussianUniform(TorchDistribution):
    r"""A Gaussian convolved with a centred uniform distribution, the latent prior of hyperprior networks.

    .. math:: \mathcal N(\mu, \sigma^2) * \mathcal U(-w/2, w/2)\,(v)
        = \tfrac1w \Big[\Phi\big(\tfrac{v - \mu + w/2}{\sigma}\big) - \Phi\big(\tfrac{v - \mu - w/2}{\sigma}\big)\Big]

    The density is evaluated in log space, so that it keeps a gradient however far out v lies.

    References:
        | Variational image compression with a scale hyperprior (Ballé et al., 2018), appendix 6.2
        | https://arxiv.org/abs/1802.01436

    Args:
        loc: Mean :math:`\mu`, any shape.
        scale: Standard deviation :math:`\sigma > 0` of the Gaussian.
        width: Full width w > 0 of the uniform distribution.
        validate_args: Whether arguments are checked.

    Raises:
        ValueError: If validation is on and a scale or width is not positive.

    Example:
        >>> import torch
        >>> from pyro_vble.distributions import GaussianUniform
        >>> q = GaussianUniform(torch.zeros(3), torch.ones(3))
        >>> q.log_prob(torch.tensor([0.0, 1.0, 50.0]))
        tensor([-9.5992e-01, -1.4199e+00, -1.2299e+03])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.real,
        "scale": constraints.positive,
        "width": constraints.positive,
    }
    support: ClassVar[constraints.Constraint] = constraints.real
    has_rsample = True

    def __init__(
        self, loc: Tensor, scale: Tensor, width: Tensor | float = 1.0, *, validate_args: bool | None = None
    ) -> None:
        if not isinstance(width, Tensor):
            width = scale.new_full((), width)  # filled where it is: `broadcast_all` would copy it there
        self.loc, self.scale, self.width = broadcast_all(loc, scale, width)
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, batch_shape, _instance=None) -> Self:
        """Return the distribution broadcast to ``batch_shape``."""
        parameters = {name: getattr(self, name).expand(batch_shape) for name in ("loc", "scale", "width")}
        return expanded(self, GaussianUniform, _instance, batch_shape, parameters)

    @property
    def mean(self) -> Tensor:
        """The mean, mu."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """The variance, sigma^2 + w^2 / 12."""
        return self.scale**2 + self.width**2 / 12

    def rsample(self, sample_shape=()) -> Tensor:
        """Draw mu + sigma e + w u with e standard normal and u uniform on (-1/2, 1/2)."""
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        dither = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device) - 0.5
        return self.loc + self.scale * noise + self.width * dither

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density at ``value``, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        # The density is even about its mean; on the left side both Phi lie in their well-conditioned tail.
        distance = (value - self.loc).abs()
        upper = (self.width / 2 - distance) / self.scale
        lower = (-self.width / 2 - distance) / self.scale
        return log_ndtr_difference(lower, upper) - self.width.log()

    def cdf(self, value: Tensor) -> Tensor:
        """Cumulative distribution function, (sigma / w) [psi(b) - psi(a)] with psi(t) = t Phi(t) + phi(t)."""
        if self._validate_args:
            self._validate_sample(value)
        centred = value - self.loc
        a = (centred - self.width / 2) / self.scale
        b = (centred + self.width / 2) / self.scale
        return ((_psi(b) - _psi(a)) * self.scale / self.width).clamp(0, 1)


def _psi(t: Tensor) -> Tensor:
    """The antiderivative of the standard normal cdf."""
    return t * torch.special.ndtr(t) + torch.exp(-(t**2) / 2) / math.sqrt(2 * math.pi)
