"""What is drawn of a cell once the mosaic stands: its mean, its deviations, its intervals."""

from typing import Any

import numpy as np

from pyro_vble._streaming import EXACT_SAMPLES
from pyro_vble.samples import Samples, StoredSamples
from pyro_vble.scene.job import Job
from pyro_vble.scene.posterior import ScenePosterior
from pyro_vble.scene.store import Store

#: Arrays of results.
RESULTS = ("mean", "std", "low", "high")


def result_names(job: Job) -> list[str]:
    """Names of the arrays of results."""
    return [*RESULTS, *(f"sample_{number}" for number in range(job.kept_samples))]


def create_results(job: Job) -> None:
    """Create the arrays of results, missing everywhere."""
    store, grid = Store(job.store), job.grid
    for name in result_names(job):
        store.create("results", name, (job.bands, grid.height, grid.width), grid.cell, "float32", float("nan"))


def draw_cell(job: Job, place: tuple[int, int]) -> dict[str, Any]:
    """Draw the samples of a cell, and write their statistics; missing pixels are missing, unless they are filled in."""
    core = job.grid.core(*place)
    cell = ScenePosterior(Store(job.store), core, device=job.options.get("device", "auto"))
    drawn: Samples = cell
    if job.samples <= EXACT_SAMPLES:  # statistics hold so many in any case: drawn once, in place of once for each
        drawn = StoredSamples(cell.sample(job.samples))
    drawn.calibration = job.calibration
    low, high = drawn.interval(job.probability, job.samples)
    found = {"mean": drawn.mmse_x(job.samples), "low": low, "high": high}
    found |= {f"sample_{number}": cell.draw(number)[None] for number in range(job.kept_samples)}
    numbers = {name: job.numbers(value[0].float().cpu().numpy()) for name, value in found.items()}
    std = drawn.std(job.samples)[0].float().cpu().numpy()
    numbers["std"] = np.abs(job.numbers(std) - job.numbers(np.zeros_like(std)))  # a deviation has no offset
    absent = None if job.fill else job.missing(core)
    for name, values in numbers.items():
        if absent is not None:
            values = np.where(absent, np.float32(np.nan), values)
        Store(job.store).write("results", name, core, values)
    return {"status": "drawn"}
