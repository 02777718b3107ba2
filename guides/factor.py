"""The one idea of the guides: a factor a site, a module whose call returns a distribution."""

from typing import Any

import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.distributions import biject_to, constraints

from pyro_vble.guides.parameters import learnt, local_parameters
from pyro_vble.seeding import seeded

# How far further fits start from the first: in standard deviations of the guide as it starts, and on the unconstrained
# scale (the logarithm, for a positive one) of what lives on part of the real line.
_SCATTERED_WIDTHS = 3.0
SCATTERED_PARAMETER = 0.5
# Draws that stand for moments and quantiles that a distribution does not know.
_DRAWS = 256


class Factor(PyroModule):
    r"""The variational family q(v) of one site, for every image of a batch.

    A family of one's own says only ``forward``. What else the library asks of it has defaults: moments and quantiles
    come from the distribution, or from its draws; ``scatter_`` moves the parameter ``loc``. Parameters that belong to
    images have them along their first dimension, so that a batch can be fitted in parts.

    Attributes:
        informed: Whether the width starts near its optimum, from where its noisy gradient should move it but slowly.

    Example:
        >>> import pyro.distributions as dist, torch
        >>> from pyro.nn import PyroParam
        >>> from pyro_vble.guides import Factor
        >>> class Laplace(Factor):
        ...     def __init__(self, loc, std):
        ...         super().__init__()
        ...         self.loc = PyroParam(loc.clone())
        ...         self.scale = PyroParam(std / 2**0.5, dist.constraints.positive)
        ...     def forward(self):
        ...         return dist.Laplace(self.loc, self.scale).to_event(self.loc.dim() - 1)
        >>> mean, std = Laplace(torch.zeros(2, 8, 4, 4), torch.ones(2, 8, 4, 4)).moments()
        >>> std.shape, round(float(std.mean()), 3)
        (torch.Size([2, 8, 4, 4]), 1.0)
    """

    loc: Tensor
    informed = False

    def __init__(self) -> None:
        with local_parameters():
            super().__init__()

    def __call__(self, *args: Any, **kwargs: Any) -> dist.TorchDistribution:
        """The distribution; its parameters stay local, whoever asks."""
        with local_parameters():
            return super().__call__(*args, **kwargs)

    def forward(self) -> dist.TorchDistribution:
        """The distribution, its batch over the images, (B,), its event the site's."""
        raise NotImplementedError(f"{type(self).__name__} must say its distribution; define forward(self).")

    @torch.no_grad()
    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of every value, (B, *event) each."""
        p = self()
        try:
            return p.mean, p.stddev
        except NotImplementedError:
            drawn = self._draws()
            return drawn.mean(0), drawn.std(0)

    def at(self, noise: Tensor) -> Tensor:
        """The value at given standard normal noise of the site's shape, (*, B, *event).

        What makes a window of a sample equal the crop of the whole: noise then belongs to places, not to calls.

        Raises:
            NotImplementedError: If the family does not say how.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must say its value at standard normal noise of the site's shape; define "
            "at(self, noise)."
        )

    @property
    def median(self) -> Tensor:
        """The median, in the site's own units; the mean, where a family knows no other centre."""
        return self.moments()[0]

    @property
    def width(self) -> Tensor | None:
        """What a family calls its width: here the standard deviation; None of a point."""
        return self.moments()[1]

    @torch.no_grad()
    def quantile(self, probability: Tensor) -> Tensor:
        """Elementwise quantiles, (number of probabilities, B, *event)."""
        p = self()
        try:
            return (p.base_dist if isinstance(p, dist.Independent) else p).icdf(probability)
        except NotImplementedError:
            drawn = self._draws()
            levels = probability.flatten().to(drawn)
            return torch.quantile(drawn, levels, dim=0).reshape(len(levels), *drawn.shape[1:])

    @torch.no_grad()
    def scatter_(self) -> None:
        """Move the centre by some of its standard deviations, at random.

        Raises:
            NotImplementedError: If there is no parameter ``loc`` to move.
        """
        if not isinstance(getattr(self, "loc", None), Tensor):
            raise NotImplementedError(
                f"{type(self).__name__} must say how a further fit starts elsewhere; define scatter_(self), or give it "
                "a parameter loc."
            )
        if self.loc.requires_grad:
            self.loc = scattered(self.loc.detach(), self.moments()[1])

    def slow_parameters(self) -> list[nn.Parameter]:
        """Parameters that start near their optimum: a fit moves them at a part of its learning rate."""
        return []

    def centre_parameters(self) -> list[nn.Parameter]:
        """Centres that have a way to go: a fit moves them fast, and ends at the mean of their last values."""
        return []

    def _draws(self) -> Tensor:
        with seeded(0):
            return self().sample((_DRAWS,))


class LocationScaleFactor(Factor):
    """A family with a free centre, and a free standard deviation on the log scale, for every value.

    Args:
        loc: Initial centres (B, *event).
        std: Initial standard deviation, of all or of each.
        bounds: Smallest and largest standard deviation; the family's own where they are not given.
        free_loc: Whether the centre is a parameter; otherwise it stays where it starts.
        informed: Whether the standard deviation starts near its optimum.
    """

    #: Standard deviations that a family may have.
    bounds = (1.5e-5, 20.0)
    #: Width of the family with a standard deviation of one.
    width_per_std = 1.0

    def __init__(
        self,
        loc: Tensor,
        std: float | Tensor,
        *,
        bounds: tuple[float, float] | None = None,
        free_loc: bool = True,
        informed: bool = False,
    ) -> None:
        super().__init__()
        self.bounds, self.informed = bounds or self.bounds, informed
        if free_loc:
            self.loc = learnt(loc)
        else:
            self.register_buffer("loc", loc.clone())
        std = torch.as_tensor(std, dtype=loc.dtype, device=loc.device).expand_as(loc).clamp(*self.bounds)
        self.free_std = learnt(std, constraints.positive)

    @property
    def std(self) -> Tensor:
        """The standard deviation, (B, *event)."""
        return bounded(self.free_std, *self.bounds)

    @property
    def width(self) -> Tensor:
        """The width a: of a Gaussian its standard deviation, of a uniform its full width."""
        return self.width_per_std * self.std

    @property
    def median(self) -> Tensor:
        """The median, which is the centre."""
        return self.loc

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of every value, (B, *event) each."""
        return self.loc.detach(), self.std.detach()

    def slow_parameters(self) -> list[nn.Parameter]:
        """The standard deviation, if it starts near its optimum."""
        return [self.free_std_unconstrained] if self.informed else []

    def centre_parameters(self) -> list[nn.Parameter]:
        """The centre, if it is free."""
        return [self.loc_unconstrained] if self.loc.requires_grad else []

    @torch.no_grad()
    def follow_(self, before: Tensor, now: Tensor) -> None:
        """Exchange the prior's part of 1/a², its precision; what the measurement tells, 0 or more, stays."""
        told = (self.free_std.pow(-2) - before).clamp_min(0)
        self.free_std_unconstrained.copy_(-0.5 * (told + now).log())

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        # States of versions before 0.2 hold the width's logarithm in place of the standard deviation's.
        width = state.pop(f"{prefix}free_width_unconstrained", None)
        if width is not None:
            state[f"{prefix}free_std_unconstrained"] = width - torch.tensor(self.width_per_std, dtype=width.dtype).log()
        super()._load_from_state_dict(state, prefix, *args, **kwargs)


def scattered(loc: Tensor, std: Tensor, support: constraints.Constraint = constraints.real) -> Tensor:
    """A centre elsewhere, at random: some standard deviations away, or within a support about as far as it matters."""
    noise = torch.randn_like(loc)
    if support is constraints.real:
        return loc + _SCATTERED_WIDTHS * std * noise
    transform = biject_to(support)
    return transform(transform.inv(loc) + SCATTERED_PARAMETER * noise)


def bounded(value: Tensor, low: float, high: float) -> Tensor:
    """A positive number on the log scale held within [low, high], by value but not in its gradient.

    A plain clamp has no gradient beyond its bounds: a width that overshoots one could never return.
    """
    return value * (value.detach().clamp(low, high) / value.detach())
