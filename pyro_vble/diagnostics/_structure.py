"""Structure in what should be white: neighbours that go together, and power by spatial frequency."""

import itertools
import math

import torch
from torch import Tensor

#: Radial frequencies, in cycles per pixel, between which the power of a residual is averaged.
EDGES = (0.02, 0.05, 0.08, 0.11, 0.14, 0.17, 0.20, 0.24, 0.28, 0.32, 0.36, 0.40, 0.45, 0.50)
# Independent modes below which a band's power says nothing.
_FEWEST_MODES = 20
# A Hann window makes one mode of so many, in two dimensions.
_MODES_AS_ONE = 2.25
# Larger images are judged no more strictly than those that the limits were calibrated on.
_CALIBRATED_PIXELS = 128**2
# Standard errors that a rise must exceed before it counts.
_ALLOWANCE = 3.0
_SMALLEST_SIDE = 16


def is_image(shape: tuple[int, ...]) -> bool:
    """Whether values (..., C, H, W) are an image large enough to have a structure."""
    return len(shape) >= 4 and min(shape[-2:]) >= _SMALLEST_SIDE


def autocorrelation(residual: Tensor, observed: Tensor) -> Tensor:
    """Mean product of neighbours in rows and columns over mean square, (*,), of residuals (*, C, H, W).

    Unobserved residuals are 0; ``observed`` tells them.
    """
    products = counts = 0.0
    for axis in (-1, -2):
        size = residual.shape[axis]
        pair, seen = ([v.narrow(axis, start, size - 1) for start in (0, 1)] for v in (residual, observed))
        products = products + (pair[0] * pair[1]).sum((-3, -2, -1))
        counts = counts + (seen[0] & seen[1]).sum((-3, -2, -1))
    square = residual.square().sum((-3, -2, -1)) / observed.sum((-3, -2, -1))
    return products / counts.clamp_min(1) / square


def spectrum(residual: Tensor, observed: Tensor) -> Tensor:
    """Power by band of ``EDGES``, (*, K), of residuals (*, C, H, W), over that of white noise of variance 1.

    NaN in bands that so small an image does not have.
    """
    height, width = residual.shape[-2:]
    options = {"dtype": residual.dtype, "device": residual.device}
    window = torch.hann_window(height, **options)[:, None] * torch.hann_window(width, **options)
    power = torch.fft.fft2(residual * window).abs().square().sum(-3)
    white = (window.square() * observed).sum((-3, -2, -1))
    radius = _radius(height, width).to(power.device)
    bands = [power[..., (radius >= low) & (radius < high)].mean(-1) for low, high in itertools.pairwise(EDGES)]
    return torch.stack(bands, -1) / white[..., None]


def rise(spectrum: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The largest rise of a spectrum (*, K) from a band to one of higher frequency, (*,), of images (C, H, W).

    Each rise is divided by what chance makes of it: three standard errors, those of an image of 128x128 at least.
    Where there are no two bands to compare, NaN.
    """
    modes = _modes(shape).to(spectrum)
    known = modes >= _FEWEST_MODES
    log_power, error = spectrum[..., known].clamp_min(1e-12).log(), 1 / modes[known]
    steps = log_power[..., None, :] - log_power[..., :, None] - _ALLOWANCE * (error[:, None] + error).sqrt()
    later = torch.ones(steps.shape[-2:], dtype=torch.bool, device=steps.device).triu(1)
    if not later.any():
        return spectrum.new_full(spectrum.shape[:-1], torch.nan)
    return steps[..., later].amax(-1).exp()


def _modes(shape: tuple[int, ...]) -> Tensor:
    """Number of independent values that the power of each band is a mean of."""
    channels, height, width = shape
    radius = _radius(height, width)
    counts = [float(((radius >= low) & (radius < high)).sum()) for low, high in itertools.pairwise(EDGES)]
    larger = max(1.0, height * width / _CALIBRATED_PIXELS)
    return torch.tensor(counts) * channels / 2 / _MODES_AS_ONE / larger


def _radius(height: int, width: int) -> Tensor:
    return torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)[None])


def centres() -> tuple[float, ...]:
    """The bands' frequencies, in cycles per pixel."""
    return tuple(math.sqrt(low * high) for low, high in itertools.pairwise(EDGES))
