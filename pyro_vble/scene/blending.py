"""From what was fitted for every cell to one mosaic of latents over the scene."""

from typing import Any

import numpy as np
import torch

from pyro_vble.inference.precision import network_precision
from pyro_vble.scene.grid import Window
from pyro_vble.scene.job import Job, prior_of
from pyro_vble.scene.store import Field, Store
from pyro_vble.scene.tiles import IMAGE

# Where no cell has been fitted: what a latent is before anything is measured.
_UNKNOWN = {"loc": 0.0, "std": 1.0}
#: Types of the mosaic's arrays. Centres of latents are large numbers beside their deviations, and need all digits.
DTYPES = {"loc": "float32", "std": "float16"}


def dtype_of(site: str, parameter: str) -> str:
    """Type of an array of the mosaic: half precision, three digits, is enough of all but the centres of latents."""
    return "float16" if site == IMAGE else DTYPES[parameter]


def create_mosaic(job: Job, fields: dict[str, Field]) -> None:
    """Create the mosaic's arrays."""
    store, grid = Store(job.store), job.grid
    for site, field in fields.items():
        whole = grid.whole.coarser(field.step)
        shape = (*field.leading, whole.height, whole.width)
        for parameter, value in _UNKNOWN.items():
            name = f"{site}_{parameter}"
            store.create("mosaic", name, shape, grid.cell // field.step, dtype_of(site, parameter), value)


def blend_cell(job: Job, place: tuple[int, int], fields: dict[str, Field]) -> dict[str, Any]:
    r"""Blend what was fitted for a cell and its neighbours, and write it into the mosaic.

    .. math:: \bar z = \sum_t w_t \bar z_t, \quad a = \sum_t w_t a_t, \quad
        \bar u = \frac{\sum_t w_t \bar x_t - D(\bar z)}{\sigma_\theta(\bar z)}, \qquad \sum_t w_t = 1

    Centres and deviations of latents are weighted means over the cells t, whose weights fall linearly across their
    borders. With a free mean the central image is so, too: u makes up for what the decoder makes of blended latents.
    """
    store, core = Store(job.store), job.grid.core(*place)
    for site, field in fields.items():
        window = core.coarser(field.step)
        for parameter in _UNKNOWN if site != IMAGE else ("std",):
            value = blended(job, f"{site}.{parameter}", field.step, field.leading, window, _UNKNOWN[parameter])
            _write(store, site, parameter, window, value)
    image = blended(job, "image", 1, (job.bands,), core, np.nan) if IMAGE in fields else None
    if image is not None and np.isfinite(image).any():
        mean, std = _decoded(job, core, fields["z"])
        _write(store, IMAGE, "loc", core, np.nan_to_num((image - mean) / std))
    return {"status": "blended"}


def blended(job: Job, name: str, step: int, leading: tuple[int, ...], window: Window, unknown: float) -> np.ndarray:
    """The weighted mean of an array over the cells that have a say in a window; ``unknown`` where none has.

    Args:
        job: The scene.
        name: Of the array in the cells' files; those that have none are left out.
        step: Pixels a value.
        leading: Dimensions before rows and columns.
        window: Where, in units of ``step`` pixels.
        unknown: Value where no cell has been fitted.
    """
    from safetensors import safe_open

    store, grid = Store(job.store), job.grid
    total = np.zeros((*leading, window.height, window.width), np.float64)
    weights = np.zeros((window.height, window.width))
    for place in grid.touched(window.finer(step).grown(grid.ramp, grid.height, grid.width)):
        own = grid.trusted(*place).coarser(step)
        part = own.within(window)
        if part.is_empty or not store.tile(place).exists():
            continue
        with safe_open(store.tile(place), "np") as file:
            if name not in file.keys():  # noqa: SIM118, it is no dictionary
                continue
            value = file.get_slice(name)[(..., *part.relative_to(own).slices)]
        weight = grid.weight(place, part, step)
        here = part.relative_to(window).slices
        total[(..., *here)] += weight * value
        weights[here] += weight
    known = weights > 0
    mean = total / np.where(known, weights, 1.0)
    return np.where(known, mean, unknown).astype(np.float32)


@torch.no_grad()
def _decoded(job: Job, core: Window, field: Field) -> tuple[np.ndarray, np.ndarray]:
    """D(z̄) and σ(z̄) of a cell, from the blended centres about it, in full precision."""
    whole = job.grid.whole.coarser(field.step)
    window = core.coarser(field.step).grown(job.reach, whole.height, whole.width)
    z = blended(job, "z.loc", field.step, field.leading, window, _UNKNOWN["loc"])
    with network_precision("float32", torch.device("cpu")):
        decoded = prior_of(job.store).decode(torch.from_numpy(z)[None], _shape(job.bands, window, field.step))
    cut = core.relative_to(window.finer(field.step)).slices
    mean, std = (x[0][(..., *cut)].numpy() for x in decoded)
    return mean, std


def _shape(bands: int, window: Window, step: int) -> tuple[int, int, int]:
    return bands, window.height * step, window.width * step


def _write(store: Store, site: str, parameter: str, window: Window, value: np.ndarray) -> None:
    array = store.array("mosaic", f"{site}_{parameter}", writable=True)
    if array.dtype == np.float16:
        value = np.clip(value, np.finfo(np.float16).min, np.finfo(np.float16).max)
    array[(..., *window.slices)] = value.astype(array.dtype)
