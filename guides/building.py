"""Building a guide of any kind for a model and a measurement, and starting it where this library's guides start."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions.transforms import AffineTransform, ComposeTransformModule
from pyro.infer.autoguide import AutoGuide, init_to_feasible, init_to_median, init_to_value
from pyro.infer.autoguide.guides import AutoNormalizingFlow
from pyro.infer.autoguide.initialization import InitMessenger
from torch import Tensor, nn
from torch.distributions import biject_to

from pyro_vble.guides._factors import ConstrainedFactor
from pyro_vble.guides._mean_field import MeanFieldGuide
from pyro_vble.guides._parameters import local_parameters, with_own_parameters

# How far the centres of further fits start from the first's: in widths of the guide as it starts, and on the
# unconstrained scale (the logarithm, for a positive one) of parameters of operator and noise.
_SCATTERED_WIDTHS, _SCATTERED_PARAMETER = 3.0, 0.5
# The standard deviation that Pyro's own Gaussian guides start from, for its normalising flows, which have none.
_FLOW_SCALE = 0.1


def build_guide(guide: Callable, model: nn.Module, y: Tensor) -> Callable:
    """The guide of a model and a measurement, with parameters that no other fit shares.

    Pyro's automatic guides, as classes (``AutoNormal``, ``functools.partial(AutoLowRankMultivariateNormal, rank=8)``)
    or made by a callable (model, y) -> guide, start from the model's initial latents; from the prior's median, their
    own start, a fit takes many times as long. One that is given an ``init_loc_fn`` of its own keeps it. Guides written
    as functions with ``pyro.param`` get a parameter store of their own.

    Args:
        guide: A guide class, or a callable (model, y) -> guide.
        model: The :class:`~pyro_vble.models.RestorationModel`.
        y: Measurement (B, ...).
    """
    kind = unwrapped(guide)
    automatic = isinstance(kind, type) and issubclass(kind, AutoGuide)
    arguments = (model,) if automatic else (model, y)
    reason = None
    with local_parameters():  # fits of several images must not meet in Pyro's global store
        try:
            built = guide(*arguments)
        except TypeError as error:
            if error.__traceback__ is None or error.__traceback__.tb_next is not None:
                raise  # from within: a mistake of the guide's own
            reason = str(error)
    if reason is not None:
        raise TypeError(
            f"guide must be a guide class, or a callable (model, y) -> guide; received {_name(guide)}, which cannot be "
            f"called so ({reason}); write lambda model, y: ..."
        )
    if not callable(built):
        raise TypeError(
            f"guide must make a guide, which is called with y; {_name(guide)} returned {type(built).__name__}; let it "
            "return the guide."
        )
    given = isinstance(guide, functools.partial) and "init_loc_fn" in guide.keywords
    if isinstance(built, AutoGuide) and not given and _starts_by_default(built):
        start_at(built, model, _initial_values(model, y))
    return with_own_parameters(built)


def check_can_scatter(guide: Callable) -> None:
    """Raise unless further fits of a guide can start elsewhere than the first.

    Raises:
        ValueError: If nothing is known of where it starts.
    """
    if not (isinstance(guide, MeanFieldGuide | AutoGuide) or callable(getattr(guide, "scatter_", None))):
        raise ValueError(
            f"num_fits starts every fit but the first elsewhere; received {_name(guide)}, of which no way is known; "
            "give it a method scatter_(y) that moves its parameters, or leave num_fits at 1."
        )


@torch.no_grad()
def scatter(guide: Callable, model: nn.Module, y: Tensor) -> None:
    """Move the centres of a guide by some of its widths: fits that agree from scattered starts have converged."""
    check_can_scatter(guide)
    if callable(getattr(guide, "scatter_", None)):
        guide.scatter_(y)
    elif isinstance(guide, MeanFieldGuide):
        points = [site for site, factor in guide.factors.items() if factor.width is None]
        elsewhere = _scattered_values(model, y) if points else {}
        for site, value in guide(y).items():
            factor = guide.factors[site]
            if site in points:  # which have no width of their own
                factor.loc = elsewhere[site]
            elif isinstance(factor, ConstrainedFactor):
                factor.loc.add_(_SCATTERED_PARAMETER * torch.randn_like(factor.loc))
            elif factor.loc.requires_grad:
                factor.loc.add_(_SCATTERED_WIDTHS * (value - factor.loc))
    else:
        start_at(guide, model, _scattered_values(model, y))


def start_at(guide: AutoGuide, model: nn.Module, values: dict[str, Tensor]) -> None:
    """Let one of Pyro's automatic guides, which has not run yet, start at these values of its sites."""
    # Pyro takes a start at construction only, and keeps the model with it here.
    guide._model = (InitMessenger(init_to_value(values=values))(model),)
    if isinstance(guide, AutoNormalizingFlow) and not hasattr(guide, "_flow_alone"):
        guide._flow_alone = flow = guide._init_transform_fn

        def flow_about_the_start(dim: int) -> ComposeTransformModule:
            return ComposeTransformModule([flow(dim), AffineTransform(guide._init_loc(), _FLOW_SCALE)])

        guide._init_transform_fn = flow_about_the_start


def unwrapped(guide: Callable) -> Callable:
    """What a ``functools.partial`` calls; anything else itself."""
    return unwrapped(guide.func) if isinstance(guide, functools.partial) else guide


def _initial_values(model: nn.Module, y: Tensor) -> dict[str, Tensor]:
    """Where this library's guides start, by site."""
    latents = model.initial_latents(y)
    values = model.initial_parameters(y) | latents
    if model.latent_image:
        values["x_decentered"] = next(iter(latents.values())).new_zeros(len(y), *model.image_shape(y))
    return values


def _scattered_values(model: nn.Module, y: Tensor) -> dict[str, Tensor]:
    values = _initial_values(model, y)
    others = {*model.physics_priors, "x_decentered"}
    std = model.initial_std(y, {site: value for site, value in values.items() if site not in others})
    for site, value in values.items():
        if site in model.physics_priors:
            transform = biject_to(model.physics_priors[site].support)
            free = transform.inv(value)
            values[site] = transform(free + _SCATTERED_PARAMETER * torch.randn_like(free))
        else:
            width = std.get(site, model.prior.initial_width["gaussian"])
            values[site] = value + _SCATTERED_WIDTHS * width * torch.randn_like(value)
    return values


def _starts_by_default(guide: AutoGuide) -> bool:
    start = getattr(guide, "init_loc_fn", init_to_median)
    return guide.prototype_trace is None and start in (init_to_median, init_to_feasible)


def _name(guide: Any) -> str:
    return getattr(guide, "__name__", type(guide).__name__)
