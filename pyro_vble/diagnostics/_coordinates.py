"""The posterior's density in coordinates in which it is nearly a standard normal distribution."""

import contextlib
from collections.abc import Sequence
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import biject_to, constraints

from pyro_vble._traces import nodes_of
from pyro_vble.distributions import GaussianUniform
from pyro_vble.inference.draws import latents_of
from pyro_vble.physics import observed_mask
from pyro_vble.samples import Posterior
from pyro_vble.seeding import derived_seed, seeded

_PILOT_DRAWS = 200
# The site of an image that is a latent of its own.
_IMAGE = "x_decentered"
# A guide's width may be any part of its prior's: the scales of the warm-up see to what is beyond.
_PRIOR_PRECISIONS = (0.02, 1.0)


class Coordinates:
    r"""The density of the latents of one image, many positions (n, D) at a time.

    Every site but one has the place and width of the guide's draws, :math:`v = \bar v + a\,\varepsilon`. The latent z
    of an autoencoder, whose prior p(z|h) has a mean μ(h) and a variance s²(h), moves along with h:

    .. math:: z = w^2 \Big(\frac{\mu(h)}{s^2(h)} + b\Big) + w\,\varepsilon, \qquad \frac1{w^2} = \frac1{s^2(h)} + g

    as if y had measured it with precision g. b and g are such that at the guide's h it has the guide's mean and width.
    Where y says nothing of z, g = b = 0, and ε keeps its distribution whatever h is; where y says all, z stands still.

    Args:
        fits: Fitted posteriors of one image.
        seed: Seed of the draws that tell places and widths.
    """

    def __init__(self, fits: Sequence[Posterior], seed: int) -> None:
        self.fits, self.model, self.y = fits, fits[0].model, fits[0].y
        with seeded(derived_seed(seed, "pilot")):
            drawn = self._drawn(_PILOT_DRAWS)
        supports = {name: prior.support for name, prior in self.model.physics_priors.items()}
        self.transforms = {name: biject_to(supports.get(name, constraints.real)) for name in drawn}
        free = {name: self.transforms[name].inv(value) for name, value in drawn.items()}
        self.shapes = {name: value.shape[1:] for name, value in free.items()}
        #: Dimensions of all latents but the image, which come first.
        self.num_together = sum(shape.numel() for name, shape in self.shapes.items() if name != _IMAGE)
        self.centre = {name: value.mean(0) for name, value in free.items()}
        # A point mass has no width of its own.
        self.width = {name: value.std(0).clamp_min(1e-4) for name, value in free.items()}
        self.precision: dict[str, Tensor] = {}
        self.pull: dict[str, Tensor] = {}
        self._free_conditionals()

    @torch.no_grad()
    def _free_conditionals(self) -> None:
        """What y says of sites whose prior depends on other sites, beyond that prior at the guide's centre."""
        trace = self._trace_at_centre()
        for name in self.shapes:
            prior = _conditional(nodes_of(trace)[name]["fn"]) if name in nodes_of(trace) else None
            if prior is None:
                continue
            mean, variance, own = prior.mean[0], prior.variance[0], self.width[name].square()
            told = own < variance
            self.precision[name] = torch.where(told, 1 / own - 1 / variance, 0)
            self.pull[name] = torch.where(told, self.centre[name] / own - mean / variance, 0)

    @torch.no_grad()
    def start(self, n: int) -> Tensor:
        """Positions (n, D) of draws of the guides."""
        drawn = self._drawn(n)
        y = self.y.expand(n, *self.y.shape[1:])
        trace = poutine.trace(poutine.condition(self.model.image, data=drawn)).get_trace(y)
        parts = []
        for name, value in drawn.items():
            free = self.transforms[name].inv(value)
            centre, width = self._place(name, nodes_of(trace)[name]["fn"] if name in self.precision else None)
            parts.append(((free - centre) / width).reshape(n, -1))
        return torch.cat(parts, 1)

    def log_density(self, position: Tensor) -> Tensor:
        """log p(y, x, z, h) and the transforms' Jacobian at positions (n, D): (n,)."""
        placed = _Placed(self, position)
        y = self.y.expand(len(position), *self.y.shape[1:])
        with poutine.trace() as traced, placed:
            self.model(y)
        traced.trace.compute_log_prob(site_filter=lambda name, site: not site_is_subsample(site))
        sites = (s for s in nodes_of(traced.trace).values() if s["type"] == "sample" and not site_is_subsample(s))
        return sum((site["log_prob"] for site in sites), start=placed.log_jacobian)

    def information(self, positions: Tensor, at_once: int) -> tuple[Tensor, Tensor] | None:
        r"""Fisher's information of the measurement, averaged over positions (n, D), and the prior's precision.

        .. math:: E\big[\nabla \log p(y'|x)\, \nabla \log p(y'|x)^T\big], \quad y' \sim p(y|x),
            \qquad \text{and } \mathrm{diag}\big(a^2 / \mathrm{Var}[p(v)]\big)

        One simulated measurement a position: it works for every operator and noise.

        Returns:
            The matrix (k, k) of all latents but the image, and the diagonal (D - k,) of the image's, which is large and
            hardly correlated; None where the likelihood has no gradient that is of use.
        """
        k, prior = self.num_together, self._prior_precision()
        matrix, rest = torch.diag(prior[:k]), prior[k:].clone()
        for some in positions.split(at_once):
            scores = self._scores(some) / len(positions) ** 0.5
            matrix += scores[:, :k].T @ scores[:, :k]
            rest += scores[:, k:].square().sum(0)
        return (matrix, rest) if bool(matrix.isfinite().all() & rest.isfinite().all()) else None

    def _scores(self, position: Tensor) -> Tensor:
        """Gradients (n, D) of log p(y'|x), y' a measurement simulated at each position."""
        position = position.detach().requires_grad_()
        y = self.y.expand(len(position), *self.y.shape[1:])
        with _Placed(self, position):
            p_y = self.model.measurement(y)
        again, observed = p_y.sample(), observed_mask(self.model.physics, y)
        log_likelihood = torch.where(observed, p_y.log_prob(again), 0)
        return torch.autograd.grad(log_likelihood.sum(), position)[0]

    @torch.no_grad()
    def _prior_precision(self) -> Tensor:
        """Precision of the priors at the guides' centre in units of the coordinates' widths, (D,)."""
        trace, parts = self._trace_at_centre(), []
        for name, width in self.width.items():
            ratio = torch.ones_like(width)
            if name in nodes_of(trace):  # otherwise it is a parameter of operator or noise
                with contextlib.suppress(NotImplementedError):
                    ratio = width.square() / nodes_of(trace)[name]["fn"].variance[0]
            parts.append(ratio.clamp(*_PRIOR_PRECISIONS).reshape(-1))
        return torch.cat(parts)

    @torch.no_grad()
    def images_and_latents(self, position: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Images (n, C, H, W) at positions (n, D), and latents by site."""
        placed = _Placed(self, position)
        with placed:
            image = self.model.unmeasured(self.y.expand(len(position), *self.y.shape[1:]))
        return image.expand(len(position), *self.fits[0].shape[1:]), placed.values

    def _trace_at_centre(self) -> poutine.Trace:
        """The generative model at the guides' mean."""
        at = {name: self.transforms[name](value)[None] for name, value in self.centre.items()}
        with pyro.validation_enabled(False):
            return poutine.trace(poutine.condition(self.model.image, data=at)).get_trace(self.y)

    def _drawn(self, n: int) -> dict[str, Tensor]:
        """Latents (n, *event) by site, drawn from each fit's guide in turn."""
        each = [latents_of(fit.guide_trace(-(-n // len(self.fits)))) for fit in self.fits]
        names = sorted(each[0], key=lambda name: name == _IMAGE)  # the image last, the others in their order
        return {name: torch.stack([drawn[name][:, 0] for drawn in each], 1).flatten(0, 1)[:n] for name in names}

    def _place(self, name: str, prior: Any) -> tuple[Tensor, Tensor]:
        """Centre and width of a site's coordinate, given its prior where that depends on other sites."""
        own = _conditional(prior) if name in self.precision else None
        if own is None:
            return self.centre[name], self.width[name]
        variance = 1 / (1 / own.variance + self.precision[name])
        return variance * (own.mean / own.variance + self.pull[name]), variance.sqrt()


class _Placed(Messenger):
    """Gives every latent site its value at positions."""

    def __init__(self, coordinates: Coordinates, position: Tensor) -> None:
        super().__init__()
        self._coordinates = coordinates
        sizes = [shape.numel() for shape in coordinates.shapes.values()]
        parts = zip(coordinates.shapes.items(), position.split(sizes, 1), strict=True)
        self._standard = {name: part.reshape(-1, *shape) for (name, shape), part in parts}
        self.log_jacobian = position.new_zeros(len(position))
        self.values: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        if name not in self._standard:
            return
        centre, width = self._coordinates._place(name, msg["fn"])
        free, transform = centre + width * self._standard[name], self._coordinates.transforms[name]
        msg["value"] = self.values[name] = transform(free)
        msg["done"] = True
        n = len(self.log_jacobian)
        jacobian = width.log() + transform.log_abs_det_jacobian(free, msg["value"])
        self.log_jacobian = self.log_jacobian + jacobian.expand(free.shape).reshape(n, -1).sum(1)


def _conditional(prior: Any) -> GaussianUniform | None:
    """The prior of z given h, if this is one."""
    while isinstance(prior, torch.distributions.Independent):
        prior = prior.base_dist
    return prior if isinstance(prior, GaussianUniform) else None
