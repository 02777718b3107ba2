"""Time, memory and the machine: what every table of ``benchmarks.speed`` is made of."""

import contextlib
import json
import statistics
import subprocess
from collections.abc import Callable
from pathlib import Path

import skimage.data
import torch
from torch import Tensor

from pyro_vble.benchmark.measuring import processor, stopwatch
from pyro_vble.io.atomic import atomic_path
from pyro_vble.training.report import versions


def photograph(name: str = "cat", side: int = 256, device: str | torch.device = "cpu") -> Tensor:
    """The middle of a photograph of scikit-image, (1, 3, side, side) in [0, 1]; reflected where it is too small."""
    x = torch.from_numpy(getattr(skimage.data, name)()[..., :3].copy()).permute(2, 0, 1)[None].float() / 255
    while min(x.shape[-2:]) < side:
        x = torch.cat((x, x.flip(-1)), -1)
        x = torch.cat((x, x.flip(-2)), -2)
    top, left = ((extent - side) // 2 for extent in x.shape[-2:])
    return x[..., top : top + side, left : left + side].contiguous().to(device)


def median_seconds(work: Callable[[], object], device: torch.device, repeats: int = 7) -> float:
    """Median time of some work, after one run that does not count."""
    work()
    times = []
    for _ in range(repeats):
        with stopwatch(device) as seconds:
            work()
        times += seconds
    return statistics.median(times)


def kept_table(path: Path | None) -> dict:
    """The table of a file that an earlier run left, or an empty one."""
    return json.loads(path.read_text())["table"] if path is not None and path.exists() else {}


def keep_table(path: Path | None, about: dict, table: dict) -> None:
    """Write a table, after every entry of it: an interrupted run leaves what it has."""
    if path is not None:
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(about | {"torch": torch.__version__, "table": table}, indent=1) + "\n")


def surroundings(device: torch.device, precision: str) -> dict[str, object]:
    """The machine, the versions and the commit that figures belong to."""
    root = Path(__file__).parents[1]
    git = ["git", "-C", str(root)]
    commit = "unknown"
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
        commit += " and changes" if changed.stdout else ""
    return {
        "commit": commit,
        "machine": processor(device),
        "capability": torch.backends.cpu.get_cpu_capability() if device.type == "cpu" else "",
        "threads": torch.get_num_threads(),
        "precision": precision,
        "versions": versions(),
    }
