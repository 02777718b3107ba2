"""Fitting a guide that one has built, in one call."""

from typing import Annotated, Any

from torch import Tensor

from pyro_vble._arguments import BrokenRuleError, Count, Function, NotNegative, Positive, Progress, Rule, Seed, checked
from pyro_vble._one_at_a_time import one_at_a_time
from pyro_vble.inference import FitDivergedError, FitSettings, fit_guide
from pyro_vble.inference.precision import Precision
from pyro_vble.inference.settings import ELBOName, Quality, Schedule
from pyro_vble.samples import Posterior


def _model(value: Any) -> Any:
    if not callable(value) or not hasattr(value, "prior") or not hasattr(value, "physics"):
        raise BrokenRuleError("type")
    return value


Model = Annotated[Any, Rule("a pyro_vble.models.RestorationModel", _model)]


@one_at_a_time
@checked
def fit(
    model: Model,
    guide: Function,
    y: Tensor,
    *,
    quality: Quality = "fast",
    num_steps: Count | None = None,
    lr: Positive = 0.2,
    schedule: Schedule = "linear",
    num_particles: Count = 1,
    kl_weight: NotNegative = 1.0,
    elbo: ELBOName = "auto",
    tolerance: NotNegative | None = 1e-3,
    seed: Seed | None = None,
    precision: Precision = "auto",
    progress: Progress = True,
) -> Posterior:
    r"""Fit a guide to one measurement (or a batch of them) by stochastic variational inference.

    .. math:: \max_q\; E_q[\log p(y|x)] + \lambda\, E_q[\log p(x, z, h) - \log q(x, z, h)]

    by Adam, with Pyro's ``SVI``. A step whose loss is not finite takes the guide back to its last good state, at half
    the learning rate. Interrupted from the keyboard, it returns the posterior so far, and marks it ``interrupted``.

    Args:
        model: A :class:`~pyro_vble.models.RestorationModel`.
        guide: A guide of it, taking y. One that keeps its parameters in Pyro's global store (a function with
            ``pyro.param``) gets a store of its own, which starts empty and goes with the posterior.
        y: Measurement (B, ...), on the model's device and in its precision; NaN where unobserved.
        quality: "fast", 90 steps, or "accurate", 300.
        num_steps: Largest number of steps; that of the quality, if None.
        lr: Learning rate at the first step.
        schedule: "linear" or "cosine" (both to zero at the last step), or "constant".
        num_particles: Draws of the guide a step, in one vectorised pass.
        kl_weight: λ, 1 for Bayes' rule.
        elbo: "trace" (``Trace_ELBO``), "mean_field" (``TraceMeanField_ELBO``: KL terms in closed form where there is
            one, which quietens the gradient of VBLE-xz's b; without one the same estimator), "stl"
            (:class:`~pyro_vble.inference.StickingTheLandingELBO`, for guides without closed KL terms), or "auto": what
            the guide says, "mean_field" for this library's, "trace" for others.
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
    settings = FitSettings.of(
        quality,
        num_steps=num_steps,
        lr=lr,
        schedule=schedule,
        num_particles=num_particles,
        kl_weight=kl_weight,
        elbo=elbo,
        tolerance=tolerance,
    )
    try:
        return Posterior.of(fit_guide(model, guide, y, settings, seed=seed, precision=precision, progress=progress))
    except FitDivergedError as error:
        error.posterior = Posterior.of(error.fit)
        raise
