"""The families of one site: modules with free parameters whose call returns a distribution."""

from typing import Any

import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from torch import Tensor
from torch.distributions import biject_to, constraints

from pyro_vble.distributions import CentredUniform
from pyro_vble.guides._parameters import local_parameters


class Factor(PyroModule):
    """q(v) of one site, with a centre, and a width where the family has one; (B, *event) each."""

    loc: Tensor
    width: Tensor | None = None
    #: Whether the width starts near its optimum, from where its noisy gradient should move it but slowly.
    informed = False

    def __init__(self) -> None:
        with local_parameters():
            super().__init__()

    def __call__(self, *args: Any, **kwargs: Any) -> dist.TorchDistribution:
        """The distribution; its parameters stay local, whoever asks."""
        with local_parameters():
            return super().__call__(*args, **kwargs)

    @property
    def median(self) -> Tensor:
        """The median, in the site's own units."""
        return self.loc

    def quantile(self, probability: Tensor) -> Tensor:
        """Elementwise quantiles."""
        return self().base_dist.icdf(probability)


class LocationWidthFactor(Factor):
    """A family with a free centre and a free width on the log scale.

    Args:
        loc: Initial centres (B, *event).
        width: Initial width, of all or of each.
        bounds: Smallest and largest width.
        free_loc: Whether the centre is a parameter; otherwise it stays where it starts.
    """

    def __init__(
        self, loc: Tensor, width: float | Tensor, *, bounds: tuple[float, float] = (1.5e-5, 20.0), free_loc: bool = True
    ) -> None:
        super().__init__()
        self.bounds = bounds
        if free_loc:
            self.loc = PyroParam(loc.clone())
        else:
            self.register_buffer("loc", loc.clone())
        width = width.clamp(*bounds) if isinstance(width, Tensor) else torch.full_like(loc, width)
        self.free_width = PyroParam(width, constraint=constraints.positive)

    @property
    def width(self) -> Tensor:
        """Width a: of a Gaussian its standard deviation, of a uniform its full width."""
        return bounded(self.free_width, *self.bounds)


class GaussianFactor(LocationWidthFactor):
    """q(v) = N(v̄, a²)."""

    #: Width of a standard deviation of one.
    unit_width = 1.0

    def forward(self) -> dist.TorchDistribution:
        """The distribution, its batch over the images."""
        return dist.Normal(self.loc, self.width).to_event(self.loc.dim() - 1)


class UniformFactor(LocationWidthFactor):
    """q(v) = U(v̄ ± a/2)."""

    #: Width of a standard deviation of one.
    unit_width = 12**0.5

    def forward(self) -> dist.TorchDistribution:
        """The distribution, its batch over the images."""
        return CentredUniform(self.loc, self.width).to_event(self.loc.dim() - 1)


class ConstrainedFactor(LocationWidthFactor):
    """q(v) of a site that lives on part of the real line: v = T(u), u ~ N(ū, a²), T onto the support.

    ``loc`` and ``width`` are those of u; ``median`` is that of v.
    """

    def __init__(self, start: Tensor, support: constraints.Constraint, width: float = 0.1) -> None:
        transform = biject_to(support)
        super().__init__(transform.inv(start), width)
        self.transform = transform

    def forward(self) -> dist.TorchDistribution:
        """The distribution, its batch over the images."""
        return dist.TransformedDistribution(dist.Normal(self.loc, self.width), [self.transform])

    @property
    def median(self) -> Tensor:
        """The median, in the site's own units."""
        return self.transform(self.loc)

    def quantile(self, probability: Tensor) -> Tensor:
        """Elementwise quantiles."""
        return self().icdf(probability)


class PointFactor(Factor):
    """q(v) = δ(v - v̄), v̄ within a support."""

    def __init__(self, loc: Tensor, support: constraints.Constraint = constraints.real) -> None:
        super().__init__()
        self.loc = PyroParam(loc.clone(), constraint=support)

    def forward(self) -> dist.TorchDistribution:
        """The distribution, its batch over the images."""
        return dist.Delta(self.loc).to_event(self.loc.dim() - 1)

    def quantile(self, probability: Tensor) -> Tensor:
        """All quantiles of a point mass are the point."""
        return self.loc.expand(torch.broadcast_shapes(probability.shape, self.loc.shape))


FAMILIES = {"gaussian": GaussianFactor, "uniform": UniformFactor}


def bounded(width: Tensor, low: float, high: float) -> Tensor:
    """A width on the log scale held within [low, high], by value but not in its gradient.

    A plain clamp has no gradient beyond its bounds: a width that overshoots one could never return.
    """
    return width * (width.detach().clamp(low, high) / width.detach())
