"""DPIR: half-quadratic splitting with a denoiser in the prior's place."""

import itertools
import math
from typing import Any

import torch
from torch import Tensor

from pyro_vble._arguments import Count, Flag, Positive, checked
from pyro_vble.baselines.denoisers import DenoiserLike, ImageDenoiser, denoiser_on
from pyro_vble.baselines.linear import LinearProblem
from pyro_vble.baselines.point import point
from pyro_vble.inference.precision import Device
from pyro_vble.models.turned import SYMMETRIES, UPRIGHT, Turn
from pyro_vble.samples import StoredSamples

#: λ of the published settings.
WEIGHT = 0.23
#: The denoiser's first level: as far as denoisers are trained.
FIRST_LEVEL = 49 / 255


@checked
def dpir(
    y: Any,
    physics: Any,
    denoiser: DenoiserLike = None,
    *,
    num_iterations: Count = 8,
    weight: Positive = WEIGHT,
    first_level: Positive = FIRST_LEVEL,
    last_level: Positive | None = None,
    flips: Flag = True,
    noise: Positive | None = None,
    device: Device = "auto",
) -> StoredSamples:
    r"""Plug-and-play image restoration with a deep denoiser, for any linear operator and level of noise.

    .. math:: x_k = \arg\min_x\; \frac{\lVert M(Ax - y)\rVert^2}{\sigma^2}
        + \frac{\lambda}{\sigma_k^2} \lVert x - z_{k-1} \rVert^2, \qquad z_k = D(x_k, \sigma_k)

    with levels that fall from 49/255 to σ in even steps of their logarithm. The first step is taken in closed form
    where deepinv has one, else by conjugate gradients. Each denoising sees the image turned by another of the square's
    eight symmetries, as the authors do; this costs nothing.

    Args:
        y: Measurement (B, C, H', W') of images in [0, 1]; NaN where unobserved.
        physics: A linear deepinv operator with its noise model; noise that is not white is taken as white
            (:func:`~pyro_vble.baselines.sat_dpir` knows better).
        denoiser: (x, sigma) -> x, a deepinv denoiser for example; "drunet", downloaded on first use; or the path of
            FFDNet's weights. None is DRUNet, as published.
        num_iterations: K.
        weight: λ.
        first_level: σ_1.
        last_level: σ_K, by default that of the noise (of noise-free data, 1/255).
        flips: Whether images are turned for the denoiser.
        noise: σ, in place of the noise model's.
        device: "auto" (CUDA where there is one) or a torch device.

    Returns:
        One image (1, B, C, H, W), as samples.

    Raises:
        TypeError: If the operator is not linear, or an argument of a wrong kind.
        ValueError: If y does not fit the operator or its scale, or a denoiser's file is none.
        RuntimeError: If DRUNet cannot be downloaded.

    References:
        | Plug-and-play image restoration with deep denoiser prior (Zhang et al., 2021), algorithm 1
        | https://arxiv.org/abs/2008.13751

    Example:
        >>> import torch, deepinv
        >>> from pyro_vble.baselines import dpir
        >>> physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))
        >>> dpir(torch.rand(1, 3, 16, 16), physics, deepinv.models.MedianFilter()).mmse_x().shape
        torch.Size([1, 3, 16, 16])
    """
    problem = LinearProblem.of(y, physics, noise=noise, device=device)
    network = denoiser_on(denoiser, problem.start.shape[1], problem.y.device)
    last = problem.noise if last_level is None else torch.full_like(problem.noise, last_level)
    z, turns = problem.start, turns_of(flips)
    for level, turn in zip(levels(first_level, last, num_iterations), turns, strict=False):
        x = problem.physics.prox_l2(z, problem.y, gamma=level**2 / weight)
        z = turned(network, turn, x, level)
    return point(z, y, physics, f"dpir, denoiser {network.name}, {num_iterations} iterations")


def levels(first: float, last: Tensor, num_iterations: int) -> list[Tensor]:
    """The denoiser's level at every iteration, one an image (B,): even steps of the logarithm.

    Example:
        >>> import torch
        >>> from pyro_vble.baselines.dpir import levels
        >>> [round(float(level), 2) for level in levels(0.4, torch.tensor([0.1]), 3)]
        [0.4, 0.2, 0.1]
    """
    steps = torch.linspace(1, 0, num_iterations).tolist() if num_iterations > 1 else [0.0]
    return [torch.exp(s * math.log(first) + (1 - s) * last.log()) for s in steps]


def turns_of(flips: bool) -> "itertools.cycle[Turn]":
    """The turns of one iteration after the other."""
    return itertools.cycle(SYMMETRIES["dihedral"] if flips else (UPRIGHT,))


def turned(network: ImageDenoiser, turn: Turn, x: Tensor, level: Tensor) -> Tensor:
    """The image denoised as the turn shows it."""
    return turn.inverse(network(turn(x), level))
