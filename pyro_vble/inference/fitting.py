"""Fitting a guide to a measurement with Pyro's SVI."""

import contextlib
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any

import torch
from torch import Tensor

from pyro_vble._arguments import BrokenRuleError, Count, Function, NotNegative, Positive, Progress, Rule, Seed, checked
from pyro_vble._one_at_a_time import one_at_a_time
from pyro_vble.guides._parameters import parameter_scope, parameters_of, with_own_parameters
from pyro_vble.inference.precision import Precision, dtype_of, network_precision, suited_precision
from pyro_vble.inference.settings import ELBOName, FitSettings, Schedule
from pyro_vble.inference.snapshot import Snapshot
from pyro_vble.inference.steps import steps_of
from pyro_vble.inference.tempering import tempered
from pyro_vble.physics import observed_mask
from pyro_vble.seeding import seeded


def _model(value: Any) -> Any:
    if not callable(value) or not hasattr(value, "prior") or not hasattr(value, "physics"):
        raise BrokenRuleError("type")
    return value


Model = Annotated[Any, Rule("a pyro_vble.models.RestorationModel", _model)]

_MAX_ROLLBACKS = 5
_SNAPSHOT_EVERY = 10


class FitDivergedError(RuntimeError):
    """The loss would not stay finite.

    Attributes:
        posterior: The posterior of the last good state of the guide.
    """

    def __init__(self, message: str, posterior: Any) -> None:
        super().__init__(message)
        self.posterior = posterior


@one_at_a_time
@checked
def fit(
    model: Model,
    guide: Function,
    y: Tensor,
    *,
    num_steps: Count = 60,
    lr: Positive = 0.2,
    schedule: Schedule = "linear",
    num_particles: Count = 1,
    kl_weight: NotNegative = 1.0,
    elbo: ELBOName = "auto",
    tolerance: NotNegative | None = 1e-3,
    seed: Seed | None = None,
    precision: Precision = "auto",
    progress: Progress = True,
) -> Any:
    r"""Fit a guide to one measurement (or a batch of them) by stochastic variational inference.

    .. math:: \max_q\; E_q[\log p(y|x)] + \lambda\, E_q[\log p(x, z, h) - \log q(x, z, h)]

    by Adam, with Pyro's ``SVI``. A step whose loss is not finite takes the guide back to its last good state, at half
    the learning rate. Interrupted from the keyboard, it returns the posterior so far, and marks it ``interrupted``.

    Args:
        model: A :class:`~pyro_vble.models.RestorationModel`.
        guide: A guide of it, taking y. One that keeps its parameters in Pyro's global store (a function with
            ``pyro.param``) gets a store of its own, which starts empty and goes with the posterior.
        y: Measurement (B, ...), on the model's device and in its precision; NaN where unobserved.
        num_steps: Largest number of steps.
        lr: Learning rate at the first step.
        schedule: "linear" or "cosine" (both to zero at the last step), or "constant".
        num_particles: Draws of the guide a step, in one vectorised pass.
        kl_weight: λ, 1 for Bayes' rule.
        elbo: "trace" (``Trace_ELBO``), "mean_field" (``TraceMeanField_ELBO``: KL terms in closed form where there is
            one, which quietens the gradient of VBLE-xz's b; without one the same estimator), or "auto": the latter
            for this library's guides, which are all mean-field, the former for others.
        tolerance: Stop early when the ELBO, averaged over the last quarter of the steps, surely gains less than this
            over the quarter before, in nats per measured value (with a falling rate, only once it has come down
            to a tenth); None runs all steps.
        seed: Seed of this fit's random numbers, and of the posterior's; the global generator is left as it was.
        precision: "float32", "float64", "bfloat16" (of the networks only), or "auto", as in ``restore``.
        progress: Show a bar; or a callable that wraps the iterable of steps.

    Returns:
        The fitted posterior.

    Raises:
        TypeError: If an argument is of another type.
        ValueError: If a setting is out of range.
        FitDivergedError: After five rollbacks, or if no loss was finite; it carries the posterior of the last good
            state.

    Example:
        >>> import torch, deepinv
        >>> from pyro_vble import fit, load_prior
        >>> from pyro_vble.guides import VBLE
        >>> from pyro_vble.models import RestorationModel
        >>> physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))
        >>> y = torch.rand(1, 3, 64, 64)
        >>> model = RestorationModel(load_prior("cae-bsd"), physics)
        >>> posterior = fit(model, VBLE(model, y), y, num_steps=5, seed=0, progress=False)
        >>> posterior.elbo.shape
        torch.Size([5])
    """
    from pyro_vble.posterior import Posterior

    settings = FitSettings(
        num_steps=num_steps,
        lr=lr,
        schedule=schedule,
        num_particles=num_particles,
        kl_weight=kl_weight,
        elbo=elbo,
        tolerance=tolerance,
    )
    guide = with_own_parameters(guide)
    with torch.inference_mode(False):
        y = y.clone() if y.is_inference() else y.detach()
    if any(p.is_inference() for p in parameters_of(guide)):
        raise ValueError(
            "A guide's parameters must be able to have gradients; received a guide that was built under "
            "torch.inference_mode; build it outside, or within torch.inference_mode(False)."
        )
    precision = suited_precision(precision, model, y)
    if not len(y):
        raise ValueError(f"y must hold at least one measurement; received a batch of none, {tuple(y.shape)}.")
    if y.dtype != dtype_of(precision):
        raise ValueError(
            f"precision={precision!r} computes in {dtype_of(precision)}; received a measurement in {y.dtype}; convert "
            "model.prior, the operator and y before building the guide, or leave it to restore."
        )
    num_values = int(observed_mask(model.physics, y).sum())
    trace: list[float] = []
    interrupted, diverged = False, ""

    def posterior() -> Posterior:
        found = Posterior(model, guide, y, elbo=torch.tensor(trace), precision=precision, seed=seed)
        found.interrupted = interrupted
        return found

    scopes = seeded(seed), network_precision(precision, y.device), parameter_scope(guide)
    with contextlib.ExitStack() as stack:
        for scope in (torch.inference_mode(False), torch.enable_grad(), *scopes):
            stack.enter_context(scope)
        try:
            for loss in _losses(model, guide, y, settings, progress):
                trace.append(-loss)
                if _converged(trace, settings, num_values):
                    break
        except KeyboardInterrupt:
            interrupted = True
            warnings.warn(
                f"Interrupted after {len(trace)} of {num_steps} steps: the posterior so far is returned.", stacklevel=2
            )
        except _Diverged as error:
            diverged = str(error)
    if diverged:  # outside the handler: the error that a caller keeps would keep the whole fit
        raise FitDivergedError(
            f"The loss must be finite; it was {diverged} at halved learning rates from {lr}; check the noise level "
            "and the scale of y, or lower lr. The exception's attribute `posterior` holds the last good state.",
            posterior(),
        )
    return posterior()


def _losses(model: Callable, guide: Callable, y: Tensor, settings: FitSettings, progress: Progress) -> Iterator[float]:
    """Take steps, yielding the loss of each that was finite."""
    programs = tempered(model, settings.kl_weight), tempered(guide, settings.kl_weight)
    steps = steps_of(guide, y, settings, programs)
    snapshot = candidate = Snapshot(steps)
    rollbacks, progressed = 0, False
    unread: list[Tensor] = []
    bar = _bar(progress, settings.num_steps)
    try:
        for step in bar:
            if step % _SNAPSHOT_EVERY == 0:
                candidate = Snapshot(steps)
            # The first step is validated; after it, checks would only cost time.
            unread.append(steps.step(settings.rate(step) / 2**rollbacks, validate=step == 0))
            if len(unread) < steps.read_every and step + 1 < settings.num_steps:
                continue
            losses, unread = torch.stack(unread).tolist(), []
            for loss in losses:
                if not math.isfinite(loss):
                    break
                snapshot, progressed = candidate, True
                yield loss
            if math.isfinite(loss):
                if hasattr(bar, "set_postfix") and step % _SNAPSHOT_EVERY == _SNAPSHOT_EVERY - 1:
                    bar.set_postfix(elbo=f"{-loss:,.0f}", refresh=False)
                continue
            snapshot.restore()
            candidate = snapshot
            rollbacks += 1
            if rollbacks == _MAX_ROLLBACKS:
                raise _Diverged(f"{loss} {_MAX_ROLLBACKS} times,")
        if rollbacks and not progressed:
            raise _Diverged(f"{loss} at every step,")
    finally:
        steps.release()
        # The last update, after which the fit ended or was interrupted, has had no loss to judge it.
        if not all(bool(value.isfinite().all()) for value in steps.parameters):
            snapshot.restore()


class _Diverged(Exception):
    """Too many rollbacks, or no finite loss at all; says which."""


def _converged(trace: list[float], settings: FitSettings, num_values: int) -> bool:
    """Whether the ELBO, smoothed over a window, has surely stopped growing.

    The window is the last quarter of the trace, so that it averages the more noise away the longer the fit takes; sure
    means two standard errors. Where the rate falls, a plateau at a high rate is the rate's own noise, which the rest of
    the schedule removes: it is left to.
    """
    step, window = len(trace), max(settings.window, len(trace) // 4)
    if settings.tolerance is None or step < 2 * window or step % settings.window:
        return False
    if settings.rate(step) > settings.lr / 10 and settings.schedule != "constant":
        return False
    last, before = torch.tensor(trace[-2 * window :], dtype=torch.float64).reshape(2, window).flip(0)
    error = ((last.var() + before.var()) / window).sqrt()
    return float(last.mean() - before.mean() + 2 * error) < settings.tolerance * num_values


def _bar(progress: Progress, num_steps: int) -> Iterable[int]:
    if callable(progress):
        return progress(range(num_steps))
    if not progress:
        return range(num_steps)
    from tqdm.auto import tqdm

    return tqdm(range(num_steps), desc="fit", unit="step", leave=False)
