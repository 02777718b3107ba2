"""Where the scheduler becomes the limit: ten thousand tiles that do nothing but take their time, on a real scheduler.

``python -m benchmarks.scheduler --slots 8 64 256 --seconds 1 --output FILE`` sends tiles that sleep, and are marked on
disk as fitted ones are, through the same crew as a scene's, and prints how much longer they take than they must.
"""

import argparse
import json
import tempfile
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import torch

from benchmarks.measuring import surroundings
from pyro_vble.io.atomic import atomic_path
from pyro_vble.scene.engine import DaskCrew, Task


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--slots", type=int, nargs="+", default=[8, 64, 256])
    parser.add_argument("--seconds", type=float, default=1.0, help="what a tile takes")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    rows = []
    for slots in options.slots:
        rows.append(_measure(options.cells, slots, options.seconds))
        print(json.dumps(rows[-1]), flush=True)
    if options.output:
        about = surroundings(torch.device("cpu"), "none")
        with atomic_path(options.output) as temporary:
            temporary.write_text(json.dumps(about | {"runs": rows}, indent=1) + "\n")


def _sleep(job: Any, place: tuple[int, int], seconds: float) -> dict[str, Any]:
    time.sleep(seconds)
    return {"status": "fitted"}


def _measure(cells: int, slots: int, seconds: float) -> dict[str, Any]:
    from distributed import Client, LocalCluster

    side = round(cells**0.5)
    places = [(row, column) for row in range(side) for column in range(side)]
    # Threads stand for the GPUs of a cluster: they wait as these would, and cost this machine nothing meanwhile.
    how = {"n_workers": 1, "threads_per_worker": slots, "processes": False, "dashboard_address": None}
    with tempfile.TemporaryDirectory() as folder, LocalCluster(**how) as cluster, Client(cluster) as client:
        job = SimpleNamespace(store=folder)
        task = Task("fitted", partial(_sleep, seconds=seconds))
        own, begin = psutil.Process().cpu_times(), time.perf_counter()
        done = sum(1 for _ in DaskCrew(client).work(task, job, places))
        spent, used = time.perf_counter() - begin, psutil.Process().cpu_times()
    least = len(places) * seconds / slots
    return {
        "cells": done,
        "slots": slots,
        "seconds_per_cell": seconds,
        "seconds": spent,
        "least_seconds": least,
        "efficiency": least / spent,
        "cpu_milliseconds_per_cell": 1e3 * (used.user + used.system - own.user - own.system) / done,
    }


if __name__ == "__main__":
    main()
