"""The methods by name: each is (y, physics) -> Samples, once it knows what it stands on."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from pyro_vble import baselines
from pyro_vble.baselines.point import point
from pyro_vble.benchmark.problems import Published
from pyro_vble.benchmark.resources import Resources
from pyro_vble.guides import VBLE, VBLExz
from pyro_vble.physics import image_shape_of, initial_image, operator_on
from pyro_vble.restoration import restore
from pyro_vble.samples import Samples

#: Guides by the names that settings have for them; without one the default of the quality is taken.
GUIDES: dict[str, Callable] = {
    "vble": VBLE,
    "vble-uniform": functools.partial(VBLE, family="uniform"),
    "vble-xz": VBLExz,
    "vble-xz-free": functools.partial(VBLExz, free_mean=True),
}


@dataclass(frozen=True)
class Given:
    """What a call gets besides measurement and operator.

    Attributes:
        resources: What it stands on.
        settings: Its arguments.
        seed: Its seed.
        published: What the authors of VBLE chose for the problem, if anything.
    """

    resources: Resources
    settings: dict[str, Any]
    seed: int
    published: Published | None = None

    @property
    def device(self) -> str:
        """Where it computes."""
        return str(self.resources.device)


@dataclass(frozen=True)
class Call:
    """How a method is called.

    Attributes:
        run: (y, physics, given) -> Samples.
        needs: "prior", "denoiser", "network", or None.
        samples: "none" for a point estimate; "drawn" where samples follow a fit, as many as one likes; "repeated" where
            each is another run; "chain" where they are the method.
    """

    run: Callable[[Tensor, Any, Given], Samples]
    needs: Literal["prior", "denoiser", "network"] | None = None
    samples: Literal["none", "drawn", "repeated", "chain"] = "none"


def _first_guess(y: Tensor, physics: Any, given: Given) -> Samples:
    operator = operator_on(physics, y.device, y.dtype)
    return point(initial_image(operator, y, image_shape_of(operator, y)), y, physics, "first guess")


def _restore(y: Tensor, physics: Any, given: Given) -> Samples:
    settings = dict(given.settings)
    guide = GUIDES[settings.pop("guide")] if "guide" in settings else None
    how = {"seed": given.seed, "device": given.device, "progress": False}
    return restore(y, physics, given.resources.prior, guide, **how, **settings)


def _restore_published(y: Tensor, physics: Any, given: Given) -> Samples:
    """At the bitrate and weight of the prior that the authors chose for the problem, as near as one network comes."""
    if given.published is None:
        raise ValueError("A problem without published alpha and kl_weight has no method as published; leave it out.")
    alpha = getattr(given.resources.prior, "alpha", None)
    scale = 1.0 if alpha is None else min(1.0, math.sqrt(given.published.alpha / alpha))
    chosen = {"rate_scale": scale, "kl_weight": given.published.kl_weight}
    return _restore(y, physics, Given(given.resources, given.settings | chosen, given.seed))


def _of_prior(function: Callable[..., Samples], *, seeded: bool) -> Callable[[Tensor, Any, Given], Samples]:
    def run(y: Tensor, physics: Any, given: Given) -> Samples:
        how = {"seed": given.seed, "progress": False} if seeded else {}
        return function(y, physics, given.resources.prior, device=given.device, **how, **given.settings)

    return run


def _of_denoiser(function: Callable[..., Samples], *, seeded: bool) -> Callable[[Tensor, Any, Given], Samples]:
    def run(y: Tensor, physics: Any, given: Given) -> Samples:
        how = {"seed": given.seed} if seeded else {}
        return function(y, physics, given.resources.denoiser, device=given.device, **how, **given.settings)

    return run


def _of_nothing(function: Callable[..., Samples]) -> Callable[[Tensor, Any, Given], Samples]:
    return lambda y, physics, given: function(y, physics, device=given.device, **given.settings)


def enlargement(y: Tensor, physics: Any) -> int:
    """How many times as wide as its measurement the image is."""
    return image_shape_of(physics, y)[-1] // y.shape[-1]


def _direct(y: Tensor, physics: Any, given: Given) -> Samples:
    path = given.resources.direct_path(given.settings["architecture"], enlargement(y, physics))
    return baselines.direct(y, physics, given.resources.direct(path), device=given.device)


#: The calls that settings name.
CALLS: dict[str, Call] = {
    "first_guess": Call(_first_guess),
    "map_tv": Call(_of_nothing(baselines.map_tv)),
    "map_wavelet": Call(_of_nothing(baselines.map_wavelet)),
    "bay_if": Call(_of_nothing(baselines.bay_if)),
    "direct": Call(_direct, "network"),
    "dpir": Call(_of_denoiser(baselines.dpir, seeded=False), "denoiser"),
    "sat_dpir": Call(_of_denoiser(baselines.sat_dpir, seeded=False), "denoiser"),
    "diffpir": Call(_of_denoiser(baselines.diffpir, seeded=True), "denoiser", "repeated"),
    "pnp_ula": Call(_of_denoiser(baselines.pnp_ula, seeded=True), "denoiser", "chain"),
    "csgm": Call(_of_prior(baselines.csgm, seeded=True), "prior"),
    "map_z": Call(_of_prior(baselines.map_z, seeded=True), "prior"),
    "jpmap": Call(_of_prior(baselines.jpmap, seeded=False), "prior"),
    "restore": Call(_restore, "prior", "drawn"),
    "restore_published": Call(_restore_published, "prior", "drawn"),
}
