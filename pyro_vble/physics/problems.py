"""The usual forward operators, built from a few numbers."""

from typing import Annotated, Any

import deepinv
import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_vble._arguments import BrokenRuleError, ImageShape, Rule, checked, real, whole_from, within
from pyro_vble._tensors import RealTensor


def _noise_level(value: Any) -> float:
    sigma = real(value)
    if sigma < 0:
        raise BrokenRuleError("value")
    return sigma


def _mask(value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_complex():
        raise BrokenRuleError("type")
    if value.dim() != 3 or not value.numel() or not bool(((value == 0) | (value == 1)).all()):
        raise BrokenRuleError("value")
    return value if value.is_floating_point() else value.float()


NoiseLevel = Annotated[
    float,
    Rule("a noise level, finite and not negative", _noise_level, "it is a standard deviation, of images on [0, 1]"),
]


@checked
def gaussian_noise(sigma: NoiseLevel) -> Any:
    """Gaussian noise of standard deviation sigma, on the scale [0, 1]; 0 is noise-free.

    Raises:
        ValueError: If sigma is negative or not finite.
    """
    return deepinv.physics.ZeroNoise() if sigma == 0 else deepinv.physics.GaussianNoise(sigma)


@checked
def denoising(sigma: NoiseLevel) -> Any:
    """y = x + w."""
    return deepinv.physics.Denoising(gaussian_noise(sigma))


@checked
def deblurring(sigma: NoiseLevel, kernel: RealTensor) -> Any:
    """y = k * x + w, the border reflected.

    Args:
        sigma: Noise level.
        kernel: Point-spread function (h, w), not negative; it is normalised to sum 1. Its centre is the pixel
            (h // 2, w // 2): of an even side the later of the two in the middle.

    Raises:
        ValueError: If the kernel is no point-spread function.
    """
    if kernel.dim() != 2 or not torch.isfinite(kernel).all() or (kernel < 0).any() or kernel.sum() <= 0:
        raise ValueError(
            "A blur kernel must be a matrix (h, w) of finite values that are not negative, not all zero; received "
            f"shape {tuple(kernel.shape)} with values from {kernel.min():g} to {kernel.max():g}."
        )
    # With a row or column of zeros more the centre is the same pixel in A and in its adjoint.
    kernel = F.pad(kernel, (0, 1 - kernel.shape[1] % 2, 0, 1 - kernel.shape[0] % 2))
    kernel = (kernel / kernel.sum())[None, None]
    return deepinv.physics.Blur(filter=kernel, padding="reflect", noise_model=gaussian_noise(sigma))


@checked
def gaussian_kernel(blur_sigma: Annotated[float, within(1e-6, 1000, "pixels")]) -> Tensor:
    """Isotropic Gaussian point-spread function of standard deviation ``blur_sigma`` pixels, (h, w).

    Raises:
        ValueError: If it is not positive, or more than 1000 pixels.
    """
    radius = max(1, round(4 * blur_sigma))
    t = torch.arange(-radius, radius + 1) / blur_sigma
    profile = torch.exp(-(t**2) / 2)
    return torch.outer(profile, profile) / profile.sum() ** 2


@checked
def super_resolution(sigma: NoiseLevel, image_shape: ImageShape, factor: Annotated[int, whole_from(2)]) -> Any:
    r"""Bicubic reduction: what is measured of a block of pixels lies in its middle.

    .. math:: y_j = \sum_i c\Big(\frac{i - f j - (f - 1)/2}{f}\Big)\, x_i + w_j \quad\text{along rows and columns}

    c is Keys' cubic (a = -1/2), normalised. Image libraries reduce so, and a georeference of pixels f times as large
    says so. ``deepinv.physics.Downsampling(filter="bicubic")`` is the same for f = 2; for other factors its
    measurement lies half a pixel after the first of a block.

    Raises:
        ValueError: If the factor is less than 2 or does not divide the image's sides.

    References:
        | Cubic convolution interpolation for digital image processing (Keys, 1981)
        | https://doi.org/10.1109/TASSP.1981.1163711

    Example:
        >>> import torch
        >>> from pyro_vble.physics.problems import super_resolution
        >>> ramp = torch.arange(64.0).expand(1, 1, 64, 64)
        >>> super_resolution(0.0, (1, 64, 64), 4).A(ramp)[0, 0, 8, 7:10]  # means of blocks of a ramp
        tensor([29.5000, 33.5000, 37.5000])
    """
    if any(side % factor for side in image_shape[1:]):
        raise ValueError(f"factor must divide the image's sides {image_shape[1:]}; received {factor}.")
    how = {"factor": factor, "padding": "reflect", "noise_model": gaussian_noise(sigma)}
    return deepinv.physics.Downsampling(img_size=image_shape, filter=_block_cubic(factor)[None, None], **how)


def _block_cubic(factor: int) -> Tensor:
    """Keys' cubic, ``factor`` times as wide, about the middle of the block whose first pixel is the kept one: (h, h).

    A convolution mirrors its kernel: with the centre before the middle, what lies after the kept pixel is seen.
    """
    beyond = (factor - 1) / 2
    radius = 2 * factor + factor // 2
    t = (torch.arange(-radius, radius + 1, dtype=torch.float64) + beyond).abs() / factor
    near, far = 1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    profile = torch.where(t < 1, near, torch.where(t < 2, far, 0.0))
    profile = profile / profile.sum()
    return torch.outer(profile, profile).float()


@checked
def inpainting(
    sigma: NoiseLevel, mask: Annotated[Tensor, Rule("a tensor (C, H, W) or (1, H, W) of zeros and ones", _mask)]
) -> Any:
    """y = m · x + w on the mask; m is (C, H, W) or (1, H, W), 1 where observed.

    Raises:
        TypeError: If the mask is no tensor.
        ValueError: If it has another shape, or values besides 0 and 1.
    """
    shape = tuple(mask.shape)
    # Its annotation has but one side, where it takes all of them.
    return deepinv.physics.Inpainting(img_size=shape, mask=mask, noise_model=gaussian_noise(sigma))  # pyright: ignore[reportArgumentType]
