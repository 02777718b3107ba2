"""A physics-aware first guess at the image, from which the encoder takes the latents' starting point."""

from collections.abc import Mapping
from typing import Any

import torch
from deepinv.optim.linear import least_squares
from deepinv.physics import LinearPhysics
from torch import Tensor
from torch.nn import functional as F

from pyro_vble.physics.operators import fill_unobserved, observed_mask, real_dtype
from pyro_vble.physics.validation import noise_level

# How far an image may lie from the first guess, and how long to look: the system's condition is about (tau / sigma)².
_TAU, _CG_STEPS = 0.05, 10


@torch.no_grad()
def initial_image(physics: Any, y: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
    """A first guess at the image, (B, C, H, W), in [0, 1].

    The measurement itself where it has the image's size, with missing pixels interpolated; enlarged bicubically
    where it is a smaller image; extended at its border where a blur without padding shrank it; the pseudo-inverse
    (else the adjoint, else mid-grey) otherwise.

    Args:
        physics: Forward operator; None gives a grey image.
        y: Measurement (B, ...); NaN where unobserved.
        image_shape: (C, H, W).
    """
    if physics is None:
        return torch.full((len(y), *image_shape), 0.5, dtype=real_dtype(y), device=y.device)
    observed = observed_mask(physics, y)
    if y.dim() == 4 and y.shape[1] == image_shape[0] and not y.is_complex():
        guess = _resized(physics, fill_missing(y, observed), image_shape)
    else:
        guess = _inverted(physics, fill_unobserved(y, observed), image_shape)
    return torch.nan_to_num(guess, nan=0.5).clamp(0, 1)


@torch.no_grad()
def consistent_image(
    physics: Any, y: Tensor, image_shape: tuple[int, int, int], parameters: Mapping[str, Tensor] | None = None
) -> Tensor:
    r"""The first guess drawn towards the measurement, as far as its noise allows, (B, C, H, W), in [0, 1].

    .. math:: \hat x = \arg\min_x\; \frac{\lVert A x - y \rVert^2}{\sigma^2}
        + \frac{\lVert x - x_0 \rVert^2}{\tau^2}, \qquad \tau = 0.05

    by a few steps of conjugate gradients from :func:`initial_image`, x₀. A blurred image is far from the sharp one's
    latents: started here, a fit needs half the steps. Where the operator is not linear, or values are missing, x₀
    itself.

    Args:
        physics: Forward operator; None gives a grey image.
        y: Measurement (B, ...); NaN where unobserved.
        image_shape: (C, H, W).
        parameters: Noise parameters that replace the noise model's own, one value an image.
    """
    start = initial_image(physics, y, image_shape)
    if not isinstance(physics, LinearPhysics) or not bool(observed_mask(physics, y).all()):
        return start
    weight = (_TAU / noise_level(physics, y, image_shape, parameters)) ** 2
    # Not physics.prox_l2, which leaves its settings behind in the operator.
    options = {"solver": "CG", "gamma": weight, "init": start, "z": start, "max_iter": _CG_STEPS, "tol": 1e-2}
    try:
        drawn = least_squares(physics.A, physics.A_adjoint, y, parallel_dim=[0], **options)
    except Exception:  # an operator may have no adjoint, or one that refuses y; the first guess is as good
        return start
    if drawn.shape != start.shape or drawn.is_complex() or not bool(drawn.isfinite().all()):
        return start
    drawn = drawn.clamp(0, 1)
    misfit = [(physics.A(x) - y).abs().square().flatten(1).mean(1) for x in (drawn, start)]
    return torch.where((misfit[0] < misfit[1]).reshape(-1, 1, 1, 1), drawn, start)


@torch.no_grad()
def fill_missing(y: Tensor, observed: Tensor) -> Tensor:
    """Images (B, C, H, W) with unobserved pixels interpolated by normalised convolution.

    Gaussian windows of doubling width are tried; a pixel is filled by the first that reaches enough observations, or
    by the mean of its band.
    """
    filled, known = fill_unobserved(y, observed), observed.expand_as(y)
    sigma, reach = 0.7, max(y.shape[-2:])
    while not bool(known.all()) and sigma < 2 * reach:
        weight = _gaussian_filter(observed.expand_as(y).to(y.dtype), sigma)
        value = _gaussian_filter(fill_unobserved(y, observed), sigma)
        near = weight > 1e-3
        filled = torch.where(~known & near, value / weight.clamp_min(1e-3), filled)
        known = known | near
        sigma *= 2
    count = observed.expand_as(y).sum((-2, -1), keepdim=True)
    mean = fill_unobserved(y, observed).sum((-2, -1), keepdim=True) / count.clamp_min(1)
    return torch.where(known, filled, torch.where(count > 0, mean, 0.5))


def _resized(physics: Any, y: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
    """An image brought to the size (H, W): enlarged, or extended about its centre, whichever explains y better.

    If neither does, y is no image but a sinogram or the like, and the operator is inverted.
    """
    height, width = image_shape[1:]
    if y.shape[-2:] == (height, width):
        return y
    rows, columns = height - y.shape[-2], width - y.shape[-1]
    extended = F.pad(y, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2), mode="replicate")
    # Operators keep either the first pixel of a block or its centre; the measurement tells which.
    candidates = [extended, *(_enlarged(y, height, width, corner) for corner in (False, True))]
    residuals = [float((physics.A(x) - y).square().mean()) for x in candidates]
    if min(residuals) > 0.25 * float(y.square().mean()):
        return _inverted(physics, y, image_shape)
    return candidates[residuals.index(min(residuals))]


def _enlarged(y: Tensor, height: int, width: int, corner: bool) -> Tensor:
    """Bicubic enlargement, the pixels of y standing at the corners or at the centres of their blocks."""
    grids = []
    for large, small in ((height, y.shape[-2]), (width, y.shape[-1])):
        t = torch.arange(large, dtype=y.dtype, device=y.device) * (small / large)
        position = t if corner else t + 0.5 * (small / large - 1)
        grids.append((2 * position + 1) / small - 1)  # in the [-1, 1] of grid_sample, pixel centres inside
    rows, columns = torch.meshgrid(*grids, indexing="ij")
    grid = torch.stack((columns, rows), -1).expand(len(y), -1, -1, -1)
    return F.grid_sample(y, grid, mode="bicubic", padding_mode="border", align_corners=False)


def _inverted(physics: Any, y: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
    """Pseudo-inverse of y, else adjoint, else grey."""
    for name in ("A_dagger", "A_adjoint"):
        try:
            guess = getattr(physics, name)(y)
        except Exception:  # an operator may lack it or refuse y in any way; the next one is tried
            continue
        if isinstance(guess, Tensor) and tuple(guess.shape[1:]) == tuple(image_shape):
            return guess.real if guess.is_complex() else guess
    return torch.full((len(y), *image_shape), 0.5, dtype=real_dtype(y), device=y.device)


def _gaussian_filter(x: Tensor, sigma: float) -> Tensor:
    """Separable Gaussian filter with zero border, band by band."""
    radius = max(1, round(3 * sigma))
    window = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device) / sigma) ** 2)
    window = window / window.sum()
    flat = x.reshape(-1, 1, *x.shape[-2:])
    flat = F.conv2d(flat, window.reshape(1, 1, -1, 1), padding=(radius, 0))
    flat = F.conv2d(flat, window.reshape(1, 1, 1, -1), padding=(0, radius))
    return flat.reshape(x.shape)
