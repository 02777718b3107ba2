"""Which rate scale suits a measurement: the evidence decides."""

import math
from collections.abc import Callable
from dataclasses import replace

import torch

from pyro_vble.guides.abilities import copy_rows, rows
from pyro_vble.inference.batches import fit_batch
from pyro_vble.inference.evidence import elbo_by_image
from pyro_vble.inference.problem import Problem
from pyro_vble.inference.result import FitDivergedError
from pyro_vble.inference.settings import FitSettings
from pyro_vble.models.restoration import RestorationModel
from pyro_vble.seeding import derived_seed, seeded

#: Rate scales that compete: effective bitrate parameters from alpha down to alpha/16.
RATE_SCALES = (1.0, 0.7, 0.5, 0.35, 0.25)
_STEPS = 15


def best_rate_scale(
    problem: Problem,
    settings: FitSettings | None = None,
    *,
    scales: tuple[float, ...] = RATE_SCALES,
    precision: str = "float32",
    seed: int | None = None,
) -> tuple[Problem, RestorationModel, Callable]:
    r"""Fit briefly at every rate scale, and go on with the one of the largest ELBO, image by image.

    .. math:: \hat s = \arg\max_s\; \max_q\; E_q\big[\log p_s(y, x, z, h) - \log q(x, z, h)\big]

    The ELBO bounds log p(y) under each scale's prior, so that they compare. The images of a batch choose for
    themselves; the scales are tried one after another, because an operator may hold parameters of every image, and
    each from its own encoding, because the latents of one scale are not those of another.

    Args:
        problem: The problem.
        settings: Settings of the fits; they take 15 steps at KL weight 1, whatever these say.
        scales: The rate scales that compete.
        precision: Precision of the networks.
        seed: Seed of the fits.

    Returns:
        The problem at the best scale (of each image, where they differ), its model and its guide. A guide whose images
        can be told apart is as its brief fits left it, another is new.
    """
    y = problem.y
    brief = replace(settings or FitSettings(), num_steps=_STEPS, tolerance=None, kl_weight=1.0, schedule="linear")
    tried = []
    for scale in scales:
        candidate = problem.at(scale)
        model, guide = candidate.build()
        try:
            fitted = fit_batch(candidate, model, guide, brief, precision=precision, seed=seed)
        except FitDivergedError:
            tried.append((guide, torch.full((len(y),), -math.inf, device=y.device)))
            continue
        if fitted.interrupted:
            raise KeyboardInterrupt  # which ``fit`` takes for an early end; of a competition it is none
        # Not with the draws of the fit, which has learnt to do well on just those.
        with seeded(derived_seed(seed, "evidence")):
            tried.append((fitted.guide, elbo_by_image(model, fitted.guide, y, precision=precision)))
    elbos = torch.stack([torch.nan_to_num(elbo, nan=-math.inf, posinf=-math.inf) for _, elbo in tried])
    winners = elbos.argmax(0).tolist()
    chosen = tuple(scales[winner] for winner in winners)
    best = problem.at(chosen if len(set(chosen)) > 1 else chosen[0])
    model, guide = best.build()
    if rows(guide, slice(0, 1)) is not None:
        for i, winner in enumerate(winners):
            image = slice(i, i + 1)
            copy_rows(guide, image, tried[winner][0], image)
    return best, model, guide
