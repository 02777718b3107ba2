"""Which rate scale suits a measurement: the evidence decides."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vble.guides import MeanFieldGuide
from pyro_vble.inference.evidence import elbo_by_image
from pyro_vble.inference.fitting import FitDivergedError, fit
from pyro_vble.seeding import derived_seed, seeded

#: Rate scales that compete: effective bitrate parameters from alpha down to alpha/16.
RATE_SCALES = (1.0, 0.7, 0.5, 0.35, 0.25)
_STEPS = 15


def best_rate_scale(
    build: Callable[[float | tuple[float, ...]], tuple[nn.Module, Callable]],
    y: Tensor,
    *,
    scales: tuple[float, ...] = RATE_SCALES,
    fit: Callable = fit,
    precision: str = "auto",
    seed: int | None = None,
    **settings: Any,
) -> tuple[nn.Module, Callable]:
    r"""Fit briefly at every rate scale, and go on with the one of the largest ELBO, image by image.

    .. math:: \hat s = \arg\max_s\; \max_q\; E_q\big[\log p_s(y, x, z, h) - \log q(x, z, h)\big]

    The ELBO bounds log p(y) under each scale's prior, so that they compare. The images of a batch choose for
    themselves; the scales are tried one after another, because an operator may hold parameters of every image, and
    each from its own encoding, because the latents of one scale are not those of another.

    Args:
        build: From a rate scale (or one for each image) to a model and its guide.
        y: Measurement (B, ...).
        scales: The rate scales that compete.
        fit: What fits, :func:`fit` or another of its arguments.
        precision: Precision of the fits.
        seed: Seed of the fits.
        settings: Further settings of :func:`fit`.

    Returns:
        Model and guide at the best scale (of each image, where they differ). This library's guides are as their brief
        fits left them, others new.
    """
    options = {"precision": precision, "seed": seed, "tolerance": None, "progress": False}
    tried = []
    for scale in scales:
        model, guide = build(scale)
        try:
            posterior = fit(model, guide, y, num_steps=_STEPS, **options, **settings)
        except FitDivergedError:
            tried.append((guide, torch.full((len(y),), -math.inf, device=y.device)))
            continue
        if posterior.interrupted:
            raise KeyboardInterrupt  # which ``fit`` takes for an early end; of a competition it is none
        # Not with the draws of the fit, which has learnt to do well on just those.
        with seeded(derived_seed(seed, "evidence")):
            tried.append((guide, elbo_by_image(model, guide, y, precision=posterior.precision)))
    elbos = torch.stack([torch.nan_to_num(elbo, nan=-math.inf, posinf=-math.inf) for _, elbo in tried])
    winners = elbos.argmax(0).tolist()
    chosen = tuple(scales[winner] for winner in winners)
    model, guide = build(chosen if len(set(chosen)) > 1 else chosen[0])
    if isinstance(guide, MeanFieldGuide):
        states = [tried[winner][0].state_dict() for winner in winners]
        guide.load_state_dict({key: torch.stack([s[key][i] for i, s in enumerate(states)]) for key in states[0]})
    return model, guide
