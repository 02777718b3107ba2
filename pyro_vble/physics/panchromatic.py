"""A panchromatic and a multispectral measurement of one scene."""

import math
from typing import Annotated, Any

import torch
from deepinv.physics import Blur, Downsampling, compose
from torch import Tensor

from pyro_vble._arguments import BrokenRuleError, ImageShape, Rule, checked, real, whole_from
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
    a wrong sum shows as a colour cast. Panchromatic bands that see what no other band sees are outside this model.

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
    offset = (ratio - 1) / 2
    # A convolution mirrors its kernel: with the centre before the middle, what lies after the kept pixel is seen.
    ms_filter = _separable(_kernel(_width(ms_mtf, 0.5 / ratio, -offset), -offset))[None, None]
    noise = [one if isinstance(one, torch.nn.Module) else gaussian_noise(one) for one in (pan_noise, ms_noise)]
    parts = SpectralResponse(rows.tolist()), Blur(filter=pan_filter, padding="reflect", noise_model=noise[0])
    pan = compose(*parts)  # pyright: ignore[reportArgumentType]
    ms = Downsampling(img_size=image_shape, filter=ms_filter, factor=ratio, padding="reflect", noise_model=noise[1])
    return jointly([pan, ms], image_shape)


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
