"""The measurement of a command: image, missing pixels, operator."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vble.cli.options import Problem
from pyro_vble.cli.words import say, warn
from pyro_vble.io.images import ImageFile, read_image, read_kernel, read_mask

# What glare and noise may make of white, what is as good as black, and how many values are enough to tell.
_BRIGHTEST, _DARKEST, _ENOUGH = 3.0, 1e-3, 1_000_000


@dataclass(frozen=True)
class Measurement:
    """What was measured.

    Attributes:
        source: The image as its file has it.
        y: Its values (1, C, H, W), NaN where missing, by the file or by a mask.
    """

    source: ImageFile
    y: Tensor

    @property
    def missing(self) -> Tensor:
        """True where there is no value, (1, C, H, W)."""
        return ~torch.isfinite(self.y)


def read_measurement(
    image: Path, problem: Problem, *, scale: float | None, nodata: float | None, mask: Path | None
) -> Measurement:
    """Read an image and the mask of its missing pixels.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be used.
    """
    if image.is_dir():
        raise ValueError(f"restore takes one image; received the folder {image}; call it for each file in it.")
    source = read_image(image, scale=scale, nodata=nodata)
    y = _without_masked(source.values, mask)
    observed = torch.isfinite(y)
    if not bool(observed.any()):
        raise ValueError(
            f"All pixels of {image} are missing; check --mask (0 where pixels are missing), --nodata and --scale."
        )
    if problem is Problem.inpaint and bool(observed.all()):
        raise ValueError(
            "Inpainting needs to know which pixels are missing; received no --mask, no --nodata, and an image without "
            "NaN or transparent pixels; pass one of them."
        )
    check_scale(y, scale)
    return Measurement(source, y)


def check_scale(y: Tensor, scale: float | None) -> None:
    """Refuse an image far brighter than white, or which --scale makes black, before noise is read off it."""
    values = y[torch.isfinite(y)]
    values = values[:: len(values) // _ENOUGH + 1]  # a quantile, which no broken pixel decides
    bright = float(values.quantile(0.99)) if len(values) else 0.0
    if bright > _BRIGHTEST:
        given = f"--scale {scale:g}" if scale else "without --scale floating point is taken as it is, which"
        raise ValueError(
            f"White must be 1; {given} leaves the brightest hundredth at {bright:.4g}; pass the value that is white in "
            "the file, for example --scale 4095 for a sensor of 12 bits."
        )
    if scale is not None and len(values) and 0 < float(values.abs().max()) < _DARKEST:
        raise ValueError(
            f"White must be 1; --scale {scale:g} leaves the brightest value at {float(values.max()):.2g}; pass the "
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


def operator_of(problem: Problem, y: Tensor, noise: float, blur_sigma: float, kernel: Path | None, factor: int) -> Any:
    """The operator of a problem.

    Raises:
        ValueError: If a kernel does not fit the image.
    """
    from pyro_vble.physics import problems

    if problem is Problem.denoise:
        return problems.denoising(noise)
    if problem is Problem.deblur:
        psf = problems.gaussian_kernel(blur_sigma) if kernel is None else _kernel(kernel)
        if any(own > side for own, side in zip(psf.shape, y.shape[-2:], strict=True)):
            given = f"--blur-sigma {blur_sigma:g} makes" if kernel is None else f"--kernel {kernel} has"
            raise ValueError(
                f"A blur kernel must not be larger than the image; {given} {psf.shape[1]}x{psf.shape[0]} pixels, the "
                f"image {y.shape[-1]}x{y.shape[-2]}; use a narrower blur or a larger image."
            )
        return problems.deblurring(noise, psf)
    if problem is Problem.super_resolve:
        return problems.super_resolution(noise, (y.shape[1], factor * y.shape[2], factor * y.shape[3]), factor)
    return problems.inpainting(noise, y[0].isfinite().float())


def _kernel(path: Path) -> Tensor:
    """A point-spread function without the zeros around it, its centre where it was."""
    kernel = read_kernel(path)
    if any(side % 2 == 0 for side in kernel.shape):
        warn(
            f"--kernel has {kernel.shape[1]}x{kernel.shape[0]} pixels: where a side is even its centre lies between "
            "two pixels, and the restored image is shifted by half a pixel."
        )
    nonzero = kernel.nonzero()
    if not len(nonzero):
        return kernel  # refused where it is used
    margins = [
        min(int(nonzero[:, d].min()), side - 1 - int(nonzero[:, d].max())) for d, side in enumerate(kernel.shape)
    ]
    top, left = margins
    return kernel[top : kernel.shape[0] - top, left : kernel.shape[1] - left]


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
