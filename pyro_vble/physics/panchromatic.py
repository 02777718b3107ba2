"""A panchromatic and a multispectral measurement of one scene."""

import math
from typing import Annotated, Any

import torch
from deepinv.physics import Blur, Downsampling, compose
from scipy.optimize import nnls
from torch import Tensor

from pyro_vble._arguments import BrokenRuleError, ImageShape, Rule, checked, real, whole_from
from pyro_vble._tensors import RealTensor
from pyro_vble.physics.joining import jointly
from pyro_vble.physics.joint import Jointly
from pyro_vble.physics.problems import gaussian_noise
from pyro_vble.physics.spectral import SpectralResponse, Weights

# Standard deviations between which the kernel of a transfer at Nyquist is looked for, in pixels of the sensor.
_NARROWEST, _WIDEST = 0.05, 10.0


def _transfer(value: Any) -> float:
    number = real(value)
    if not 1e-3 <= number < 1:
        raise BrokenRuleError("value")
    return number


def _noise(value: Any) -> Any:
    if isinstance(value, torch.nn.Module):
        return value
    if real(value) < 0:
        raise BrokenRuleError("value")
    return real(value)


Transfer = Annotated[
    float, Rule("a modulation transfer at Nyquist's frequency, from 0.001 to less than 1", _transfer, "0.15, for one")
]
Noise = Annotated[Any, Rule("a noise level on the scale [0, 1], or a deepinv noise model", _noise)]


@checked
def pansharpening(
    image_shape: ImageShape,
    ratio: Annotated[int, whole_from(2)] = 4,
    *,
    weights: Weights | None = None,
    pan_noise: Noise = 0.01,
    ms_noise: Noise = 0.01,
    pan_mtf: Transfer = 0.15,
    ms_mtf: Transfer = 0.3,
) -> Jointly:
    r"""A fine panchromatic band and coarse bands of colour, of one image: :math:`y = (B_p \textstyle\sum_c w_c x_c,\
    S_r B_m x)`.

    B are Gaussian blurs, the border reflected, of the stated modulation transfer at the Nyquist frequency of each
    sensor's own pixels, row- and columnwise; S keeps one pixel in r x r, whose centre is that of the block of fine
    pixels that it covers: both measurements cover the same ground.

    The measurement is the pair in a row: ``restore([pan, ms], physics, prior)``, and ``physics.split(y)`` takes it
    apart. Pan (B, 1, H, W), colour (B, C, H / r, W / r).

    The weights are those by which the panchromatic band sums the others *in the units of the values given*, and matter:
    a wrong sum shows as a colour cast. :func:`spectral_weights` finds them. Panchromatic bands that see what no other
    band sees are outside this model.

    References:
        | MTF-tailored multiscale fusion of high-resolution MS and Pan imagery (Aiazzi et al., 2006), section 3
        | https://doi.org/10.14358/PERS.72.5.591

    Args:
        image_shape: (C, H, W) of the fine image of colour.
        ratio: Fine pixels in a coarse one, along a side.
        weights: w, one a band; even ones of sum 1 by default.
        pan_noise: Noise of the panchromatic band: a standard deviation on [0, 1], or a deepinv noise model.
        ms_noise: That of the bands of colour.
        pan_mtf: Transfer of the panchromatic sensor at its Nyquist frequency, 1/2 cycle a fine pixel. 0.15 is about
            Pléiades' (an assumption for other sensors).
        ms_mtf: Transfer of the bands of colour at theirs, 1/(2 r) cycles a fine pixel.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If one is out of range, there is not one weight a band, or the ratio does not divide the sides.

    Example:
        >>> import torch
        >>> from pyro_vble.physics import pansharpening
        >>> physics = pansharpening((3, 64, 64), 4, weights=[0.3, 0.4, 0.3])
        >>> pan, ms = physics.split(physics(torch.rand(1, 3, 64, 64)))
        >>> pan.shape, ms.shape
        (torch.Size([1, 1, 64, 64]), torch.Size([1, 3, 16, 16]))
    """
    bands, height, width = image_shape
    if height % ratio or width % ratio:
        raise ValueError(f"ratio must divide the image's sides {height}x{width}; received {ratio}; crop the image.")
    rows = torch.full((1, bands), 1 / bands) if weights is None else weights
    if rows.shape != (1, bands):
        raise ValueError(
            f"weights must be one number a band of the image, {bands}; received {rows.shape[0]} rows of "
            f"{rows.shape[1]}."
        )
    pan_filter = _separable(_kernel(_width(pan_mtf, 0.5, 0.0), 0.0))[None, None]
    # A convolution mirrors its kernel: with the centre before the middle, what lies after the kept pixel is seen.
    before = -(ratio - 1) / 2
    ms_filter = _separable(_kernel(_width(ms_mtf, 0.5 / ratio, before), before))[None, None]
    noise = [one if isinstance(one, torch.nn.Module) else gaussian_noise(one) for one in (pan_noise, ms_noise)]
    parts = SpectralResponse(rows.tolist()), Blur(filter=pan_filter, padding="reflect", noise_model=noise[0])
    pan = compose(*parts)  # pyright: ignore[reportArgumentType]
    ms = Downsampling(img_size=image_shape, filter=ms_filter, factor=ratio, padding="reflect", noise_model=noise[1])
    return jointly([pan, ms], image_shape)


@checked
@torch.no_grad()
def spectral_weights(
    pan: RealTensor, ms: RealTensor, *, pan_mtf: Transfer = 0.15, ms_mtf: Transfer = 0.3
) -> tuple[tuple[float, ...], float]:
    r"""Weights by which coarse bands sum to a panchromatic one, of least squares, none of them negative.

    .. math:: \min_{w \ge 0} \sum_i \Big(\bar p_i - \sum_c w_c m_{ci}\Big)^2

    with the panchromatic image blurred to the transfer of the bands and decimated likewise; pixels that missing values
    reach are left out.

    References:
        | Improving component substitution pansharpening through multivariate regression (Aiazzi et al., 2007)
        | https://doi.org/10.1109/TGRS.2007.901007

    Args:
        pan: Panchromatic images (B, 1, H, W).
        ms: Coarse ones (B, C, H / r, W / r).
        pan_mtf: Transfer of the panchromatic sensor, as :func:`pansharpening` takes it.
        ms_mtf: That of the bands.

    Returns:
        The weights, one a band, and which part of the panchromatic variance they leave.

    Raises:
        TypeError: If they are no tensors.
        ValueError: If the sizes do not fit, or less than ten pixels a band are whole.

    Example:
        >>> import torch
        >>> from pyro_vble.physics import spectral_weights
        >>> flat = torch.tensor([[0.2, 0.8, 0.5], [0.7, 0.1, 0.3]]).repeat_interleave(16, 1)[None, :, None]
        >>> ms = flat.expand(1, 2, 48, 48)
        >>> pan = (0.25 * ms[:, :1] + 0.5 * ms[:, 1:]).repeat_interleave(4, -1).repeat_interleave(4, -2)
        >>> [round(weight, 2) for weight in spectral_weights(pan, ms)[0]]
        [0.25, 0.5]
    """
    sides = [(large, small) for large, small in zip(pan.shape[-2:], ms.shape[-2:], strict=True)]
    ratios = {large / small for large, small in sides}
    if pan.dim() != 4 or ms.dim() != 4 or pan.shape[1] != 1 or len(ratios) > 1 or not min(ratios).is_integer():
        raise ValueError(
            "pan must be (B, 1, H, W) and ms (B, C, H / r, W / r) with r a whole number; received "
            f"{tuple(pan.shape)} and {tuple(ms.shape)}; crop them to the same ground."
        )
    means = _blurred(pan, int(min(ratios)), pan_mtf, ms_mtf).flatten()
    bands = ms.movedim(1, -1).flatten(0, -2)
    whole = means.isfinite() & bands.isfinite().all(1)
    if int(whole.sum()) < 10 * bands.shape[1]:
        raise ValueError(
            f"Weights need ten pixels a band without missing values; received {int(whole.sum())} for "
            f"{bands.shape[1]} bands; state the weights."
        )
    a, b = bands[whole].double().cpu().numpy(), means[whole].double().cpu().numpy()
    weights, left = nnls(a, b)
    return tuple(weights.tolist()), float(left**2 / max(b.var() * len(b), 1e-30))


def _blurred(pan: Tensor, ratio: int, pan_mtf: float, ms_mtf: float) -> Tensor:
    """A panchromatic image as the sensor of the bands would have it; NaN where missing values are seen."""
    before = -(ratio - 1) / 2
    wide, narrow = _width(ms_mtf, 0.5 / ratio, before), _width(pan_mtf, 0.5, 0.0)
    width = math.sqrt(max(wide**2 - narrow**2, _NARROWEST**2))
    own = _separable(_kernel(width, before))[None, None]
    blur = Downsampling(img_size=tuple(pan.shape[1:]), filter=own, factor=ratio, padding="reflect", device=pan.device)
    missing = blur.A(pan.isnan().float()) > 1e-3
    return torch.where(missing, torch.nan, blur.A(pan.float().nan_to_num(0.0)))


def _kernel(width: float, offset: float) -> Tensor:
    """A sampled Gaussian of sum 1 whose centre lies so far after the middle pixel."""
    radius = max(1, math.ceil(4 * width + abs(offset)))
    t = torch.arange(-radius, radius + 1, dtype=torch.float64) - offset
    return torch.softmax(-0.5 * (t / width).square(), 0)


def _transfer_of(kernel: Tensor, frequency: float) -> float:
    """|DFT| of a kernel at a frequency in cycles per pixel."""
    angle = 2 * math.pi * frequency * torch.arange(len(kernel), dtype=torch.float64)
    return float(torch.hypot((kernel * angle.cos()).sum(), (kernel * angle.sin()).sum()))


def _width(transfer: float, frequency: float, offset: float) -> float:
    """The width of the sampled Gaussian of this transfer, by bisection: that of samples is not the Gaussian's own."""
    low, high = _NARROWEST / frequency, _WIDEST / frequency
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _transfer_of(_kernel(middle, offset), frequency) > transfer else (low, middle)
    return (low + high) / 2


def _separable(profile: Tensor) -> Tensor:
    return torch.outer(profile, profile).float()
