"""From what was fitted for every cell to one mosaic of latents over the scene."""

from typing import Any

import numpy as np
import torch

from pyro_vble.inference.precision import network_precision
from pyro_vble.scene.grid import Grid, Window
from pyro_vble.scene.job import Job, prior_of
from pyro_vble.scene.store import Field, Store
from pyro_vble.scene.tiles import IMAGE, kept_window

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
        whole = grid.values(grid.whole, field.step, field.unit)
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
        window = job.grid.values(core, field.step, field.unit)
        for parameter in _UNKNOWN if site != IMAGE else ("std",):
            _write(store, site, parameter, window, blended(job, site, parameter, field, window))
    image = blended(job, IMAGE, "image", fields[IMAGE], core) if IMAGE in fields else None
    if image is not None and np.isfinite(image).any():
        mean, std = _decoded(job, core, fields["z"])
        _write(store, IMAGE, "loc", core, np.nan_to_num((image - mean) / std))
    return {"status": "blended"}


def blended(job: Job, site: str, parameter: str, field: Field, window: Window) -> np.ndarray:
    """The weighted mean of a parameter over the cells that have a say in a window.

    Where none of them has been fitted (one failed, or holds no measurement), the mean of what those about it were
    fitted to there: their own pixels are decoded from it. Where there is nothing of that either, what is not known.

    Args:
        job: The scene.
        site: The site.
        parameter: "loc", "std" or "image"; cells whose fit has no such parameter are left out.
        field: The site's field.
        window: Where, in steps.
    """
    from safetensors import safe_open

    store, grid = Store(job.store), job.grid
    total, rest = np.zeros((2, *field.leading, window.height, window.width))
    weights, others = np.zeros((2, window.height, window.width))
    for place in sorted(grid.about(grid.touched(window.finer(field.step)))):
        own = kept_window(job, place, field)
        part = own.within(window)
        if part.is_empty or not store.is_fitted(place):
            continue
        with safe_open(store.tile(place), "np") as file:
            if f"{site}.{parameter}" not in file.keys():  # noqa: SIM118, it is no dictionary
                continue
            value = file.get_slice(f"{site}.{parameter}")[(..., *part.relative_to(own).slices)]
        weight = grid.weight(place, part, field.step)
        here = part.relative_to(window).slices
        total[(..., *here)] += weight * value
        weights[here] += weight
        rest[(..., *here)] += value
        others[here] += 1
    mean = np.where(weights > 0, total / np.where(weights > 0, weights, 1), rest / np.maximum(others, 1))
    return np.where(others > 0, mean, _UNKNOWN.get(parameter, np.nan)).astype(np.float32)


@torch.no_grad()
def _decoded(job: Job, core: Window, field: Field) -> tuple[np.ndarray, np.ndarray]:
    """D(z̄) and σ(z̄) of a cell, from the blended centres about it, in full precision."""
    window = latents_about(job.grid, core, field, job.reach)
    z = blended(job, "z", "loc", field, window)
    shape = job.bands, window.height * field.step, window.width * field.step
    with network_precision("float32", torch.device("cpu")):
        decoded = prior_of(job.store).decode(torch.from_numpy(z)[None], shape)
    cut = core.relative_to(window.finer(field.step)).slices
    mean, std = (x[0][(..., *cut)].numpy() for x in decoded)
    return mean, std


def latents_about(grid: Grid, core: Window, field: Field, reach: int) -> Window:
    """The latents that pixels of a window are decoded from, in steps."""
    whole = grid.values(grid.whole, field.step, field.unit)
    return grid.values(core, field.step, field.unit).grown(reach, whole.height, whole.width)


def _write(store: Store, site: str, parameter: str, window: Window, value: np.ndarray) -> None:
    if dtype_of(site, parameter) == "float16":
        value = np.clip(value, np.finfo(np.float16).min, np.finfo(np.float16).max)
    store.write("mosaic", f"{site}_{parameter}", window, value)
