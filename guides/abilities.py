"""What the library asks of a guide: methods that a guide may have, with defaults that work for any Pyro guide.

| method or attribute of a guide | what it says | without it |
|---|---|---|
| ``parameter_groups(slow_part)`` | how fast its parameters move, see \
:class:`~pyro_vble.inference.Pace` | all move at the whole rate |
| ``centres()`` | (centre, standard deviation) of its latents, by which a fit judges whether it is over | only the \
ELBO tells |
| ``follows(site)``, ``follow_(site, before, now)`` | whether, and how, widths change with the precision of \
p(z given h) as h moves | they learn it |
| ``rows(images)``, ``write_rows(images, rows)`` | how a batch is fitted in parts | it is fitted whole |
| ``scatter_(y)`` | how a further fit starts elsewhere | Pyro's automatic guides start at scattered values; \
others are refused ``num_fits`` |
| ``reparameterised`` | whether every site is | it is run once, and looked at |
| ``elbo`` | "mean_field", "trace" or "stl" | "trace" |
| ``options`` | keyword arguments that build it again, for a file | those of ``functools.partial`` |
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.infer.autoguide import AutoContinuous, AutoGuide, AutoStructured
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_vble._traces import nodes_of
from pyro_vble.guides.factor import scattered
from pyro_vble.guides.parameters import StoredGuide, parameter_scope
from pyro_vble.guides.starting import start_at
from pyro_vble.models.restoration import RestorationModel
from pyro_vble.seeding import forked_generators


def parameter_groups(guide: Callable, slow_part: float) -> list[dict[str, Any]]:
    """Groups {"params": [...], "part": part of the learning rate}; what is in none of them moves at all of it.

    In Pyro's own guides matrices couple latents: each of n latents is a sum over a row of n numbers, and would move by
    n times the rate.
    """
    if callable(getattr(guide, "parameter_groups", None)):
        return guide.parameter_groups(slow_part)
    if isinstance(guide, AutoContinuous | AutoStructured):
        return [{"params": [p], "part": 1 / p.shape[1]} for p in guide.parameters() if p.dim() == 2]
    return []


def centres(guide: Callable) -> list[tuple[Tensor, Tensor]]:
    """Centres of a guide's latents with their standard deviations, (B, *event) each; none if it does not tell them."""
    return guide.centres() if callable(getattr(guide, "centres", None)) else []


def rows(guide: Callable, images: slice) -> Mapping[str, Tensor] | None:
    """What a guide has learnt of some images of its batch; None if it cannot be told apart."""
    return guide.rows(images) if callable(getattr(guide, "rows", None)) else None


def write_rows(guide: Callable, images: slice, learnt: Mapping[str, Tensor]) -> None:
    """Write what was learnt of some images where they stand in the guide of the whole batch."""
    guide.write_rows(images, learnt)


def copy_rows(guide: Callable, images: slice, other: Callable, its_images: slice) -> None:
    """Write what another guide learnt of some of its images where they stand in the guide of the whole batch.

    Raises:
        ValueError: If that one cannot tell its images apart, although the other does.
    """
    learnt = rows(other, its_images)
    if learnt is None:
        raise ValueError(
            f"A guide that tells its images apart must do so of every batch; the rows of {guide_name(other)} are None "
            "for a part of one; let rows(images) return a mapping for all, or None for all."
        )
    write_rows(guide, images, learnt)


def check_can_scatter(guide: Callable) -> None:
    """Raise unless further fits of a guide can start elsewhere than the first.

    Raises:
        ValueError: If nothing is known of where it starts.
    """
    if not (callable(getattr(guide, "scatter_", None)) or isinstance(guide, AutoGuide)):
        raise ValueError(
            f"num_fits starts every fit but the first elsewhere; received {guide_name(guide)}, of which no way is "
            "known; give it a method scatter_(y) that moves its parameters, or leave num_fits at 1."
        )


@torch.no_grad()
def scatter(guide: Callable, model: RestorationModel, y: Tensor) -> None:
    """Move the centres of a guide by some of its widths: fits that agree from scattered starts have converged."""
    check_can_scatter(guide)
    if callable(method := getattr(guide, "scatter_", None)):
        method(y)
    elif isinstance(guide, AutoGuide):
        start = model.start(y)
        start_at(guide, model, {site: scattered(one.loc, one.std, one.support) for site, one in start.items()})


def is_reparameterised(guide: Callable, y: Tensor) -> bool:
    """Whether every site of a guide is; Pyro's automatic guides make their parameters at this, their first call."""
    if isinstance(said := getattr(guide, "reparameterised", None), bool):
        return said
    with forked_generators(y.device), torch.no_grad(), parameter_scope(guide):
        trace = poutine.trace(guide).get_trace(y)
    samples = [site for site in nodes_of(trace).values() if site["type"] == "sample" and not site_is_subsample(site)]
    return all(site["fn"].has_rsample for site in samples)


def suited_elbo(guide: Callable) -> str:
    """The ELBO that a guide is fitted with unless one is told."""
    return said if isinstance(said := getattr(guide, "elbo", None), str) else "trace"


def guide_name(guide: Any) -> str:
    """What to call a guide, or what makes one: a class, with the options it was given."""
    if isinstance(guide, functools.partial):
        options = ", ".join(f"{key}={value!r}" for key, value in guide.keywords.items())
        return f"{guide_name(guide.func)}({options})"
    guide = guide.function if isinstance(guide, StoredGuide) else guide
    return getattr(guide, "__name__", type(guide).__name__)
