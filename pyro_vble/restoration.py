"""Restoring an image in one call."""

import functools
import os
from collections.abc import Callable
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
    rate_scale_of,
)
from pyro_vble._one_at_a_time import one_at_a_time
from pyro_vble.ensemble import EnsemblePosterior
from pyro_vble.guides import VBLE, MAPz
from pyro_vble.guides._mean_field import LatentImageError
from pyro_vble.guides.building import build_guide, check_can_scatter, scatter, unwrapped
from pyro_vble.inference import best_rate_scale, fit_batch, resolve_device
from pyro_vble.inference.batches import is_out_of_memory
from pyro_vble.inference.precision import Device, Precision, dtype_of, resolve_precision, suited_precision
from pyro_vble.inference.settings import ELBOName, Schedule
from pyro_vble.models import CAE, Prior, RestorationModel
from pyro_vble.models._prior import check_prior
from pyro_vble.physics import operator_on, part_of
from pyro_vble.posterior import Posterior
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


@one_at_a_time
@checked
def restore(
    y: Any,
    physics: Any,
    prior: Any,
    guide: Any = VBLE,
    *,
    num_steps: Count = 60,
    lr: Positive = 0.2,
    schedule: Schedule = "linear",
    num_particles: Count = 1,
    kl_weight: NotNegative = 1.0,
    rate_scale: RateScale = 1.0,
    image_shape: ImageShape | None = None,
    physics_priors: Named | None = None,
    num_fits: Count = 1,
    elbo: ELBOName = "auto",
    tolerance: NotNegative | None = 1e-3,
    seed: Seed | None = None,
    device: Device = "auto",
    precision: Precision = "auto",
    progress: Progress = True,
) -> Posterior:
    r"""Restore an image from a measurement: the variational posterior q(x) ≈ p(x|y).

    .. math:: y = A(x) + w, \qquad p(x, z, h \mid y) \propto p(y|x)\, p(x|z)\, p(z|h)\, p(h)

    Args:
        y: Measurement (B, C, H', W') of images in [0, 1]; NaN where unobserved.
        physics: The forward operator with its noise model, a ``deepinv.physics.Physics`` (or an object with ``A``).
        prior: A prior, or a name or path for :func:`load_prior`.
        guide: The variational family: ``VBLE``, ``VBLExz``, ``MAPz``, one of Pyro's automatic guides
            (``pyro.infer.autoguide.AutoNormal``, ...), or any callable (model, y) -> guide. Options travel as
            ``functools.partial(VBLExz, free_mean=True)``.
        num_steps: Largest number of optimisation steps.
        lr: Learning rate of Adam at the first step.
        schedule: "linear" or "cosine", which end at zero, or "constant".
        num_particles: Draws of the guide a step.
        kl_weight: λ, 1 for Bayes' rule.
        rate_scale: s in (0, 1]: a CAE as if it had been trained with s²·alpha; 1 leaves the prior's own. "auto" lets
            several compete in brief fits at λ = 1 on the ELBO, image by image, and goes on with the best;
            ``posterior.model.prior.rate_scale`` is it. A VAE has no bitrate, and "auto" leaves it as it is.
        image_shape: (C, H, W) of the image, where it can be read neither off the operator nor off the prior.
        physics_priors: Semi-blind restoration: priors of parameters that are not known, of the noise ("sigma", ...)
            or of the operator (arguments of ``physics.A``, such as ``width`` of
            :class:`~pyro_vble.physics.GaussianBlur`). They are inferred with the image, one value an image.
        num_fits: Number of independent fits: their mixture is the posterior, and they are the chains of ``to_arviz``.
            All but the first start scattered, by three widths of the guide as it starts; a guide that is neither this
            library's nor one of Pyro's automatic ones needs a method ``scatter_(y)`` for that. Interrupted from the
            keyboard, those that are complete remain.
        elbo: "auto", "trace" or "mean_field", see :func:`fit`.
        tolerance: Early stopping, see :func:`fit`; None switches it off.
        seed: The same seed gives the same bits on CPU, as long as memory takes a batch in the same parts.
        device: "auto" (CUDA where there is one) or a torch device.
        precision: "float32", "float64", "bfloat16" (of the networks only), or "auto": float64 for a prior in float64,
            else bfloat16 where the processor has it and the noise hides its rounding, else float32.
        progress: Show a progress bar; or a callable that wraps the iterable of steps.

    One fit runs at a time in a process: threads wait for each other, and get the bits of their seeds.

    Returns:
        The posterior: estimates, samples and error bars. Neither ``prior`` nor ``physics`` is changed.

    Raises:
        TypeError: If an argument, the noise model or the sensor is of an unknown type.
        ValueError: If y does not fit the operator, the prior or the scale [0, 1], an operator has no gradient, or a
            setting is out of range.
        MemoryError: If there is not memory enough for one image.
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
    if not callable(guide) or isinstance(guide, torch.nn.Module):
        raise TypeError(
            "guide must be a guide class, or any callable (model, y) -> guide; received "
            f"{'a guide that is already built' if callable(guide) else brief(guide)}; pass VBLE, VBLExz, MAPz, "
            "or functools.partial(VBLExz, free_mean=True)."
        )
    y, prior, device = _measurement_tensor(y), _prior(prior), resolve_device(device)
    # A caller's autograd mode is not the fit's: under inference_mode nothing would have a gradient.
    with torch.inference_mode(False), torch.enable_grad():
        settings = {"num_steps": num_steps, "lr": lr, "schedule": schedule, "num_particles": num_particles}
        settings |= {"kl_weight": kl_weight, "elbo": elbo, "tolerance": tolerance, "progress": progress}
        where = {"device": device, "precision": precision, "image_shape": image_shape, "physics_priors": physics_priors}
        try:
            return _restored(y, physics, prior, guide, rate_scale, num_fits, seed, where, settings)
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
    y: Tensor,
    physics: Any,
    prior: Prior,
    guide: Callable,
    rate_scale: Any,
    num_fits: int,
    seed: int | None,
    where: dict[str, Any],
    settings: dict[str, Any],
) -> Posterior:
    device, requested = where["device"], where["precision"]
    precision = resolve_precision(requested, prior, device)
    dtype = dtype_of(precision)
    competing = rate_scale == "auto" and isinstance(prior, CAE)

    data = y.detach().to(device, dtype, copy=True)
    operator = operator_on(physics, device, dtype)

    def build(
        rate_scale: Any, guide: Callable = guide, images: slice | None = None
    ) -> tuple[RestorationModel, Callable]:
        y, physics = (data, operator) if images is None else (data[images], part_of(operator, images, len(data)))
        if images is not None and isinstance(rate_scale, tuple):
            rate_scale = rate_scale[images]
        scaled = prior.with_rate_scale(rate_scale) if competing or rate_scale != 1 else prior

        def build_model(latent_image: bool) -> RestorationModel:
            model = RestorationModel(
                scaled,
                physics,
                latent_image=latent_image,
                image_shape=where["image_shape"],
                physics_priors=where["physics_priors"],
            )
            model.prior.to(device, dtype)
            return model

        return model_and_guide(guide, build_model, y)

    def fit(
        model: RestorationModel, fitted_guide: Callable, y: Tensor, guide: Callable = guide, **settings: Any
    ) -> Posterior:
        scale = getattr(model.prior, "rate_scale", 1.0)
        return fit_batch(lambda images: build(scale, guide, images), model, fitted_guide, y, **settings)

    model, fitted_guide = build(1.0 if rate_scale == "auto" else rate_scale)
    if num_fits > 1:
        check_can_scatter(fitted_guide)
    precision = suited_precision(requested, model, data)
    settings = settings | {"precision": precision}
    if competing:
        brief_fits = {key: settings[key] for key in ("lr", "num_particles", "elbo", "precision")} | {"seed": seed}
        if unwrapped(guide) is MAPz:  # a point has no evidence: VBLE judges for it
            judging = {"fit": functools.partial(fit, guide=VBLE)}
            judge, _ = best_rate_scale(functools.partial(build, guide=VBLE), data, **judging, **brief_fits)
            model, fitted_guide = build(judge.prior.rate_scale)
        else:
            model, fitted_guide = best_rate_scale(build, data, fit=fit, **brief_fits)
    chosen = getattr(model.prior, "rate_scale", 1.0)
    seed = fresh_seed() if seed is None and num_fits > 1 else seed
    fits = []
    for k in range(num_fits):
        if k:
            model, fitted_guide = build(chosen)
            with seeded(derived_seed(seed, "scatter", k)):
                scatter(fitted_guide, model, data)
        fits.append(fit(model, fitted_guide, data, **settings | {"seed": derived_seed(seed, "fit", k) if k else seed}))
        fits[-1].output_device = y.device
        if fits[-1].interrupted:
            break
    interrupted = fits[-1].interrupted
    if num_fits == 1:
        return fits[0]
    posterior = EnsemblePosterior(fits[:-1] if interrupted and len(fits) > 1 else fits)
    posterior.output_device, posterior.interrupted = y.device, interrupted
    return posterior


def model_and_guide(
    guide: Callable, build_model: Callable[[bool], RestorationModel], y: Tensor
) -> tuple[RestorationModel, Callable]:
    """A guide and the model it wants, which ``build_model`` makes with the image as a latent or without."""
    latent_image = getattr(unwrapped(guide), "latent_image", False)
    model = build_model(latent_image)
    try:
        return model, build_guide(guide, model, y)
    except LatentImageError:  # a callable that hides which guide it makes
        model = build_model(not latent_image)
        return model, build_guide(guide, model, y)


def _measurement_tensor(y: Any) -> Tensor:
    if isinstance(y, np.ndarray):
        if y.dtype.kind == "f":
            # torch knows the machine's own types and layouts alone: no big-endian or 80-bit numbers, no mirrored rows.
            y = np.ascontiguousarray(y, dtype=np.float32 if y.dtype.itemsize < 4 else None)
            y = y.astype(np.float64 if y.dtype.itemsize >= 8 else np.float32)
            y = torch.from_numpy(y)
        elif y.dtype.kind in "biuc":
            y = torch.from_numpy(np.ascontiguousarray(y).astype(y.dtype.newbyteorder("=")))
    if type(y).__name__ == "TensorList":
        raise TypeError(
            "y must be one tensor; received a TensorList, as stacked operators measure; give physics an A that joins "
            "its measurements into one tensor (torch.cat after flatten(1)), and join y likewise."
        )
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
