"""Restoring an image in one call."""

import itertools
import os
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from pyro_vble._arguments import (
    BrokenRuleError,
    Count,
    ImageShape,
    Named,
    NotNegative,
    Positive,
    Progress,
    Rule,
    Seed,
    brief,
    checked,
    one_of,
    rate_scale_of,
)
from pyro_vble._one_at_a_time import one_at_a_time
from pyro_vble.guides import VBLE, MAPz, default_guide
from pyro_vble.guides.abilities import check_can_scatter, scatter
from pyro_vble.guides.building import unwrapped
from pyro_vble.inference import FitDivergedError, FitSettings, Problem, best_rate_scale, fit_batch, resolve_device
from pyro_vble.inference.batches import is_out_of_memory
from pyro_vble.inference.precision import Device, Precision, dtype_of, resolve_precision, suited_precision
from pyro_vble.inference.settings import QUALITIES, ELBOName, Quality, Schedule
from pyro_vble.models import CAE, Prior
from pyro_vble.models.prior import check_prior
from pyro_vble.models.turned import SYMMETRIES, UPRIGHT, Turn, TurnedPrior, upright
from pyro_vble.physics import joined, operator_arguments
from pyro_vble.samples import Mixture, Posterior
from pyro_vble.seeding import derived_seed, fresh_seed, seeded


def _scale(value: Any) -> Any:
    if isinstance(value, str):
        if value != "auto":
            raise BrokenRuleError("value")
        return value
    return rate_scale_of(value)


RateScale = Annotated[
    Any, Rule('a number in (0, 1] or "auto"', _scale, "for a higher bitrate load a prior of larger alpha")
]
Symmetries = Annotated[str, one_of(*SYMMETRIES)]


@one_at_a_time
@checked
def restore(
    y: Any,
    physics: Any,
    prior: Any,
    guide: Any = None,
    *,
    quality: Quality = "fast",
    num_steps: Count | None = None,
    lr: Positive = 0.2,
    schedule: Schedule = "linear",
    num_particles: Count = 1,
    kl_weight: NotNegative = 1.0,
    rate_scale: RateScale = 1.0,
    image_shape: ImageShape | None = None,
    physics_priors: Named | None = None,
    symmetries: Symmetries | None = None,
    num_fits: Count = 1,
    elbo: ELBOName = "auto",
    tolerance: NotNegative | None = 1e-3,
    seed: Seed | None = None,
    device: Device = "auto",
    precision: Precision = "auto",
    progress: Progress = True,
) -> Posterior | Mixture:
    r"""Restore an image from a measurement: the variational posterior q(x) ≈ p(x|y).

    .. math:: y = A(x) + w, \qquad p(x, z, h \mid y) \propto p(y|x)\, p(x|z)\, p(z|h)\, p(h)

    Args:
        y: Measurement (B, C, H', W') of images in [0, 1]; NaN where unobserved. A list of several measurements of one
            image (or deepinv's ``TensorList``) works too: the likelihood is the product of theirs.
        physics: The forward operator with its noise model, a ``deepinv.physics.Physics`` (or an object with ``A``). For
            several measurements a list of operators, a ``StackedPhysics`` or a
            :class:`~pyro_vble.physics.Jointly`, whose ``split`` takes ``posterior.predictive(n)`` apart.
        prior: A prior, or a name or path for :func:`load_prior`.
        guide: The variational family, by default VBLE-xz with a free mean: ``VBLE`` (1.6 times as fast, its error bars
            narrower), ``VBLExz``, ``MAPz``, one of Pyro's automatic guides
            (``pyro.infer.autoguide.AutoNormal``, ...), or any callable (model, y) -> guide. Options travel as
            ``functools.partial(VBLExz, free_mean=True)``.
        quality: "fast", or "accurate": 300 steps instead of 90, and, if you name no guide, latents whose channels
            correlate. Take it if y leaves much open (a wide blur, many missing pixels): there 90 steps are too few.
        num_steps: Largest number of optimisation steps; that of the quality, if None.
        lr: Learning rate of Adam at the first step.
        schedule: "linear" or "cosine", which end at zero, or "constant".
        num_particles: Draws of the guide a step.
        kl_weight: λ, 1 for Bayes' rule.
        rate_scale: s in (0, 1]: a CAE as if it had been trained with s²·alpha; 1 leaves the prior's own. "auto" fits
            briefly at several scales at λ = 1 and keeps, for each image, the one with the highest ELBO;
            ``posterior.model.prior.rate_scale`` is it. A VAE has no bitrate, and "auto" leaves it as it is.
        image_shape: (C, H, W) of the image, if neither the operator nor the prior determines it.
        physics_priors: Semi-blind restoration: priors of unknown parameters of the noise ("sigma", ...)
            or of the operator (arguments of ``physics.A``, such as ``width`` of
            :class:`~pyro_vble.physics.GaussianBlur`). They are inferred with the image, one value for each image. Those
            of the operator arrive late: a fit then takes the 300 steps of "accurate", whatever the quality.
        symmetries: "flip" averages the prior over left and right, "dihedral" over all n = 8 flips and quarter turns g:
            p(x) = Σ p(g⁻¹x) / n. The posterior is the mixture of n fits, one for each g, and takes n times as long.
            Operator and measurement stay as they are, and need no symmetry. The fits have equal weights: by their
            evidence one would outweigh all others, because ELBOs differ by many nats
            (``posterior.fits[k].elbo``). ``rate_scale="auto"`` chooses once, for the image as it is.
        num_fits: Number of independent fits (for each g of ``symmetries``). Their mixture is the posterior, and they
            are the chains of ``to_arviz``. The first starts at the encoder's latents, the others at random
            displacements of three initial widths; a guide of your own needs a method ``scatter_(y)`` for that. After
            Ctrl-C the completed fits are kept.
        elbo: "auto", "trace" or "mean_field", see :func:`fit`.
        tolerance: Early stopping, see :func:`fit`; None switches it off.
        seed: The same seed gives the same bits on a CPU, as long as a batch is cut into the same parts.
        device: "auto" (CUDA where there is one) or a torch device.
        precision: "float32", "float64", "bfloat16" (networks only), or "auto": float64 for a prior in float64, else
            bfloat16 if the processor has it and the noise hides its rounding, else float32.
        progress: Show a progress bar; or a callable that wraps the iterable of steps.

    One fit runs at a time in a process: threads wait for each other, and get the results of their seeds.

    Returns:
        The posterior: estimates, samples and error bars. Neither ``prior`` nor ``physics`` is changed.

    Raises:
        TypeError: If an argument, the noise model or the sensor is of an unknown type.
        ValueError: If y does not fit the operator, the prior or the scale [0, 1], an operator has no gradient, or a
            setting is out of range.
        MemoryError: If there is not enough memory for one image.
        FitDivergedError: If the loss will not stay finite.

    References:
        | Variational Bayes image restoration with compressive autoencoders (Biquard et al., 2025), algorithm 1
        | https://arxiv.org/abs/2311.17744

    Example:
        >>> import torch, deepinv
        >>> import pyro_vble as pv
        >>> physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))
        >>> posterior = pv.restore(torch.rand(1, 3, 80, 70), physics, "cae-bsd", num_steps=2, progress=False, seed=0)
        >>> posterior.std(8).shape
        torch.Size([1, 3, 80, 70])
    """
    if guide is not None and (not callable(guide) or isinstance(guide, torch.nn.Module)):
        raise TypeError(
            "guide must be a guide class, or any callable (model, y) -> guide; received "
            f"{'a guide that is already built' if callable(guide) else brief(guide)}; pass VBLE, VBLExz, MAPz, "
            "or functools.partial(VBLExz, free_mean=True)."
        )
    prior, device = _prior(prior), resolve_device(device)
    if isinstance(y, list | tuple) or type(y).__name__ == "TensorList":
        y, physics = joined([_measurement_tensor(one) for one in y], physics, image_shape)
    y = _measurement_tensor(y)
    guide = default_guide(quality, prior) if guide is None else guide
    if num_steps is None and operator_arguments(physics, physics_priors or {}):
        num_steps = QUALITIES["accurate"]["num_steps"]  # image and operator get there together, slowly
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
    # A caller's autograd mode is not the fit's: under inference_mode nothing would have a gradient.
    with torch.inference_mode(False), torch.enable_grad():
        try:
            dtype = dtype_of(resolve_precision(precision, prior, device))
            known = {"dtype": dtype, "image_shape": image_shape, "physics_priors": physics_priors}
            problem = Problem.on(device, y, physics, prior, guide, **known)
            turns = (UPRIGHT,) if symmetries is None else SYMMETRIES[symmetries]
            posterior = _restored(problem, settings, rate_scale, turns, num_fits, seed, precision, progress)
            for one in (posterior, *posterior.fits):
                one.output_device = y.device
            return posterior
        except FitDivergedError as error:
            error.posterior = Posterior.of(error.fit, guide)
            raise
        except RuntimeError as error:
            # Also where a guide is built, which decodes the whole image: a fit says so itself.
            if not is_out_of_memory(error):
                raise
            exhausted = str(error).splitlines()[0]
    raise MemoryError(
        f"Memory ran out restoring images measured as {tuple(y.shape)} on {device} ({exhausted}); cut them into "
        'smaller images, or choose precision="bfloat16".'
    )


def _restored(
    problem: Problem,
    settings: FitSettings,
    rate_scale: Any,
    turns: tuple[Turn, ...],
    num_fits: int,
    seed: int | None,
    precision: str,
    progress: Any,
) -> Posterior | Mixture:
    competing = rate_scale == "auto" and isinstance(upright(problem.prior), CAE)
    if not competing and rate_scale not in ("auto", 1):
        problem = problem.at(rate_scale)
    model, guide = (problem.model(), None) if competing else problem.build()
    problem = replace(problem, image_shape=model.image_shape(problem.y))  # known from here on, and checked
    _check_turns(problem.prior, model.image_shape(problem.y), turns)
    precision = suited_precision(precision, model, problem.y)
    if guide is None:
        # A point has no evidence: VBLE judges for it.
        judged = replace(problem, guide=VBLE) if unwrapped(problem.guide) is MAPz else problem
        best, model, guide = best_rate_scale(judged, settings, precision=precision, seed=seed)
        problem = replace(best, guide=problem.guide)
        if judged.guide is not problem.guide:
            model, guide = problem.build()
    if num_fits > 1:
        check_can_scatter(guide)
    if num_fits * len(turns) > 1:
        seed = fresh_seed() if seed is None else seed
    fits = []
    for k, (again, turn) in enumerate(itertools.product(range(num_fits), turns)):
        turned = problem.turned(turn)
        if k:
            model, guide = turned.build()
        if again:  # the first of every turn starts where its encoder says
            with seeded(derived_seed(seed, "scatter", k)):
                scatter(guide, model, turned.y)
        own = derived_seed(seed, "fit", k) if k else seed
        fit = fit_batch(turned, model, guide, settings, precision=precision, seed=own, progress=progress)
        if fit.interrupted and fits:
            break
        fits.append(Posterior.of(fit, problem.guide))
        if fit.interrupted:
            break
    posterior = fits[0] if num_fits * len(turns) == 1 else Mixture(fits)
    posterior.interrupted = fit.interrupted
    return posterior


def _check_turns(prior: Prior, image_shape: tuple[int, int, int], turns: tuple[Turn, ...]) -> None:
    """Raise ValueError, before the first fit, where the turned prior does not make such images."""
    for turn in turns[1:]:
        try:
            TurnedPrior(prior, turn).validate_image_shape(image_shape)
        except ValueError as error:
            raise ValueError(
                f'symmetries must be None or "flip" where a prior of one size makes oblong images; received '
                f'"dihedral" for {image_shape[1]}x{image_shape[2]} pixels ({error}); crop to a square, or use a CAE.'
            ) from error


def _measurement_tensor(y: Any) -> Tensor:
    if isinstance(y, np.ndarray):
        if y.dtype.kind == "f":
            # torch knows the machine's own types and layouts alone: no big-endian or 80-bit numbers, no mirrored rows.
            y = np.ascontiguousarray(y, dtype=np.float32 if y.dtype.itemsize < 4 else None)
            y = y.astype(np.float64 if y.dtype.itemsize >= 8 else np.float32)
            y = torch.from_numpy(y)
        elif y.dtype.kind in "biuc":
            y = torch.from_numpy(np.ascontiguousarray(y).astype(y.dtype.newbyteorder("=")))
    if not isinstance(y, Tensor) or not y.is_floating_point():
        kind = f"{y.dtype} tensor" if isinstance(y, Tensor) else type(y).__name__
        remedy = "convert integers with y / 255 (8 bits) or y / 65535 (16 bits)"
        if isinstance(y, Tensor) and y.is_complex():
            remedy = (
                "give real and imaginary part as numbers of their own (torch.view_as_real), in y and in what A returns"
            )
        raise TypeError(f"y must be a floating-point tensor or array on the scale [0, 1]; received {kind}; {remedy}.")
    if y.layout is not torch.strided or y.is_quantized:
        raise TypeError(f"y must be a dense tensor; received one of layout {y.layout}; pass y.to_dense().")
    if y.is_meta:
        raise TypeError("y must hold values; received a tensor on the device 'meta', which has a shape alone.")
    if y.dim() < 2 or 0 in y.shape:
        raise ValueError(
            f"y must be a batch of measurements (B, C, H', W'), none of them empty; received shape {tuple(y.shape)}."
        )
    return y


def _prior(prior: Any) -> Prior:
    if isinstance(prior, str | os.PathLike):
        from pyro_vble.io.priors import load_prior

        prior = load_prior(prior)
    check_prior(prior)
    return prior
