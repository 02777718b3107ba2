"""The family of one point."""

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_vble.guides.factor import Factor, scattered
from pyro_vble.guides.parameters import learnt


class PointFactor(Factor):
    r"""A point mass.

    .. math:: q(v) = \delta(v - \bar v)

    Args:
        loc: Where it starts (B, *event).
        std: How far from there other fits may start, in units of which ``scatter_`` moves it.
        support: The support of v.
    """

    def __init__(
        self, loc: Tensor, std: float | Tensor = 0.0, support: constraints.Constraint = constraints.real
    ) -> None:
        super().__init__()
        self.loc = learnt(loc, support)
        self.support = support
        self.register_buffer("reach", torch.as_tensor(std, dtype=loc.dtype, device=loc.device), persistent=False)

    def forward(self) -> dist.TorchDistribution:
        """The distribution, its batch over the images."""
        return dist.Delta(self.loc).to_event(self.loc.dim() - 1)

    def at(self, noise: Tensor) -> Tensor:
        """The point, whatever the noise."""
        return self.loc.expand(noise.shape)

    def moments(self) -> tuple[Tensor, Tensor]:
        """The point, and zero."""
        loc = self.loc.detach()
        return loc, torch.zeros_like(loc)

    @property
    def width(self) -> None:
        """A point has none."""

    @property
    def median(self) -> Tensor:
        """The point."""
        return self.loc

    def quantile(self, probability: Tensor) -> Tensor:
        """All quantiles of a point mass are the point."""
        return self.loc.expand(torch.broadcast_shapes(probability.shape, self.loc.shape))

    @torch.no_grad()
    def scatter_(self) -> None:
        """Move the point at random."""
        self.loc = scattered(self.loc.detach(), self.reach, self.support)
