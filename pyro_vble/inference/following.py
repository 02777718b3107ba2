"""Keeping widths right while the prior beneath them moves."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vble.models.restoration import RestorationModel


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Follower:
    """What follows where the parameters of a fit go.

    Attributes:
        follow: Called after every step.
        start_over: Called where the parameters have gone back to what they were.
    """

    follow: Callable[[], None] = _nothing
    start_over: Callable[[], None] = _nothing


def prior_follower(guide: Callable, model: RestorationModel, y: Tensor, kl_weight: float) -> Follower:
    r"""What follows every step of a fit: the prior's part of a width's precision is exchanged as h moves.

    .. math:: \frac 1{a_k^2} \leftarrow \Big(\frac 1{a_k^2} - \frac \lambda{v_k(\bar h_0)}\Big)_+
        + \frac \lambda{v_k(\bar h)}, \qquad v_k(h) = \mathrm{Var}[p(z_k|h)]

    from the h̄₀ of the step before. A width starts from 1/a² = λ/v + f, f what the measurement tells; left alone it
    would have to learn each change of v from its noisy gradient. Guides whose widths started from nothing of the kind,
    and priors without an h, are left alone.

    Args:
        guide: The guide.
        model: Its model.
        y: Measurement (B, ...).
        kl_weight: λ.
    """
    own: Any = guide
    if not (callable(getattr(own, "follows", None)) and own.follows("z") and "h" in own.median(y)):
        return Follower()

    @torch.no_grad()
    def precision() -> Tensor:
        return kl_weight / model.prior.latent_variance(own.median(y), model.image_shape(y))["z"]

    before = precision().clone()  # of this tensor alone: a captured step reads and writes it

    @torch.no_grad()
    def follow() -> None:
        now = precision()
        own.follow_("z", before, now)
        before.copy_(now)

    @torch.no_grad()
    def start_over() -> None:
        before.copy_(precision())

    return Follower(follow, start_over)
