"""The machinery that all guides share: one independent factor a site."""

from collections.abc import Callable, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vble.guides._factors import FAMILIES, ConstrainedFactor, Factor
from pyro_vble.guides._parameters import local_parameters
from pyro_vble.physics import prior_on


class LatentImageError(ValueError):
    """The model treats the image as a latent and the guide does not, or the reverse."""


class MeanFieldGuide(PyroModule):
    """A guide q = Π q(site), one location-scale factor a latent site, for one measurement (or a batch of them).

    Parameters are local to the guide: guides of different images, of any sizes, live side by side without touching
    Pyro's global parameter store.

    Args:
        model: The model this is a guide of; it is only looked at.
        factors: The factor of each latent site of the model, in the order they are sampled.

    Raises:
        LatentImageError: A ValueError: the model treats the image as a latent and the guide does not, or the reverse.
    """

    #: Whether the guide treats the image as a latent of its own; models are built to match.
    latent_image = False

    def __init__(self, model: nn.Module, factors: dict[str, Factor]) -> None:
        if model.latent_image != self.latent_image:
            raise LatentImageError(
                f"{type(self).__name__} needs a model with latent_image={self.latent_image}; received one with "
                f"latent_image={model.latent_image}; build it with RestorationModel(prior, physics, "
                f"latent_image={type(self).__name__}.latent_image)."
            )
        with local_parameters():
            super().__init__()
            self.factors = PyroModule[nn.ModuleDict](factors)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the guide, its parameters local."""
        with local_parameters():
            return super().__call__(*args, **kwargs)

    def forward(self, y: Tensor) -> dict[str, Tensor]:
        """Sample every site from its factor; returns the samples by site."""
        size = len(next(iter(self.factors.values())).loc)
        if len(y) != size:
            raise ValueError(
                f"A guide belongs to the batch it was built for, of {size}; received a measurement of {len(y)}; build "
                f"another: {type(self).__name__}(model, y)."
            )
        with pyro.plate("image", size, dim=-1):
            return {site: pyro.sample(site, factor()) for site, factor in self.factors.items()}

    @property
    def loc(self) -> dict[str, Tensor]:
        """Centres by site, (B, *event)."""
        return {site: factor.median.detach() for site, factor in self.factors.items()}

    @property
    def width(self) -> dict[str, Tensor]:
        """Widths by site: full width of a uniform factor, standard deviation of a Gaussian one.

        Of a parameter of operator or noise that lives on part of the real line, it is that of the unconstrained value
        (for a positive one, its logarithm).
        """
        return {site: factor.width.detach() for site, factor in self.factors.items() if factor.width is not None}

    @property
    def slow_parameters(self) -> list[nn.Parameter]:
        """Widths that start near their optimum: a fit moves them at a part of its learning rate."""
        return [factor.free_width_unconstrained for factor in self.factors.values() if factor.informed]

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments that build this guide again from a model and a measurement."""
        return {}

    @torch.no_grad()
    def median(self, y: Tensor | None = None) -> dict[str, Tensor]:
        """Posterior medians by site."""
        return self.loc

    @torch.no_grad()
    def quantiles(self, quantiles: Sequence[float] | Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """Posterior quantiles by site, (number of quantiles, B, *event).

        Raises:
            ValueError: If a probability is outside [0, 1].
        """
        probabilities = torch.as_tensor(quantiles, dtype=torch.float64)
        if not bool(((probabilities >= 0) & (probabilities <= 1)).all()):
            raise ValueError(f"quantiles must be probabilities in [0, 1]; received {probabilities.tolist()}.")
        return {
            site: factor.quantile(probabilities.to(factor.loc).reshape(-1, *[1] * factor.loc.dim()))
            for site, factor in self.factors.items()
        }

    @torch.no_grad()
    def get_posterior(self, y: Tensor | None = None) -> dict[str, dist.TorchDistribution]:
        """The fitted distribution of every site."""
        return {site: factor() for site, factor in self.factors.items()}


def latent_factors(model: nn.Module, y: Tensor, family: str) -> tuple[dict[str, Factor], dict[str, Tensor]]:
    """The factors of physics' unknown parameters and of the prior's latents, and the standard deviations started from.

    Centres are the encoder's view of a first guess. Widths are those that a linear decoder would have there, where the
    model tells them; else the prior's initial ones.

    Raises:
        ValueError: If the family is unknown.
    """
    if family not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}; received {family!r}.")
    latents, kind = model.initial_latents(y), FAMILIES[family]
    std = model.initial_std(y, latents)
    factors = parameter_factors(model, y, ConstrainedFactor)
    for site, loc in latents.items():
        factors[site] = kind(loc, kind.unit_width * std[site] if site in std else model.prior.initial_width[family])
        factors[site].informed = site in std
    return factors, std


def parameter_factors(model: nn.Module, y: Tensor, family: Callable[..., Factor]) -> dict[str, Factor]:
    """The factors of physics' unknown parameters."""
    start = model.initial_parameters(y)
    # Bounds of a support may be tensors, and belong where the measurement is.
    return {site: family(value, prior_on(model.physics_priors[site], value).support) for site, value in start.items()}
