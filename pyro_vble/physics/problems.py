"""The usual forward operators, built from a few numbers."""

import math
from typing import Any

import deepinv
import torch
from torch import Tensor


def gaussian_noise(sigma: float) -> Any:
    """Gaussian noise of standard deviation sigma, on the scale [0, 1]; 0 is noise-free.

    Raises:
        ValueError: If sigma is negative.
    """
    if not sigma >= 0:
        raise ValueError(
            f"The noise level must not be negative; received {sigma}; it is a standard deviation on [0, 1]."
        )
    return deepinv.physics.ZeroNoise() if sigma == 0 else deepinv.physics.GaussianNoise(sigma)


def denoising(sigma: float) -> Any:
    """y = x + w."""
    return deepinv.physics.Denoising(gaussian_noise(sigma))


def deblurring(sigma: float, kernel: Tensor) -> Any:
    """y = k * x + w, the border reflected.

    Args:
        sigma: Noise level.
        kernel: Point-spread function (h, w), not negative; it is normalised to sum 1.

    Raises:
        ValueError: If the kernel is no point-spread function.
    """
    if kernel.dim() != 2 or not torch.isfinite(kernel).all() or (kernel < 0).any() or kernel.sum() <= 0:
        raise ValueError(
            "A blur kernel must be a matrix (h, w) of finite values that are not negative, not all zero; received "
            f"shape {tuple(kernel.shape)} with values from {kernel.min():g} to {kernel.max():g}."
        )
    kernel = (kernel / kernel.sum())[None, None]
    return deepinv.physics.Blur(filter=kernel, padding="reflect", noise_model=gaussian_noise(sigma))


def gaussian_kernel(blur_sigma: float) -> Tensor:
    """Isotropic Gaussian point-spread function of standard deviation ``blur_sigma`` pixels, (h, w).

    Raises:
        ValueError: If it is not positive.
    """
    if not 0 < blur_sigma < math.inf:
        raise ValueError(f"The blur's standard deviation must be positive and finite; received {blur_sigma} pixels.")
    radius = max(1, round(4 * blur_sigma))
    t = torch.arange(-radius, radius + 1) / blur_sigma
    profile = torch.exp(-(t**2) / 2)
    return torch.outer(profile, profile) / profile.sum() ** 2


def super_resolution(sigma: float, image_shape: tuple[int, int, int], factor: int) -> Any:
    """y = (x filtered bicubically, every ``factor``-th pixel kept) + w.

    Raises:
        ValueError: If the factor is less than 2 or does not divide the image's sides.
    """
    if factor < 2 or any(side % factor for side in image_shape[1:]):
        raise ValueError(
            f"The factor must be a whole number of at least 2 that divides the image's sides {image_shape[1:]}; "
            f"received {factor}."
        )
    return deepinv.physics.Downsampling(
        img_size=image_shape, filter="bicubic", factor=factor, padding="reflect", noise_model=gaussian_noise(sigma)
    )


def inpainting(sigma: float, mask: Tensor) -> Any:
    """y = m · x + w on the mask; m is (C, H, W) or (1, H, W), 1 where observed."""
    shape = tuple(mask.shape)
    return deepinv.physics.Inpainting(img_size=shape, mask=mask, noise_model=gaussian_noise(sigma))
