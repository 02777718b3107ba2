"""Draws of a guide, with their densities under model and guide."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyro
import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_vble._one_at_a_time import one_at_a_time
from pyro_vble._traces import nodes_of
from pyro_vble.guides.parameters import parameter_scope
from pyro_vble.inference.precision import network_precision


@dataclass(frozen=True)
class Draws:
    """Draws of a posterior, n for each of B images.

    Attributes:
        image: x, (n, B, C, H, W).
        latents: Draws by latent site, each (n, B, *event).
        log_likelihood: log p(y_i|x) of every measured value, (n, *y.shape), in nats; 0 where unobserved. None, like
            the other densities, where nobody asked for it.
        log_prior: log p(x, z, h), (n, B), in nats.
        log_guide: log q(x, z, h), (n, B), in nats.
        replica: Measurements of the images, (n, *y.shape), where they were asked for.
    """

    image: Tensor
    latents: dict[str, Tensor] = field(default_factory=dict)
    log_likelihood: Tensor | None = None
    log_prior: Tensor | None = None
    log_guide: Tensor | None = None
    replica: Tensor | None = None

    @property
    def log_joint(self) -> Tensor:
        """log p(y, x, z, h), (n, B)."""
        return asked_for(self.log_likelihood).flatten(2).sum(2) + asked_for(self.log_prior)

    @property
    def log_weights(self) -> Tensor:
        """log p(y, x, z, h) - log q(x, z, h), (n, B): importance weights, whose mean estimates the ELBO."""
        return self.log_joint - asked_for(self.log_guide)


def asked_for(value: Tensor | None) -> Tensor:
    """A density or a replica of some draws.

    Raises:
        ValueError: If the draws came without.
    """
    if value is None:
        raise ValueError(
            "Densities and replicas must be asked for where draws are made; these came without; take them from "
            "posterior.draws(n), or chains(n, densities=True, replicas=True)."
        )
    return value


class DrawSource(Protocol):
    """What ArviZ's groups are made of: anything that draws images, in chains."""

    # As properties, which attributes are as well; the reverse does not hold.

    @property
    def shape(self) -> tuple[int, ...]:
        """(B, C, H, W) of the images."""
        ...

    @property
    def y(self) -> Tensor | None:
        """Measurement (B, ...), or None."""
        ...

    @property
    def physics(self) -> Any:
        """The operator, or None."""
        ...

    @property
    def stored(self) -> int | None:
        """Number of draws, where there are only so many."""
        ...

    @property
    def parameters(self) -> frozenset[str]:
        """Latent sites that are parameters of operator and noise, one value an image."""
        ...

    @property
    def groups(self) -> frozenset[str]:
        """Which of ArviZ's groups can be made of it."""
        ...

    @property
    def origin(self) -> dict[str, str]:
        """What to say of it: guide, prior."""
        ...

    def resolved_seed(self, seed: int | None) -> int | None:
        """The seed told, or its own."""
        ...

    def lasting_seed(self, seed: int | None) -> int:
        """The same, drawn where there is none: for what goes over the same draws more than once."""
        ...

    def chains(
        self, num_samples: int, *, seed: int | None, densities: bool, replicas: bool
    ) -> Sequence[Iterator[Draws]]:
        """Draws of every chain, in chunks of the same sizes."""
        ...

    def ancestral(self, n: int, *, seed: int | None, measured: bool) -> dict[str, Tensor]:
        """Draws from the prior: "x", (n, B, C, H, W); if measured "y" and the parameters too."""
        ...


@one_at_a_time
@torch.no_grad()
def draw(model: Callable, guide: Callable, y: Tensor, n: int = 1, *, precision: str = "float32") -> Draws:
    r"""Draw n times from a guide, and evaluate model and guide there.

    .. math:: (x, z, h) \sim q, \qquad \log p(y|x), \quad \log p(x, z, h), \quad \log q(x, z, h)

    Args:
        model: The :class:`~pyro_vble.models.RestorationModel`.
        guide: Its guide.
        y: Measurement (B, ...).
        n: Number of draws.
        precision: "float32", or "bfloat16" for the networks.

    Example:
        >>> import torch, deepinv
        >>> from pyro_vble import load_prior
        >>> from pyro_vble.guides import VBLE
        >>> from pyro_vble.inference import draw
        >>> from pyro_vble.models import RestorationModel
        >>> physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))
        >>> y = torch.rand(2, 3, 64, 64)
        >>> model = RestorationModel(load_prior("cae-bsd"), physics)
        >>> draws = draw(model, VBLE(model, y), y, 5)
        >>> draws.image.shape, draws.log_weights.shape
        (torch.Size([5, 2, 3, 64, 64]), torch.Size([5, 2]))
    """
    plates = (n, len(y))
    with network_precision(precision, y.device), parameter_scope(guide), pyro.plate("samples", n, dim=-2):
        guide_trace = poutine.trace(guide).get_trace(y)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(y)
    for trace in (guide_trace, model_trace):
        trace.compute_log_prob(site_filter=lambda name, site: not site_is_subsample(site))
    observed = nodes_of(model_trace)["y"]
    image = nodes_of(model_trace)["_RETURN"]["value"]
    return Draws(
        image=image.expand(*plates, *image.shape[-3:]),
        latents=latents_of(guide_trace),
        log_likelihood=observed["fn"].base_dist.log_prob(observed["value"]),
        log_prior=_log_prob(model_trace, skip="y").expand(plates),
        log_guide=_guide_log_prob(guide_trace, plates),
    )


def latents_of(trace: poutine.Trace) -> dict[str, Tensor]:
    """Values of the latent sites of a trace."""
    # What one of Pyro's own guides samples all its sites from is none of the model's.
    sites = ((name, site) for name, site in _sites(trace) if not site["infer"].get("is_auxiliary"))
    return {name: site["value"] for name, site in sites if not site["is_observed"]}


def _sites(trace: poutine.Trace) -> list[tuple[str, Any]]:
    return [(n, s) for n, s in nodes_of(trace).items() if s["type"] == "sample" and not site_is_subsample(s)]


def _guide_log_prob(trace: poutine.Trace, plates: tuple[int, int]) -> Tensor:
    """log q of every draw and image.

    Raises:
        ValueError: If the guide has one density for all images of a batch.
    """
    together = [n for n, s in _sites(trace) if plates[1] > 1 and s["infer"].get("is_auxiliary") and _is_joint(s)]
    if together:
        raise ValueError(
            f"The density of every image is needed; received a batch of {plates[1]} images whose guide has one density "
            f"for all ({together[0]}); restore the images one by one."
        )
    return _log_prob(trace).expand(plates)


def _is_joint(site: dict) -> bool:
    """Whether a site stands outside the plate of the images."""
    return all(frame.name != "image" for frame in site["cond_indep_stack"])


def _log_prob(trace: poutine.Trace, skip: str | None = None) -> Tensor:
    return sum((site["log_prob"] for name, site in _sites(trace) if name != skip), start=torch.zeros(()))
