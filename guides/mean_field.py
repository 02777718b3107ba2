"""Guides that are a product of factors, one a site."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vble.guides.channels import ChannelFactor
from pyro_vble.guides.constrained import ConstrainedFactor
from pyro_vble.guides.factor import Factor
from pyro_vble.guides.gaussian import GaussianFactor
from pyro_vble.guides.parameters import local_parameters
from pyro_vble.guides.uniform import UniformFactor
from pyro_vble.models.prior import Prior
from pyro_vble.models.restoration import RestorationModel

# How fast the centres of a site move, and with what power of the schedule their rate falls. An encoding of what was
# measured is a way off in z, and further in h, whose steps are the smaller; where the rate stays high for longer, the
# mean over the last steps takes the noise out. The image starts at its mean given z.
_PACES = {"h": (4.0, 0.5), "z": (1.5, 0.5), "x_decentered": (0.5, 1.0)}

#: Families of a latent by name. A correlated one is Gaussian where there are no channels to correlate.
FAMILIES = {"gaussian": GaussianFactor, "uniform": UniformFactor, "correlated": GaussianFactor}


class LatentImageError(ValueError):
    """The model treats the image as a latent and the guide does not, or the reverse."""


class MeanFieldGuide(PyroModule):
    r"""A guide that is one factor a latent site, for one measurement (or a batch of them).

    .. math:: q(z, h) = \prod_{\text{site}} q_{\text{site}}

    Parameters are local to the guide: guides of different images, of any sizes, live side by side without touching
    Pyro's global parameter store.

    Args:
        model: The model this is a guide of; it is only looked at.
        factors: The :class:`Factor` of each latent site of the model, in the order they are sampled.

    Raises:
        LatentImageError: A ValueError: the model treats the image as a latent and the guide does not, or the reverse.

    Example:
        A guide of one's own says a factor for every site that ``model.start`` knows where to start.

        >>> import torch, deepinv
        >>> import pyro_vble as pv
        >>> from pyro_vble.guides import GaussianFactor, MeanFieldGuide
        >>> class Gaussian(MeanFieldGuide):
        ...     def __init__(self, model, y):
        ...         start = model.start(y)
        ...         super().__init__(model, {site: GaussianFactor(s.loc, s.std) for site, s in start.items()})
        >>> physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))
        >>> y = torch.rand(1, 3, 64, 64)
        >>> pv.restore(y, physics, "cae-bsd", guide=Gaussian, num_steps=2, progress=False).std(4).shape
        torch.Size([1, 3, 64, 64])
    """

    #: Whether the guide treats the image as a latent of its own; models are built to match.
    latent_image = False
    #: The ELBO that suits it: a product of independent factors may take closed-form KL terms.
    elbo = "mean_field"
    #: Whether every site is reparameterised.
    reparameterised = True

    def __init__(self, model: RestorationModel, factors: Mapping[str, Factor]) -> None:
        if model.latent_image != self.latent_image:
            raise LatentImageError(
                f"{type(self).__name__} needs a model with latent_image={self.latent_image}; received one with "
                f"latent_image={model.latent_image}; build it with RestorationModel(prior, physics, "
                f"latent_image={type(self).__name__}.latent_image)."
            )
        with local_parameters():
            super().__init__()
            # What it makes takes what a ModuleDict takes, whatever the annotations of PyroModule's brackets say.
            self.factors: Any = PyroModule[nn.ModuleDict](dict(factors))  # pyright: ignore[reportArgumentType]
            self._size = len(next(iter(factors.values())).moments()[0])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the guide, its parameters local."""
        with local_parameters():
            return super().__call__(*args, **kwargs)

    def forward(self, y: Tensor) -> dict[str, Tensor]:
        """Sample every site from its factor; returns the samples by site."""
        if len(y) != self._size:
            raise ValueError(
                f"A guide belongs to the batch it was built for, of {self._size}; received a measurement of {len(y)}; "
                f"build another: {type(self).__name__}(model, y)."
            )
        with pyro.plate("image", self._size, dim=-1):
            return {site: pyro.sample(site, factor()) for site, factor in self.factors.items()}

    @property
    def loc(self) -> dict[str, Tensor]:
        """Centres by site, (B, *event)."""
        return {site: factor.median.detach() for site, factor in self.factors.items()}

    @property
    def width(self) -> dict[str, Tensor]:
        """Widths by site: full width of a uniform factor, standard deviation of any other.

        Of a parameter of operator or noise that lives on part of the real line, it is that of the unconstrained value
        (for a positive one, its logarithm).
        """
        widths = {site: factor.width for site, factor in self.factors.items()}
        return {site: width.detach() for site, width in widths.items() if width is not None}

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments that build this guide again from a model and a measurement."""
        return {}

    @torch.no_grad()
    def median(self, y: Tensor | None = None) -> dict[str, Tensor]:
        """Posterior medians by site."""
        return {site: factor.median.detach() for site, factor in self.factors.items()}

    @torch.no_grad()
    def quantiles(self, quantiles: Sequence[float] | Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """Posterior quantiles by site, (number of quantiles, B, *event).

        Raises:
            ValueError: If a probability is outside [0, 1].
        """
        probabilities = torch.as_tensor(quantiles, dtype=torch.float64)
        if not bool(((probabilities >= 0) & (probabilities <= 1)).all()):
            raise ValueError(f"quantiles must be probabilities in [0, 1]; received {probabilities.tolist()}.")
        found = {}
        for site, factor in self.factors.items():
            like = factor.median
            found[site] = factor.quantile(probabilities.to(like).reshape(-1, *[1] * like.dim()))
        return found

    @torch.no_grad()
    def get_posterior(self, y: Tensor | None = None) -> dict[str, dist.TorchDistribution]:
        """The fitted distribution of every site."""
        return {site: factor() for site, factor in self.factors.items()}

    # --- what the library asks of a guide; see pyro_vble.guides.abilities ---

    def parameter_groups(self, slow_part: float) -> list[dict[str, Any]]:
        """Widths that start near their optimum, which move slowly; and centres, which have a way to go.

        With a ``slow_part`` of 1 all move alike.
        """
        groups = [{"params": [p for f in self.factors.values() for p in f.slow_parameters()], "part": slow_part}]
        for site, factor in self.factors.items():
            if site in _PACES and slow_part < 1:
                part, power = _PACES[site]
                groups.append({"params": factor.centre_parameters(), "part": part, "power": power, "averaged": True})
        return groups

    def centres(self) -> list[tuple[Tensor, Tensor]]:
        """Free centres of latents with their standard deviations, by which a fit judges whether they still travel."""
        latents = (factor for site, factor in self.factors.items() if site in _PACES)
        return [(f.loc.detach(), f.moments()[1]) for f in latents if f.centre_parameters() and f.width is not None]

    def follows(self, site: str) -> bool:
        """Whether a site's factor started from the precision of its prior, which it then follows."""
        return site in self.factors and getattr(self.factors[site], "informed", False)

    def follow_(self, site: str, before: Tensor, now: Tensor) -> None:
        """Exchange the precision of a site's prior in that of its factor."""
        self.factors[site].follow_(before, now)

    def rows(self, images: slice) -> dict[str, Tensor] | None:
        """What is learnt of some images of the batch; None if a family's parameters are not one row an image."""
        state = self.state_dict()
        if any(value.dim() == 0 or len(value) != self._size for value in state.values()):
            return None
        return {name: value[images] for name, value in state.items()}

    @torch.no_grad()
    def write_rows(self, images: slice, rows: Mapping[str, Tensor]) -> None:
        """Write what was learnt of some images, ``rows`` of another guide, where they stand in this batch."""
        for name, value in self.state_dict().items():
            value[images] = rows[name]

    def scatter_(self, y: Tensor) -> None:
        """Move all centres by some of their standard deviations, at random."""
        for factor in self.factors.values():
            factor.scatter_()


def latent_family(prior: Prior, family: str | None) -> str:
    """The name of a family of the latents: the prior's own where none is told.

    Raises:
        ValueError: If it is unknown.
    """
    family = family or prior.default_family
    if family not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}; received {family!r}.")
    return family


def factor_of(start: Any, family: Callable[..., Factor]) -> Factor:
    """A factor of a site: of a family, unless it lives on part of the real line or knows of correlations."""
    if start.support is not constraints.real:
        return ConstrainedFactor(start.loc, start.std, start.support)
    if start.channels is not None:
        return ChannelFactor(start.loc, start.std, start.channels.gain, start.channels.factor, informed=start.informed)
    return family(start.loc, start.std, informed=start.informed)
