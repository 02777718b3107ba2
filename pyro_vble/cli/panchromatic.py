"""The two images of ``--problem pansharpen``."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from pyro_vble.cli.measured import Measured
from pyro_vble.cli.measurement import check_scale, tell_bits
from pyro_vble.cli.noise import estimated_noise
from pyro_vble.cli.words import say, warn
from pyro_vble.io.images import ImageFile, Raster, read_image
from pyro_vble.physics import spectral_weights

if TYPE_CHECKING:
    from pyro_vble.cli.problems import Problem

# How far corners on the ground may lie apart, in coarse pixels: half of one is another pixel. What is told.
_APART, _TOLD = 0.5, 0.05
# Part of the panchromatic variance that weighted bands may leave before it is told.
_LEFT = 0.1


def with_panchromatic(
    problem: "Problem", source: ImageFile, y: torch.Tensor, noise: float, scale: float | None
) -> Measured:
    """An image's bands and the panchromatic image that belongs to them, as one measurement.

    What is not told, the noise of the panchromatic image and what it sums of each band, is estimated, and said.

    Raises:
        FileNotFoundError: If there is no panchromatic image.
        ValueError: If it has several bands, or does not show the same ground on a grid finer by the ratio.
    """
    path, ratio = problem.settings["pan"], problem.ratio
    if path is None:
        raise ValueError("--problem pansharpen needs the panchromatic image; pass --pan FILE.")
    fine = read_image(path, scale=scale)
    pan = fine.values
    if pan.shape[1] != 1:
        raise ValueError(f"--pan must have one band; {path} has {pan.shape[1]}; extract the panchromatic one.")
    expected = [ratio * side for side in y.shape[-2:]]
    if list(pan.shape[-2:]) != expected:
        raise ValueError(
            f"--pan must have {ratio} times the rows and columns of the image, {expected[0]}x{expected[1]}; {path} has "
            f"{pan.shape[-2]}x{pan.shape[-1]}; crop both to the same ground, or set --ratio."
        )
    check_scale(pan, scale)
    tell_bits(fine, scale)
    _check_ground(source, fine)
    told = problem.settings
    if problem.settings["pan_noise"] is None:
        level = estimated_noise(pan, quantisation=fine.quantisation, jpeg=fine.jpeg_quantisation).level
        say(f"Noise level of --pan estimated: {level:.4g} (set it with --pan-noise).")
        problem = problem.having(pan_noise=level)
    if problem.settings["pan_weights"] is None:
        transfers = {name: problem.settings[name] for name in ("pan_mtf", "ms_mtf")}
        weights, left = spectral_weights(pan, y, **transfers)
        in_words = ",".join(f"{weight:.3g}" for weight in weights)
        say(f"--pan sums the bands with weights {in_words}, estimated (set them with --pan-weights).")
        if left > _LEFT:
            warn(
                f"weighted sums of the bands leave {left:.0%} of the variance of --pan: it sees what they do not, or "
                "other ground; colours cannot be trusted."
            )
        problem = problem.having(pan_weights=",".join(f"{weight:.9g}" for weight in weights))
    physics = problem.build(y, noise)
    missing = (~y.isfinite()).repeat_interleave(ratio, -1).repeat_interleave(ratio, -2) | ~pan.isfinite()
    estimated = {name: value for name, value in problem.settings.items() if value != told[name]}
    return Measured(physics.join([pan, y]), physics, _on_grid_of(source, fine), missing, estimated)


def _on_grid_of(source: ImageFile, fine: ImageFile) -> ImageFile:
    """What a file says of its bands, with the grid, and the place on the ground, of another over the same ground."""
    own, bands = fine.raster, source.values.shape[1]
    raster = source.raster
    if own is None or not own.is_placed:
        rows, columns = fine.values.shape[-2:]
        raster = None if raster is None else raster.enlarged(rows, columns)
    else:
        whole = raster if raster is not None else Raster(own.rows, own.columns, nodata=None, unit=source.scale)
        place = {
            name: getattr(own, name) for name in ("rows", "columns", "crs", "transform", "gcps", "gcps_crs", "rpcs")
        }
        raster = replace(whole, **place)
    return replace(source, values=fine.values.expand(-1, bands, -1, -1), raster=raster)


def _check_ground(source: ImageFile, fine: ImageFile) -> None:
    """Raise where two files say that they lie elsewhere; those that say nothing are believed."""
    first, second = source.raster, fine.raster
    if first is None or second is None or first.transform is None or second.transform is None:
        return
    if first.crs is not None and second.crs is not None and first.crs != second.crs:
        raise ValueError(
            f"--pan must have the coordinate system of the image, {first.crs}; received {second.crs}; warp it first."
        )
    # Corners of the fine image in coarse pixels, which should be the corners of the coarse one.
    to_coarse = ~first.transform
    apart = 0.0
    for right, down in ((0, 0), (0, 1), (1, 0), (1, 1)):
        column, row = _at(to_coarse, *_at(second.transform, right * second.columns, down * second.rows))
        apart = max(apart, abs(column - right * first.columns), abs(row - down * first.rows))
    if apart > _APART:
        raise ValueError(
            f"--pan must show the ground of the image; their corners lie up to {apart:.2f} coarse pixels apart; crop "
            "or warp both to the same ground."
        )
    if apart > _TOLD:
        warn(f"the corners of --pan and the image lie {apart:.2f} coarse pixels apart, which is not corrected.")


def _at(transform: Any, x: float, y: float) -> tuple[float, float]:
    """What an ``affine.Affine`` makes of a point; its own operator for that differs by version."""
    return transform.a * x + transform.b * y + transform.c, transform.d * x + transform.e * y + transform.f
