"""A Gaussian whose channels are correlated at every position."""

import math
from typing import ClassVar, Self

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_vble._precision import full_precision
from pyro_vble.distributions._expand import expanded


class ChannelCorrelation:
    r"""Correlations between the channels of maps (M, h, w), at every position p.

    .. math:: C_p \propto \big(I + \mathrm{diag}(g_p)\, U U^\top \mathrm{diag}(g_p)\big)^{-1}

    scaled to ones on the diagonal. A position costs a factorisation of a matrix as large as the rank r of U, not as M;
    it is done here, once for all distributions that are so correlated.

    Args:
        gain: How much of U a value takes part in, g, (*, M, h, w); where it is zero, values are independent.
        factor: U, (*, M, r), the same at all positions.

    Attributes:
        shrinkage: Standard deviations before the scaling, (*, M, h, w), at most 1.
        log_root_determinant: Half the logarithm of the determinant of the inverse of all C_p, (*,).
    """

    def __init__(self, gain: Tensor, factor: Tensor) -> None:
        rank = factor.shape[-1]
        identity = torch.eye(rank, dtype=factor.dtype, device=factor.device)
        with full_precision(gain):
            self.gain, self.factor = _rows(gain), factor
            products = (factor[..., :, None] * factor[..., None, :]).flatten(-2)
            inner = (self.gain.square() @ products).unflatten(-1, (rank, rank)) + identity
            root = torch.linalg.cholesky(inner)
            # With I + (gU)ᵀ(gU) = L Lᵀ, a root of (I + gU (gU)ᵀ)⁻¹ is I - gU L⁻ᵀ (L + I)⁻¹ (gU)ᵀ.
            mixing = torch.linalg.solve_triangular(root + identity, identity.expand_as(root), upper=False)
            self._mixing = torch.linalg.solve_triangular(root.mT, mixing, upper=True)
            told = self.gain.square() * (torch.cholesky_inverse(root).flatten(-2) @ products.mT)
            self._rows_of_shrinkage = (1 - told).sqrt()
        self.shrinkage = self._rows_of_shrinkage.mT.reshape(gain.shape)
        log_roots = root.diagonal(dim1=-2, dim2=-1).log().sum((-2, -1))
        self.log_root_determinant = log_roots + self._rows_of_shrinkage.log().sum((-2, -1))

    def correlated(self, noise: Tensor) -> Tensor:
        """Correlated standard normal numbers, from independent ones (*, M, h, w)."""
        with full_precision(noise):
            e = _rows(noise)
            common = torch.einsum("...pr,...pqr->...pq", (self.gain * e) @ self.factor, self._mixing)
            e = (e - self.gain * (common @ self.factor.mT)) / self._rows_of_shrinkage
            return e.mT.reshape(noise.shape)

    def squares(self, value: Tensor) -> Tensor:
        """The sum over positions of v_pᵀ C_p⁻¹ v_p, for values (*, M, h, w)."""
        with full_precision(value):
            e = _rows(value) * self._rows_of_shrinkage
            return e.square().sum((-2, -1)) + ((self.gain * e) @ self.factor).square().sum((-2, -1))


class ChannelGaussian(TorchDistribution):
    r"""A Gaussian over maps (M, h, w), correlated between the channels of a position and not between positions.

    .. math:: v_p \sim \mathcal N\big(\mu_p,\; \mathrm{diag}(s_p)\, C_p\, \mathrm{diag}(s_p)\big)

    Args:
        loc: Mean :math:`\mu`, (*, M, h, w).
        scale: Standard deviation s > 0 of every value, (*, M, h, w).
        correlation: C, of the same shape.
        validate_args: Whether arguments are checked.

    Example:
        >>> import torch
        >>> from pyro_vble.distributions import ChannelCorrelation, ChannelGaussian
        >>> one = torch.ones(2, 4, 4)
        >>> q = ChannelGaussian(0 * one, one, ChannelCorrelation(one, torch.tensor([[3.0], [3.0]])))
        >>> bool(torch.corrcoef(q.sample((1000,)).movedim(1, 0).flatten(1))[0, 1] < -0.85)
        True
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.independent(constraints.real, 3),
        "scale": constraints.independent(constraints.positive, 3),
    }
    support: ClassVar[constraints.Constraint] = constraints.independent(constraints.real, 3)
    has_rsample = True

    def __init__(
        self, loc: Tensor, scale: Tensor, correlation: ChannelCorrelation, *, validate_args: bool | None = None
    ) -> None:
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        self.correlation = correlation
        super().__init__(self.loc.shape[:-3], self.loc.shape[-3:], validate_args=validate_args)

    def expand(self, batch_shape, _instance=None) -> Self:
        """Return the distribution broadcast to ``batch_shape``."""
        parameters = {name: getattr(self, name).expand(*batch_shape, *self.event_shape) for name in ("loc", "scale")}
        parameters["correlation"] = self.correlation
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
        """Draw mu + s (a root of C) e with e standard normal."""
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + self.scale * self.correlation.correlated(noise)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density at ``value`` (*, M, h, w), in nats."""
        if self._validate_args:
            self._validate_sample(value)
        squares = self.correlation.squares((value - self.loc) / self.scale)
        log_root_determinant = self.correlation.log_root_determinant - self.scale.log().sum((-3, -2, -1))
        return log_root_determinant - 0.5 * (squares + self.event_shape.numel() * math.log(2 * math.pi))


def _rows(maps: Tensor) -> Tensor:
    """(*, M, h, w) with a row a position, (*, h·w, M)."""
    return maps.flatten(-2).mT
