"""How good a restoration and its error bars are, against a known truth."""

from torch import Tensor

#: Pixels left out at the border, as in the published comparisons: operators differ in how they treat it.
BORDER = 5


def psnr(estimate: Tensor, truth: Tensor, *, border: int = BORDER) -> float:
    """Peak signal-to-noise ratio in dB for images in [0, 1], the border left out.

    Example:
        >>> import torch
        >>> from pyro_vble.metrics import psnr
        >>> round(psnr(torch.full((1, 3, 32, 32), 0.1), torch.zeros(1, 3, 32, 32)), 4)
        20.0
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio

    estimate, truth = _cropped(border, estimate, truth)
    return float(peak_signal_noise_ratio(estimate, truth, data_range=1.0))


def ssim(estimate: Tensor, truth: Tensor, *, border: int = BORDER) -> float:
    """Structural similarity (Gaussian window of 1.5 pixels, 11 wide), the border left out."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    estimate, truth = _cropped(border, estimate, truth)
    return float(structural_similarity_index_measure(estimate, truth, data_range=1.0, sigma=1.5, kernel_size=11))


def coverage(interval: tuple[Tensor, Tensor], truth: Tensor, *, border: int = BORDER) -> float:
    """Fraction of true values inside their interval, the border and unknown (NaN) values left out.

    Example:
        >>> import torch
        >>> from pyro_vble.metrics import coverage
        >>> truth = torch.linspace(0, 1, 100).reshape(1, 1, 10, 10)
        >>> coverage((torch.full_like(truth, 0.25), torch.ones_like(truth)), truth, border=0)
        0.75
    """
    low, high, truth = _cropped(border, *interval, truth)
    inside = ((low <= truth) & (truth <= high))[~truth.isnan()]
    return float(inside.double().mean())


def inner(image: Tensor, border: int = BORDER) -> Tensor:
    """The image without its border, where it is large enough to have one."""
    if border == 0 or image.dim() < 2 or min(image.shape[-2:]) <= 2 * border:
        return image
    return image[..., border:-border, border:-border]


def _cropped(border: int, *images: Tensor) -> list[Tensor]:
    return [inner(image, border) for image in images]
