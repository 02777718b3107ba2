"""A Gaussian whose channels are correlated at every position."""

import math
from typing import ClassVar, Self

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_vble._precision import full_precision
from pyro_vble.distributions._expand import expanded


class ChannelGaussian(TorchDistribution):
    r"""A Gaussian over maps (M, h, w), correlated between the channels of a position and not between positions.

    .. math:: v_p \sim \mathcal N\big(\mu_p,\; \mathrm{diag}(s_p)\, C_p\, \mathrm{diag}(s_p)\big), \qquad
        C_p \propto \big(I + \mathrm{diag}(a_p)\, U U^\top \mathrm{diag}(a_p)\big)^{-1}

    at every position p, C_p scaled to a correlation matrix: s is the standard deviation of every value. A position
    costs a factorisation of a matrix as large as the rank r of U, not as M.

    Args:
        loc: Mean :math:`\mu`, (*, M, h, w).
        scale: Standard deviation s > 0, (*, M, h, w).
        gain: How much of U a value takes part in, a, (*, M, h, w); where it is zero, values are independent.
        factor: U, (*, M, r), the same at all positions.
        validate_args: Whether arguments are checked.

    Example:
        >>> import torch
        >>> from pyro_vble.distributions import ChannelGaussian
        >>> one = torch.ones(2, 4, 4)
        >>> q = ChannelGaussian(0 * one, one, one, torch.tensor([[3.0], [3.0]]))
        >>> torch.corrcoef(q.sample((1000,)).movedim(1, 0).flatten(1))[0, 1]
        tensor(-0.9...)
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.independent(constraints.real, 3),
        "scale": constraints.independent(constraints.positive, 3),
        "gain": constraints.independent(constraints.real, 3),
        "factor": constraints.independent(constraints.real, 2),
    }
    support: ClassVar[constraints.Constraint] = constraints.independent(constraints.real, 3)
    has_rsample = True

    def __init__(
        self, loc: Tensor, scale: Tensor, gain: Tensor, factor: Tensor, *, validate_args: bool | None = None
    ) -> None:
        batch = torch.broadcast_shapes(loc.shape[:-3], scale.shape[:-3], gain.shape[:-3], factor.shape[:-2])
        self.loc, self.scale = (value.expand(*batch, *loc.shape[-3:]) for value in (loc, scale))
        self.gain, self.factor = gain, factor
        self._root, self._shrinkage = _root_and_shrinkage(gain, factor)
        super().__init__(batch, loc.shape[-3:], validate_args=validate_args)

    def expand(self, batch_shape, _instance=None) -> Self:
        """Return the distribution broadcast to ``batch_shape``."""
        parameters = {name: getattr(self, name) for name in ("gain", "factor", "_root", "_shrinkage")}
        for name in ("loc", "scale"):
            parameters[name] = getattr(self, name).expand(*batch_shape, *self.event_shape)
        return expanded(self, ChannelGaussian, _instance, batch_shape, parameters, event_shape=self.event_shape)

    @property
    def mean(self) -> Tensor:
        """The mean, mu."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """The variance of every value, s^2."""
        return self.scale.square()

    def rsample(self, sample_shape=()) -> Tensor:
        """Draw the value at standard normal noise."""
        shape = self._extended_shape(torch.Size(sample_shape))
        return self.at(torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device))

    def at(self, noise: Tensor) -> Tensor:
        """The value at standard normal noise of its shape, (*, M, h, w)."""
        # With I + (aU)ᵀ(aU) = L Lᵀ, a root of (I + aU (aU)ᵀ)⁻¹ is I - aU L⁻ᵀ (L + I)⁻¹ (aU)ᵀ.
        with full_precision(noise):
            e, a, root = _rows(noise), _rows(self.gain), self._root
            part = ((a * e) @ self.factor)[..., None]
            part = torch.linalg.solve_triangular(root + _identity(root), part, upper=False)
            part = torch.linalg.solve_triangular(root.mT, part, upper=True)[..., 0]
            e = (e - a * (part @ self.factor.mT)) / self._shrinkage
            return self.loc + self.scale * e.mT.reshape(noise.shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density at ``value`` (*, M, h, w), in nats."""
        if self._validate_args:
            self._validate_sample(value)
        with full_precision(value):
            e = _rows((value - self.loc) / self.scale) * self._shrinkage
            squares = _summed(e.square()) + _summed(((_rows(self.gain) * e) @ self.factor).square())
            log_determinant = _summed(self._root.diagonal(dim1=-2, dim2=-1).log()) + _summed(self._shrinkage.log())
            log_scale = self.scale.log().sum((-3, -2, -1))
            return log_determinant - log_scale - 0.5 * (squares + self.event_shape.numel() * math.log(2 * math.pi))


def channel_shrinkage(gain: Tensor, factor: Tensor) -> Tensor:
    """The standard deviations of (I + diag(a) U Uᵀ diag(a))⁻¹, (*, M, h, w), at most 1."""
    return _root_and_shrinkage(gain, factor)[1].mT.reshape(gain.shape)


def _root_and_shrinkage(gain: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    """L with L Lᵀ = I + (aU)ᵀ(aU), (*, h·w, r, r), and the standard deviations, (*, h·w, M)."""
    with full_precision(gain):
        power, rank = _rows(gain).square(), factor.shape[-1]
        products = (factor[..., :, None] * factor[..., None, :]).flatten(-2)
        inner = (power @ products).unflatten(-1, (rank, rank))
        root = torch.linalg.cholesky(inner + _identity(inner))
        told = power * (torch.cholesky_inverse(root).flatten(-2) @ products.mT)
        return root, (1 - told).sqrt()


def _rows(maps: Tensor) -> Tensor:
    """(*, M, h, w) with a row a position, (*, h·w, M)."""
    return maps.flatten(-2).mT


def _identity(like: Tensor) -> Tensor:
    return torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)


def _summed(rows: Tensor) -> Tensor:
    return rows.sum((-2, -1))
