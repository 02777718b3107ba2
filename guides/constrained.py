"""The family of a parameter that lives on part of the real line."""

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import biject_to, constraints

from pyro_vble.guides.factor import SCATTERED_PARAMETER, LocationScaleFactor


class ConstrainedFactor(LocationScaleFactor):
    r"""A Gaussian mapped onto a support: of a parameter of operator or noise, such as its standard deviation.

    .. math:: v = T(u), \qquad u \sim \mathcal N(\bar u, a^2)

    ``loc``, ``std`` and ``width`` are those of u; ``median``, ``quantile``, ``moments`` and ``at`` those of v.

    Args:
        start: Initial median of v (B,).
        std: Initial standard deviation of u.
        support: The support of v.
    """

    def __init__(self, start: Tensor, std: float | Tensor, support: constraints.Constraint) -> None:
        transform = biject_to(support)
        super().__init__(transform.inv(start), std)
        self.transform = transform

    def forward(self) -> dist.TorchDistribution:
        """The distribution, its batch over the images."""
        return dist.TransformedDistribution(dist.Normal(self.loc, self.std), [self.transform])

    def at(self, noise: Tensor) -> Tensor:
        """T(ū + a·noise)."""
        return self.transform(self.loc + self.std * noise)

    @property
    def median(self) -> Tensor:
        """The median, in the site's own units."""
        return self.transform(self.loc)

    @torch.no_grad()
    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of v, by Gauss-Hermite quadrature, (B,) each."""
        nodes, weights = _quadrature(self.loc)
        values = self.at(nodes)
        mean = (weights * values).sum(0)
        return mean, (weights * (values - mean).square()).sum(0).sqrt()

    def quantile(self, probability: Tensor) -> Tensor:
        """Elementwise quantiles."""
        return self().icdf(probability)

    @torch.no_grad()
    def scatter_(self) -> None:
        """Move the centre at random."""
        self.loc.add_(SCATTERED_PARAMETER * torch.randn_like(self.loc))


def _quadrature(like: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes and weights of a standard normal's expectation, (32, 1, ...) each."""
    import numpy as np

    points, heights = np.polynomial.hermite_e.hermegauss(32)
    shape = (-1, *[1] * like.dim())
    nodes, weights = (
        torch.as_tensor(v, dtype=like.dtype, device=like.device).reshape(shape)
        for v in (points, heights / heights.sum())
    )
    return nodes, weights
