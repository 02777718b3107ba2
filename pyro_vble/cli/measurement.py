"""The measurement of a command: image and missing pixels."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyro_vble.cli.words import say, warn
from pyro_vble.io.images import ImageFile, read_mask

if TYPE_CHECKING:
    from pyro_vble.cli.problems import Problem

# What glare and noise may make of white, what is as good as black, and how many values are enough to tell.
_BRIGHTEST, _DARKEST, _ENOUGH = 3.0, 1e-3, 1_000_000


def read_measurement(
    problem: "Problem", image: Path, *, scale: float | None, nodata: float | None, mask: Path | None
) -> "tuple[Problem, ImageFile, Tensor]":
    """An image as its file has it, and its values (1, C, H, W), NaN where missing, by the file or by a mask.

    With them the problem, and what the file says of it. Where it fills holes, an image without any is refused.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be used.
    """
    problem, source = problem.read(image, scale, nodata)
    y = _without_masked(source.values, mask)
    observed = torch.isfinite(y)
    if not bool(observed.any()):
        raise ValueError(
            f"All pixels of {image} are missing; check --mask (0 where pixels are missing), --nodata and --scale."
        )
    if problem.fills and bool(observed.all()):
        raise ValueError(
            "Inpainting needs to know which pixels are missing; received no --mask, no --nodata, and an image without "
            "NaN or transparent pixels; pass one of them."
        )
    check_scale(y, scale, by_sensor=source.radiometry is not None)
    return problem, source, y


def check_scale(y: Tensor, scale: float | None, *, by_sensor: bool = False) -> None:
    """Refuse an image far brighter than white, or which --scale or a sensor makes black, before it is worked on."""
    values = y[torch.isfinite(y)]
    values = values[:: len(values) // _ENOUGH + 1]  # a quantile, which no broken pixel decides
    bright = float(values.quantile(0.99)) if len(values) else 0.0
    if bright > _BRIGHTEST:
        given = "without --scale floating point is taken as it is, which"
        if scale or by_sensor:
            given = f"--scale {scale:g}" if scale else "the radiometry of --sensor"
        raise ValueError(
            f"White must be 1; {given} leaves the brightest hundredth at {bright:.4g}; pass the value that is white in "
            "the file, for example --scale 4095 for a sensor of 12 bits."
        )
    if (scale or by_sensor) and len(values) and 0 < float(values.abs().max()) < _DARKEST:
        given = f"--scale {scale:g}" if scale else "the radiometry of --sensor"
        raise ValueError(
            f"White must be 1; {given} leaves the brightest value at {float(values.max()):.2g}; pass the "
            "value that is white in the file, for example --scale 4095 for a sensor of 12 bits."
        )


def tell_bits(source: ImageFile, scale: float | None) -> None:
    """Say where a file's values look like those of a sensor with fewer bits than its type."""
    bits = source.looks_like_bits
    if scale is None and bits is not None:
        warn(
            f"the values of this {source.dtype} file look like {bits} bits, and are taken as dark: white is "
            f"{source.scale:g}. If white is {2**bits - 1}, pass --scale {2**bits - 1}: the restoration is better."
        )


def tell_missing(missing: Tensor, filled: bool) -> None:
    """Say how many pixels are missing, and what becomes of them."""
    pixels = missing.any(1)
    count = int(pixels.sum())
    if count:
        becomes = (
            "they are filled in." if filled else "they stay missing in the results (--fill has them filled in as well)."
        )
        say(f"{count:,} of {pixels.numel():,} pixels ({count / pixels.numel():.1%}) are missing: {becomes}")


def _without_masked(y: Tensor, mask: Path | None) -> Tensor:
    """The image with NaN where it is missing, by the mask or of itself."""
    observed = torch.isfinite(y)
    if mask is not None:
        known = read_mask(mask)
        if known.shape[-2:] != y.shape[-2:] or known.shape[1] not in (1, y.shape[1]):
            raise ValueError(
                f"The mask must have the image's size {tuple(y.shape[-2:])} and its bands or one; received "
                f"{known.shape[1]} of {tuple(known.shape[-2:])} in {mask}."
            )
        observed = observed & known
    return torch.where(observed, y, torch.nan)
