"""Operators of the problems for images of any size: what tiles are restored with."""

from functools import partial
from typing import Any

import torch

from pyro_vble.cli.problems import PROBLEMS, Problem

# Side of the image that an operator is built for whose size does not matter: no kernel of use is wider.
_LARGE = 4096


def physics_of_any_size(problem: Problem, noise: float | None, bands: int) -> Any:
    """The operator of a problem for images of any size, or a function from (C, H, W) to it.

    Args:
        problem: One of :data:`TILEABLE`.
        noise: Its noise level; None where the problem knows it.
        bands: Bands of the image.
    """
    return TILEABLE[problem.name](problem, noise, bands)


def _denoising(problem: Problem, noise: float | None, bands: int) -> Any:
    return PROBLEMS["denoise"].build(None, noise)


def _built_once(problem: Problem, noise: float | None, bands: int) -> Any:
    return problem.build(torch.empty(1, bands, _LARGE, _LARGE, device="meta"), noise)


def _super_resolution(problem: Problem, noise: float | None, bands: int) -> Any:
    return partial(_super_resolution_of, noise, problem.ratio)


def _super_resolution_of(noise: Any, factor: int, image_shape: tuple[int, int, int]) -> Any:
    from pyro_vble.physics.problems import super_resolution

    return super_resolution(noise, image_shape, factor)


#: The problems whose images can be restored in tiles. Missing pixels are NaN in the measurement: then what inpainting
#: measures is the image itself.
TILEABLE = {
    "denoise": _denoising,
    "deblur": _built_once,
    "super-resolve": _super_resolution,
    "inpaint": _denoising,
    "sensor": _built_once,
}
