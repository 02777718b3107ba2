"""Fitting one cell of a scene, and what is kept of the fit."""

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vble.guides import GaussianFactor, UniformFactor
from pyro_vble.guides.abilities import guide_name
from pyro_vble.inference.precision import network_precision
from pyro_vble.restoration import restore
from pyro_vble.samples import Posterior
from pyro_vble.scene.grid import Window
from pyro_vble.scene.job import Job, prior_of
from pyro_vble.scene.store import Field, Store, fields_as_json
from pyro_vble.seeding import derived_seed

#: Families whose values at given noise are known from two maps, the centre and the standard deviation.
FAMILIES = {"gaussian": GaussianFactor, "uniform": UniformFactor}
#: The site of the decentred image.
IMAGE = "x_decentered"


def fit_cell(job: Job, place: tuple[int, int]) -> dict[str, Any]:
    """Fit the guide to a cell and its halo, and write what belongs to the cell; returns what is marked.

    Measured values near the window's edge that depend on pixels beyond it carry no likelihood, so that what is fitted
    is the scene's own model, restricted to the window.
    """
    store, window = Store(job.store), job.grid.window(*place)
    y = job.measurement(window)
    core = job.grid.core(*place)
    inside = _measured(core.relative_to(window), job.operator.ratio)
    _forget_margin(job, window, y)
    if not np.isfinite(y if job.fill else y[(..., *inside.slices)]).any():
        return {"status": "empty"}
    shape = job.bands, window.height, window.width
    posterior = restore(
        torch.from_numpy(y)[None],
        job.operator.physics(shape),
        prior_of(job.store),
        job.guide,
        image_shape=shape,
        seed=derived_seed(job.seed, "cell", place[0] * job.grid.columns + place[1]),
        progress=False,
        **job.options,
    )
    if posterior.interrupted:
        raise KeyboardInterrupt  # what restore takes for a wish to see what it has
    fields, arrays = _kept(posterior, job, place)
    store.write_tile(place, arrays)
    fitted = time.perf_counter()
    posterior.sample(1)
    return {
        "status": "fitted",
        "fields": fields_as_json(fields),
        "precision": posterior.precision,
        "elbo": float(posterior.elbo[-1]),
        "steps": len(posterior.elbo),
        "sample_seconds": (time.perf_counter() - fitted) * (core.height * core.width) / (window.height * window.width),
    }


def _measured(window: Window, ratio: int) -> Window:
    return Window(*(side // ratio for side in window))


def _forget_margin(job: Job, window: Window, y: np.ndarray) -> None:
    """Take out, in place, measured values that depend on pixels beyond the window; none at the scene's own edges."""
    edge = -(-job.margin // job.operator.ratio)
    if not edge:
        return
    if window.top > 0:
        y[:, :edge] = np.nan
    if window.bottom < job.grid.height:
        y[:, -edge:] = np.nan
    if window.left > 0:
        y[:, :, :edge] = np.nan
    if window.right < job.grid.width:
        y[:, :, -edge:] = np.nan


def kept_window(job: Job, place: tuple[int, int], field: Field) -> Window:
    """The values of a site that are kept of a cell's fit, in steps: where it has a say.

    Of latents also those that its pixels are decoded from, for where a neighbour has nothing to say.
    """
    core, window = job.grid.core(*place), job.grid.window(*place)
    beyond = job.grid.ramp if field.step == 1 else max(job.grid.ramp, job.reach * field.step)
    own = core.grown(beyond, job.grid.height, job.grid.width).within(window)
    return job.grid.values(own, field.step, field.unit)


def families(guide: Any) -> dict[str, str]:
    """Names of a guide's families by site.

    Raises:
        ValueError: If it is no product of factors that are known from two maps.
    """
    if not hasattr(guide, "factors"):
        raise _unknown(guide_name(guide))
    found = {}
    for site, factor in guide.factors.items():
        family = next((name for name, kind in FAMILIES.items() if type(factor) is kind), None)
        if family is None:
            raise _unknown(f"one with a {type(factor).__name__}")
        found[site] = family
    return found


def _kept(posterior: Any, job: Job, place: tuple[int, int]) -> tuple[dict[str, Field], dict[str, np.ndarray]]:
    """Sites of a fit, and their centres and standard deviations where the cell has a say, with its central image."""
    window, stride = job.grid.window(*place), posterior.model.prior.stride
    fields, arrays = {}, {}
    for site, family in families(posterior.guide).items():
        factor = posterior.guide.factors[site]
        loc, std = (value[0].float().cpu().numpy() for value in factor.moments())
        unit = 1 if site == IMAGE else stride
        step = 1 if site == IMAGE else -(-window.height // stride) * stride // loc.shape[-2]
        fields[site] = Field(family, step, unit, loc.shape[:-2])
        kept = kept_window(job, place, fields[site])
        cut = kept.relative_to(job.grid.values(window, step, unit)).slices
        arrays[f"{site}.std"] = std[(..., *cut)]
        if site != IMAGE:  # its centre is told by the central image
            arrays[f"{site}.loc"] = loc[(..., *cut)]
        elif factor.centre_parameters():
            image = _central_image(posterior)[0].float().cpu().numpy()
            arrays[f"{site}.image"] = image[(..., *cut)]
    return fields, arrays


@torch.no_grad()
def _central_image(posterior: Posterior) -> Tensor:
    """D(z̄) + σ(z̄)·ū, (1, C, H, W), in full precision."""
    centre = posterior.centre()
    with network_precision("float32", posterior.y.device):
        mean, std = posterior.model.prior.decode(centre["z"], posterior.shape[1:])
    return mean + std * centre[IMAGE]


def _unknown(what: str) -> ValueError:
    return ValueError(
        "A scene needs a guide of independent Gaussian or uniform factors, whose value at a place follows from a "
        f"centre and a width there; received {what}; choose VBLExz or VBLE with family='gaussian' or 'uniform'."
    )
