"""The factorised entropy model of a hyper-latent."""

from collections.abc import Callable
from typing import ClassVar, Self

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_vble.distributions._expand import expanded
from pyro_vble.distributions._numerics import log_sigmoid_difference

_BISECTION_STEPS = 64
_QUADRATURE_NODES = 4096


class FactorizedEntropy(TorchDistribution):
    r"""The fully factorised prior with one learned cdf c per channel, convolved with U(-1/2, 1/2).

    .. math:: p(h_k) = c(h_k + \tfrac12) - c(h_k - \tfrac12)

    c is given by its logits, a function increasing in its argument, of shape (N, 1, L) -> (N, 1, L) for N channels,
    as ``compressai.entropy_models.EntropyBottleneck._logits_cumulative`` computes. With logits l and u of both ends
    the difference is evaluated in log space as log sigmoid(u) + log sigmoid(-l) + log(1 - exp(l - u)).

    References:
        | Variational image compression with a scale hyperprior (Ballé et al., 2018), appendix 6.1
        | https://arxiv.org/abs/1802.01436

    Args:
        cdf_logits: The logits of c.
        shape: Batch shape (..., N, h, w), channels third from last.
        dtype: Data type of samples.
        device: Device of samples.
        validate_args: Whether arguments are checked.

    Raises:
        ValueError: If the shape has fewer than three dimensions.

    Example:
        >>> import torch
        >>> from pyro_vble.distributions import FactorizedEntropy
        >>> p = FactorizedEntropy(lambda t: 2.0 * t, (1, 1, 1))  # c is a logistic cdf
        >>> p.log_prob(torch.zeros(1, 1, 1)).exp()  # sigmoid(1) - sigmoid(-1)
        tensor([[[0.4621]]])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support: ClassVar[constraints.Constraint] = constraints.real
    has_rsample = True

    def __init__(
        self,
        cdf_logits: Callable[[Tensor], Tensor],
        shape: torch.Size | tuple[int, ...],
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if len(shape) < 3:
            raise ValueError(
                f"shape must end in (channels, height, width); received {tuple(shape)}; "
                "add singleton dimensions for the missing ones."
            )
        self.cdf_logits, self.dtype, self.device = cdf_logits, dtype, device
        super().__init__(torch.Size(shape), validate_args=validate_args)

    def expand(self, batch_shape, _instance=None) -> Self:
        """Return the distribution broadcast to ``batch_shape``."""
        parameters = {"cdf_logits": self.cdf_logits, "dtype": self.dtype, "device": self.device}
        return expanded(self, FactorizedEntropy, _instance, batch_shape, parameters)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density at ``value``, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        value = value.expand(torch.broadcast_shapes(value.shape, self.batch_shape))
        lower, upper = self._logits(torch.stack((value - 0.5, value + 0.5)))
        return log_sigmoid_difference(lower, upper)

    def cdf(self, value: Tensor) -> Tensor:
        """Cumulative distribution function, the mean of c over (v - 1/2, v + 1/2) by 32-point Gauss quadrature."""
        value = value.expand(torch.broadcast_shapes(value.shape, self.batch_shape))
        nodes, weights = _gauss_legendre(32, value)
        points = value + nodes.reshape(-1, *[1] * value.dim()) / 2
        return torch.tensordot(weights / 2, torch.sigmoid(self._logits(points)), dims=1)

    def rsample(self, sample_shape=()) -> Tensor:
        """Draw c^{-1}(v) + u with v uniform on (0, 1), c inverted by bisection, and u uniform on (-1/2, 1/2)."""
        shape = self._extended_shape(torch.Size(sample_shape))
        level = torch.rand(shape, dtype=self.dtype, device=self.device)
        dither = torch.rand(shape, dtype=self.dtype, device=self.device) - 0.5
        # A level may come out as 0, which stands for those up to the middle between it and the next.
        eps = torch.finfo(self.dtype).eps / 4
        return self._inverse_logits(torch.logit(level, eps=eps)) + dither

    @property
    def mean(self) -> Tensor:
        """The mean, by quadrature of c."""
        return self._moments()[0]

    @property
    def variance(self) -> Tensor:
        """The variance, by quadrature of c, plus 1/12."""
        return self._moments()[1]

    def _logits(self, value: Tensor) -> Tensor:
        """Logits of c at values of shape (..., N, h, w)."""
        by_channel = value.movedim(-3, 0)
        logits = self.cdf_logits(by_channel.reshape(by_channel.shape[0], 1, -1))
        return logits.reshape(by_channel.shape).movedim(0, -3)

    def _inverse_logits(self, target: Tensor) -> Tensor:
        """Solve logits(x) = target; differentiable in the parameters of c by the implicit function theorem."""
        with torch.no_grad():
            low, high = -torch.ones_like(target), torch.ones_like(target)
            for _ in range(_BISECTION_STEPS):
                too_high, too_low = self._logits(low) > target, self._logits(high) < target
                if not (too_high.any() or too_low.any()):
                    break
                low, high = torch.where(too_high, 2 * low, low), torch.where(too_low, 2 * high, high)
            for _ in range(_BISECTION_STEPS):
                middle = (low + high) / 2
                below = self._logits(middle) < target
                low, high = torch.where(below, middle, low), torch.where(below, high, middle)
            root = (low + high) / 2
            # A symmetric difference quotient of the logits: only the gradient uses it.
            step = 1e-3 * (1 + root.abs())
            slope = (self._logits(root + step) - self._logits(root - step)) / (2 * step)
        correction = self._logits(root) - target
        return root - (correction - correction.detach()) / slope

    def _moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance per channel, from integrals of c between its extreme quantiles."""
        channels = torch.Size((self.batch_shape[-3], 1, 1))
        bound = torch.full(channels, 1e-6, dtype=self.dtype, device=self.device).logit()
        low, high = self._inverse_logits(bound), self._inverse_logits(-bound)
        grid = torch.linspace(0, 1, _QUADRATURE_NODES, dtype=self.dtype, device=self.device)
        points = low + (high - low) * grid
        c = torch.sigmoid(self._logits(points))
        # By parts: E[h] = b - int c, E[(h - b)^2] = 2 int (b - h) c, for a cdf that is 0 at a and 1 at b.
        from_high = points - high
        first = -torch.trapezoid(c, points, dim=-1)
        second = -2 * torch.trapezoid(from_high * c, points, dim=-1)
        mean = (high.squeeze(-1) + first).unsqueeze(-1)
        variance = (second - first**2).unsqueeze(-1) + 1 / 12
        return mean.expand(self.batch_shape), variance.expand(self.batch_shape)


def _gauss_legendre(count: int, like: Tensor) -> tuple[Tensor, Tensor]:
    import numpy as np

    nodes, weights = np.polynomial.legendre.leggauss(count)
    return like.new_tensor(nodes), like.new_tensor(weights)
