"""Restoring an image in one call."""

import functools
import os
from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vble.ensemble import EnsemblePosterior
from pyro_vble.guides import VBLE, MAPz, MeanFieldGuide
from pyro_vble.guides._factors import ConstrainedFactor
from pyro_vble.guides._mean_field import LatentImageError
from pyro_vble.guides._parameters import local_parameters
from pyro_vble.inference import best_rate_scale, fit_batch, resolve_device, resolve_precision
from pyro_vble.inference.precision import dtype_of
from pyro_vble.inference.settings import Progress
from pyro_vble.models import CAE, Prior, RestorationModel
from pyro_vble.models._prior import check_prior
from pyro_vble.physics import noise_level, operator_on, part_of
from pyro_vble.posterior import Posterior
from pyro_vble.seeding import as_seed, derived_seed, fresh_seed, seeded

# Spacing of bfloat16 numbers just below 1: decoded images are rounded to it, which finer noise would notice.
_BFLOAT16_STEP = 2**-8
# How far the centres of further fits start from the first's: in widths of the guide as it starts, and on the
# unconstrained scale (the logarithm, for a positive one) of parameters of operator and noise.
_SCATTERED_WIDTHS, _SCATTERED_PARAMETER = 3.0, 0.5


def restore(
    y: Tensor | np.ndarray,
    physics: Any,
    prior: Prior | str,
    guide: Callable = VBLE,
    *,
    num_steps: int = 60,
    lr: float = 0.2,
    schedule: str = "linear",
    num_particles: int = 1,
    kl_weight: float = 1.0,
    rate_scale: float | str = 1.0,
    image_shape: tuple[int, int, int] | None = None,
    physics_priors: Mapping[str, Any] | None = None,
    num_fits: int = 1,
    elbo: str = "auto",
    tolerance: float | None = 1e-3,
    seed: int | None = None,
    device: str | torch.device = "auto",
    precision: str = "auto",
    progress: Progress = True,
) -> Posterior:
    r"""Restore an image from a measurement: the variational posterior q(x) ≈ p(x|y).

    .. math:: y = A(x) + w, \qquad p(x, z, h \mid y) \propto p(y|x)\, p(x|z)\, p(z|h)\, p(h)

    Args:
        y: Measurement (B, C, H', W') of images in [0, 1]; NaN where unobserved.
        physics: The forward operator with its noise model, a ``deepinv.physics.Physics`` (or an object with ``A``).
        prior: A prior, or a name or path for :func:`load_prior`.
        guide: The variational family: ``VBLE``, ``VBLExz``, ``MAPz``, or any callable (model, y) -> guide. Options
            travel as ``functools.partial(VBLExz, free_mean=True)``.
        num_steps: Largest number of optimisation steps.
        lr: Learning rate of Adam at the first step.
        schedule: "linear" or "cosine", which end at zero, or "constant".
        num_particles: Draws of the guide a step.
        kl_weight: λ, 1 for Bayes' rule.
        rate_scale: s in (0, 1]: a CAE as if it had been trained with s²·alpha; 1 leaves the prior's own. "auto" lets
            several compete in brief fits at λ = 1 on the ELBO, image by image, and goes on with the best;
            ``posterior.model.prior.rate_scale`` is it.
        image_shape: (C, H, W) of the image, where it can be read neither off the operator nor off the prior.
        physics_priors: Semi-blind restoration: priors of parameters that are not known, of the noise ("sigma", ...)
            or of the operator (arguments of ``physics.A``, such as ``width`` of
            :class:`~pyro_vble.physics.GaussianBlur`). They are inferred with the image, one value an image.
        num_fits: Number of independent fits: their mixture is the posterior, and they are the chains of ``to_arviz``.
            All but the first start scattered, by three widths of the guide as it starts. Interrupted from the
            keyboard, those that are complete remain.
        elbo: "auto", "trace" or "mean_field", see :func:`fit`.
        tolerance: Early stopping, see :func:`fit`; None switches it off.
        seed: The same seed gives the same bits on CPU, as long as memory takes a batch in the same parts.
        device: "auto" (CUDA where there is one) or a torch device.
        precision: "float32", "float64", "bfloat16" (of the networks only), or "auto": float64 for a prior in float64,
            else bfloat16 where the processor has it and the noise hides its rounding, else float32.
        progress: Show a progress bar.

    Returns:
        The posterior: estimates, samples and error bars. Neither ``prior`` nor ``physics`` is changed.

    Raises:
        TypeError: If the prior, the operator, the noise model or y is of an unknown type.
        ValueError: If y does not fit the operator, the prior or the scale [0, 1], or a setting is out of range.
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
    if not callable(guide) or isinstance(guide, MeanFieldGuide):
        raise TypeError(
            "guide must be a guide class, or any callable (model, y) -> guide; received "
            f"{guide if isinstance(guide, str) else 'a guide that is already built'!r}; pass VBLE, VBLExz, MAPz, or "
            "functools.partial(VBLExz, free_mean=True)."
        )
    if not (isinstance(num_fits, Integral) and num_fits >= 1):
        raise ValueError(f"num_fits must be a whole number of at least 1; received {num_fits!r}.")
    y = _measurement_tensor(y)
    prior = _prior(prior)
    device = resolve_device(device)
    requested, precision = precision, resolve_precision(precision, prior, device)
    chosen_for_us = requested == "auto" and precision == "bfloat16"
    dtype = dtype_of(precision)
    competing = rate_scale == "auto" and isinstance(prior, CAE)

    data = y.to(device, dtype, copy=True)
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
                scaled, physics, latent_image=latent_image, image_shape=image_shape, physics_priors=physics_priors
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
    if chosen_for_us and _noise(model, data) < _BFLOAT16_STEP:
        precision = "float32"
    settings = {"lr": lr, "num_particles": num_particles, "elbo": elbo, "seed": seed, "precision": precision}
    if competing and _unwrapped(guide) is MAPz:  # a point has no evidence: VBLE judges for it
        judging = {"fit": functools.partial(fit, guide=VBLE)}
        judge, _ = best_rate_scale(functools.partial(build, guide=VBLE), data, **judging, **settings)
        model, fitted_guide = build(judge.prior.rate_scale)
    elif competing:
        model, fitted_guide = best_rate_scale(build, data, fit=fit, **settings)
    settings |= {"num_steps": num_steps, "schedule": schedule, "kl_weight": kl_weight}
    settings |= {"tolerance": tolerance, "progress": progress}
    chosen = getattr(model.prior, "rate_scale", 1.0)
    seed = fresh_seed() if seed is None and num_fits > 1 else as_seed(seed)
    fits = []
    for k in range(num_fits):
        if k:
            model, fitted_guide = build(chosen)
            with seeded(derived_seed(seed, "scatter", k)):
                _scatter(fitted_guide, data)
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


def _noise(model: RestorationModel, y: Tensor) -> float:
    return noise_level(model.physics, y, model.image_shape(y), model.initial_parameters(y))


@torch.no_grad()
def _scatter(guide: Callable, y: Tensor) -> None:
    """Move the centres of a guide by some of its widths: fits that agree from scattered starts have converged."""
    if not isinstance(guide, MeanFieldGuide):
        return
    for site, value in guide(y).items():
        factor = guide.factors[site]
        if isinstance(factor, ConstrainedFactor):
            factor.loc.add_(_SCATTERED_PARAMETER * torch.randn_like(factor.loc))
        elif factor.loc.requires_grad:
            factor.loc.add_(_SCATTERED_WIDTHS * (value - factor.loc))


def model_and_guide(
    guide: Callable, build_model: Callable[[bool], RestorationModel], y: Tensor
) -> tuple[RestorationModel, Callable]:
    """A guide and the model it wants, which ``build_model`` makes with the image as a latent or without."""
    latent_image = getattr(_unwrapped(guide), "latent_image", False)
    with local_parameters():  # fits of several images must not meet in Pyro's global store
        model = build_model(latent_image)
        try:
            return model, guide(model, y)
        except LatentImageError:  # a callable that hides which guide it makes
            model = build_model(not latent_image)
            return model, guide(model, y)


def _measurement_tensor(y: Any) -> Tensor:
    if isinstance(y, np.ndarray):
        y = torch.from_numpy(y)
    if not isinstance(y, Tensor) or not y.is_floating_point():
        kind = f"{y.dtype} tensor" if isinstance(y, Tensor) else type(y).__name__
        remedy = "convert integers with y / 255 (8 bits) or y / 65535 (16 bits)"
        if isinstance(y, Tensor) and y.is_complex():
            remedy = (
                "give real and imaginary part as numbers of their own (torch.view_as_real), in y and in what A returns"
            )
        raise TypeError(f"y must be a floating-point tensor or array on the scale [0, 1]; received {kind}; {remedy}.")
    if y.dim() < 2 or 0 in y.shape:
        raise ValueError(
            f"y must be a batch of measurements (B, C, H', W'), none of them empty; received shape {tuple(y.shape)}."
        )
    return y


def _prior(prior: Prior | str) -> Prior:
    if isinstance(prior, str | os.PathLike):
        from pyro_vble.io.priors import load_prior

        prior = load_prior(prior)
    check_prior(prior)
    return prior


def _unwrapped(guide: Callable) -> Callable:
    return guide.func if isinstance(guide, functools.partial) else guide
