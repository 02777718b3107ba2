"""What a scene is expected to take, and how many processes are to restore it."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass

import torch

from pyro_vble._forecast import QUICK, forecast, in_words
from pyro_vble.models import Prior
from pyro_vble.scene.grid import Grid

# What a process takes before its first cell, for its libraries: some of it is shared.
_LIBRARIES = 1.0e9


@dataclass(frozen=True)
class Expected:
    """What the cells of a scene take.

    Attributes:
        cells: How many there are to fit; others are fitted, and are blended or drawn.
        side: Pixels along a side of a cell.
        workers: Processes that restore them.
        seconds: Time on this machine, as busy as it is now; NaN where it was not tried out.
        needed: Bytes that a process takes at most; NaN where it was not tried out.
        free: Bytes that may still be had; None if nobody tells.
    """

    cells: int
    side: int
    workers: int
    seconds: float = math.nan
    needed: float = math.nan
    free: int | None = None

    @property
    def too_much(self) -> bool:
        """Whether the processes want more memory together than there is."""
        return self.free is not None and self.workers * self.needed > self.free

    def __str__(self) -> str:
        """In words, such as "9 tiles of 512x512 on 2 processes, about 12 min and 2.4 GB of memory for each of them"."""
        tiles = f"{self.cells} tile{'s' * (self.cells != 1)} of {self.side}x{self.side}"
        processes = f"{self.workers} process{'es' * (self.workers != 1)}"
        if math.isnan(self.seconds):
            return f"{tiles} on {processes}"
        free = "" if self.free is None else f" ({self.free / 1e9:.1f} GB are free)"
        each = " each" if self.workers > 1 else ""
        return f"{tiles} on {processes}, {in_words(self.seconds)} and {self.needed / 1e9:.1f} GB of memory{each}{free}"


def gpus_of(device: torch.device) -> int:
    """How many GPUs a device stands for: all, or the one that it names; none on a CPU."""
    if device.type != "cuda":
        return 0
    return torch.cuda.device_count() if device.index is None else 1


def expected_of(
    grid: Grid,
    bands: int,
    prior: Prior,
    guide: Callable,
    *,
    cells: int | None = None,
    workers: int | None = None,
    steps: int,
    samples: int,
    device: torch.device,
    precision: str,
) -> Expected:
    """What a scene is expected to take on processes of this machine, from small squares that are restored for a trial.

    Measured in processes of one thread, a fit of 640x640 pixels took 0.4, 0.5, 1.6 and 3.4 GB beside the libraries, for
    1, 3, 4 and 8 bands; the forecast is 0.4, 0.8, 1.7 and 3.4 GB.

    Args:
        grid: How it is cut.
        bands: Its bands.
        prior: The prior.
        guide: The guide.
        cells: How many cells are to be fitted; all if None.
        workers: How many processes there are to be; if None one a GPU, or one a core, but no more than there are cells
            in all, or than memory holds.
        steps: Steps of a fit.
        samples: Samples of each statistic.
        device: Where they compute; what that takes is tried out on a CPU only.
        precision: Precision of the networks.
    """
    every = len(grid.places)
    cells = every if cells is None else cells
    if device.type == "cuda":
        return Expected(cells, grid.cell, workers or max(1, min(gpus_of(device), every)))
    cores = len(os.sched_getaffinity(0))
    if not cells or grid.height * grid.width < QUICK:
        return Expected(cells, grid.cell, workers or max(1, min(cores, every)))
    side = grid.cell + 2 * grid.halo
    window = bands, min(side, grid.height), min(side, grid.width)
    how = {"steps": steps, "samples": samples, "device": device, "precision": precision}
    one = forecast(window, prior, guide, **how)
    needed = one.needed + _LIBRARIES
    if workers is None:
        held = cores if one.free is None else int(one.free // needed)
        workers = max(1, min(cores, every, held))
    # The trial ran on all threads, and as many processes of one thread do about as much.
    seconds = one.seconds * cells * torch.get_num_threads() / min(workers, cores)
    return Expected(cells, grid.cell, workers, seconds, needed, one.free)
