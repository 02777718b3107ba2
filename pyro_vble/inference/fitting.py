"""Fitting a guide to a measurement with Pyro's SVI."""

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_vble._arguments import Progress
from pyro_vble.guides.abilities import is_reparameterised
from pyro_vble.guides.parameters import parameter_scope, parameters_of, with_own_parameters
from pyro_vble.inference.adam import ScheduledAdam, adam_for
from pyro_vble.inference.captured import CapturedSVI
from pyro_vble.inference.convergence import Travel, has_settled
from pyro_vble.inference.elbo import elbo_for
from pyro_vble.inference.following import Follower, prior_follower
from pyro_vble.inference.precision import dtype_of, network_precision, suited_precision
from pyro_vble.inference.result import Fit, FitDivergedError
from pyro_vble.inference.settings import FitSettings
from pyro_vble.inference.svi import FitSVI
from pyro_vble.inference.tempering import tempered
from pyro_vble.models.restoration import RestorationModel
from pyro_vble.physics import observed_mask
from pyro_vble.seeding import seeded

_MAX_ROLLBACKS = 5
_SNAPSHOT_EVERY = 10


def fit_guide(
    model: RestorationModel,
    guide: Callable,
    y: Tensor,
    settings: FitSettings | None = None,
    *,
    seed: int | None = None,
    precision: str = "auto",
    progress: Progress = False,
) -> Fit:
    """Fit a guide to one measurement (or a batch of them); what :func:`pyro_vble.fit` does, without the posterior.

    Args:
        model: A :class:`~pyro_vble.models.RestorationModel`.
        guide: A guide of it, taking y.
        y: Measurement (B, ...), on the model's device and in its precision; NaN where unobserved.
        settings: How.
        seed: Seed of this fit's random numbers; the global generator is left as it was.
        precision: "float32", "float64", "bfloat16" (of the networks only), or "auto".
        progress: Show a bar; or a callable that wraps the iterable of steps.

    Raises:
        ValueError: If y, or the guide's parameters, cannot be computed with.
        FitDivergedError: After five rollbacks, or if no loss was finite; it carries the last good state.
    """
    settings = settings or FitSettings()
    guide, y = with_own_parameters(guide), _differentiable(y)
    precision = suited_precision(precision, model, y)
    _check(guide, y, precision)
    num_values = int(observed_mask(model.physics, y).sum())
    trace: list[float] = []
    interrupted, diverged = False, ""
    scopes = seeded(seed), network_precision(precision, y.device), parameter_scope(guide)
    with contextlib.ExitStack() as stack:
        for scope in (torch.inference_mode(False), torch.enable_grad(), *scopes):
            stack.enter_context(scope)
        try:
            svi = svi_of(model, guide, y, settings)
            for loss in _losses(svi, y, settings, Travel(guide), trace, num_values, progress):
                trace.append(-loss)
        except KeyboardInterrupt:
            interrupted = True
            warnings.warn(
                f"Interrupted after {len(trace)} of {settings.num_steps} steps: the posterior so far is returned.",
                stacklevel=3,
            )
        except _Diverged as error:
            diverged = str(error)
    fitted = Fit(model, guide, y, torch.tensor(trace), precision, seed, interrupted)
    if diverged:  # outside the handler: the error that a caller keeps would keep the whole fit
        raise FitDivergedError(
            f"The loss must be finite; it was {diverged} at halved learning rates from {settings.lr}; check the noise "
            "level and the scale of y, or lower lr. The exception's attribute `posterior` holds the last good state.",
            fitted,
        )
    return fitted


def svi_of(
    model: RestorationModel, guide: Callable, y: Tensor, settings: FitSettings, *, eager: bool = False
) -> FitSVI:
    """Pyro's SVI of a fit: its steps are captured on CUDA where every site is reparameterised, unless ``eager``."""
    reparameterised = is_reparameterised(guide, y)
    elbo = elbo_for(guide, settings, reparameterised=reparameterised, on_cuda=y.is_cuda)
    adam = adam_for(guide, settings)
    svi = CapturedSVI if y.is_cuda and reparameterised and not eager else FitSVI
    programs = tempered(model, settings.kl_weight), tempered(guide, settings.kl_weight)
    moving = settings.schedule != "constant"
    follower = prior_follower(guide, model, y, settings.kl_weight) if moving else Follower()
    return svi(*programs, adam, loss=elbo, of=guide, follower=follower)


def _losses(
    svi: FitSVI,
    y: Tensor,
    settings: FitSettings,
    travel: Travel,
    trace: list[float],
    num_values: int,
    progress: Progress,
) -> Iterator[float]:
    """Take steps, yielding the loss of each that was finite; one that is not takes the fit back to its last state.

    A fit whose centres have come to rest goes on with the last part of its schedule, in which the rate falls and
    centres are averaged; at a constant rate it ends as its ELBO has settled.
    """
    optim: ScheduledAdam = svi.optim
    snapshot = candidate = svi.saved()
    rollbacks, progressed, loss = 0, False, math.nan
    unread: list[Tensor] = []
    place = 0  # in the schedule
    bar = _bar(progress, settings.num_steps)
    try:
        for step in bar:
            if place >= settings.num_steps:
                break
            if step % _SNAPSHOT_EVERY == 0:
                candidate = svi.saved()
            optim.rate = settings.rate(place) / 2**rollbacks
            with pyro.validation_enabled(step == 0):  # after the first step, checks would only cost time
                unread.append(svi.step(y))
            place += 1
            if place > settings.tail:
                svi.collect()
            elif step % settings.look_every == settings.look_every - 1 and settings.may_stop and travel.is_over():
                place = settings.tail
            if len(unread) < svi.read_every and place < settings.num_steps:
                continue
            losses, unread, looked_at = torch.stack(unread).tolist(), [], len(trace)
            for loss in losses:
                if not math.isfinite(loss):
                    break
                snapshot, progressed = candidate, True
                yield loss
            if math.isfinite(loss):
                if hasattr(bar, "set_postfix") and step % _SNAPSHOT_EVERY == _SNAPSHOT_EVERY - 1:
                    bar.set_postfix(elbo=f"{-loss:,.0f}", refresh=False)
                if _ends_early(trace, looked_at, settings, num_values):
                    break
                continue
            svi.restore(snapshot)
            candidate = snapshot
            rollbacks += 1
            if rollbacks == _MAX_ROLLBACKS:
                raise _Diverged(f"{loss} {_MAX_ROLLBACKS} times,")
        if rollbacks and not progressed:
            raise _Diverged(f"{loss} at every step,")
    finally:
        svi.settle()
        svi.release()
        # The last update, after which the fit ended or was interrupted, has had no loss to judge it.
        if not all(bool(value.isfinite().all()) for value in svi.parameters):
            svi.restore(snapshot)


class _Diverged(Exception):
    """Too many rollbacks, or no finite loss at all; says which."""


def _differentiable(y: Tensor) -> Tensor:
    with torch.inference_mode(False):
        return y.clone() if y.is_inference() else y.detach()


def _check(guide: Callable, y: Tensor, precision: str) -> None:
    if any(p.is_inference() for p in parameters_of(guide)):
        raise ValueError(
            "A guide's parameters must be able to have gradients; received a guide that was built under "
            "torch.inference_mode; build it outside, or within torch.inference_mode(False)."
        )
    if not len(y):
        raise ValueError(f"y must hold at least one measurement; received a batch of none, {tuple(y.shape)}.")
    if y.dtype != dtype_of(precision):
        raise ValueError(
            f"precision={precision!r} computes in {dtype_of(precision)}; received a measurement in {y.dtype}; convert "
            "model.prior, the operator and y before building the guide, or leave it to restore."
        )


def _ends_early(trace: list[float], looked_at: int, settings: FitSettings, num_values: int) -> bool:
    """Whether a fit is done: where the rate falls, a plateau at a high one is its noise, which the rest removes."""
    low = settings.schedule == "constant" or settings.rate(len(trace)) <= settings.lr / 10
    return low and has_settled(trace, looked_at, settings, num_values)


def _bar(progress: Any, num_steps: int) -> Any:
    if callable(progress):
        return progress(range(num_steps))
    if not progress:
        return range(num_steps)
    from tqdm.auto import tqdm

    return tqdm(range(num_steps), desc="fit", unit="step", leave=False)
