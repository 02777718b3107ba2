"""How good a restoration and its error bars are, against a known truth."""

import math

import torch
from torch import Tensor

from pyro_vble._arguments import CountOrZero, checked
from pyro_vble._tensors import Interval, RealTensor, same_shape

__all__ = ["BORDER", "coverage", "inner", "patch_means", "psnr", "ssim"]

#: Pixels left out at the border, as in the published comparisons: operators differ in how they treat it.
BORDER = 5
# Structural similarity compares windows of so many pixels.
_SSIM_WINDOW = 11


@checked
def psnr(estimate: RealTensor, truth: RealTensor, *, border: CountOrZero = BORDER) -> float:
    """Peak signal-to-noise ratio in dB for images in [0, 1], the border and unknown (NaN) values left out.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If the shapes differ, the estimate is not finite, or nothing of the truth is known.

    Example:
        >>> import torch
        >>> from pyro_vble.metrics import psnr
        >>> round(psnr(torch.full((1, 3, 32, 32), 0.1), torch.zeros(1, 3, 32, 32)), 4)
        20.0
    """
    same_shape(truth=truth, estimate=estimate)
    estimate, truth = (inner(image, border) for image in (estimate, truth))
    known = _known(truth, estimate=estimate)
    error = float((estimate - truth)[known].double().square().mean())
    return -10 * math.log10(error) if error else math.inf


@checked
def ssim(estimate: RealTensor, truth: RealTensor, *, border: CountOrZero = BORDER) -> float:
    """Structural similarity of images (B, C, H, W) in [0, 1] (Gaussian window of 1.5 pixels, 11 wide), less the border.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If the shapes differ, are not of images, or a value is not finite: windows cannot leave one out.

    Example:
        >>> import torch
        >>> from pyro_vble.metrics import ssim
        >>> x = torch.rand(1, 3, 32, 32)
        >>> round(ssim(x, x), 4)
        1.0
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    same_shape(truth=truth, estimate=estimate)
    if truth.dim() != 4:
        raise ValueError(f"Structural similarity is of images (B, C, H, W); received shape {tuple(truth.shape)}.")
    estimate, truth = (inner(image, border) for image in (estimate, truth))
    if min(truth.shape[-2:]) < _SSIM_WINDOW:
        raise ValueError(
            f"Structural similarity needs {_SSIM_WINDOW} pixels a side inside the border; received "
            f"{truth.shape[-2]}x{truth.shape[-1]}; border=0 leaves more."
        )
    if not bool(_known(truth, estimate=estimate).all()):
        raise ValueError("Structural similarity needs a truth that is known everywhere; received NaN; use psnr.")
    score = structural_similarity_index_measure(estimate, truth, data_range=1.0, sigma=1.5, kernel_size=11)
    return float(score)  # pyright: ignore[reportArgumentType]  # a pair only where the map is asked for


@checked
def coverage(interval: Interval, truth: RealTensor, *, border: CountOrZero = BORDER) -> float:
    """Fraction of true values inside their interval, the border and unknown (NaN) values left out.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If the shapes differ, an end of an interval is NaN, or nothing of the truth is known.

    Example:
        >>> import torch
        >>> from pyro_vble.metrics import coverage
        >>> truth = torch.linspace(0, 1, 100).reshape(1, 1, 10, 10)
        >>> coverage((torch.full_like(truth, 0.25), torch.ones_like(truth)), truth, border=0)
        0.75
    """
    low, high = interval
    same_shape(truth=truth, lower=low, upper=high)
    low, high, truth = (inner(image, border) for image in (low, high, truth))
    known = _known(truth)
    if bool((low.isnan() | high.isnan()).any()):
        raise ValueError("interval must have ends that are numbers; received NaN.")
    return float(((low <= truth) & (truth <= high))[known].double().mean())


@checked
def inner(image: RealTensor, border: CountOrZero = BORDER) -> Tensor:
    """The image without its border, where it is large enough to have one.

    Raises:
        TypeError: If an argument has a wrong type.
    """
    if border == 0 or image.dim() < 2 or min(image.shape[-2:]) <= 2 * border:
        return image
    return image[..., border:-border, border:-border]


def _known(truth: Tensor, **finite: Tensor) -> Tensor:
    """Where the truth is known; the others must be finite everywhere."""
    for name, value in finite.items():
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"{name} must be finite; received NaN or infinite values.")
    known = torch.isfinite(truth)
    if not bool(known.any()):
        raise ValueError("truth must have a known value inside its border; received one of NaN alone there.")
    return known


def patch_means(x: Tensor, patch: int) -> Tensor:
    """Means of patches (*, C, H // patch, W // patch) of images (*, C, H, W)."""
    height, width = (side // patch * patch for side in x.shape[-2:])
    tiles = x[..., :height, :width].unflatten(-1, (-1, patch)).unflatten(-3, (-1, patch))
    return tiles.mean((-3, -1))
