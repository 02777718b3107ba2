"""The same benchmark on a GPU."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_vble.benchmark import load_benchmark
from pyro_vble.benchmark.resources import Resources
from pyro_vble.benchmark.runner import Run, image_paths

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


def test_figures_are_those_of_the_cpu(tmp_path):
    (tmp_path / "images").mkdir()
    ramp = np.add.outer(np.arange(64), 2 * np.arange(64))[..., None] + np.array([0, 20, 40])
    Image.fromarray(ramp.astype(np.uint8)).save(tmp_path / "images" / "0.png")
    benchmark = load_benchmark("bsd", quick=True).of(["first-guess", "map-tv", "vble-xz-free"], ["gaussian-1", "x2"])
    figures = {}
    for name in ("cpu", "cuda"):
        resources = Resources(torch.device(name), "cae-bsd")
        outcome = Run(benchmark, image_paths(tmp_path / "images", None), tmp_path / name, resources)()
        assert (outcome.made, outcome.failed) == (9, {})
        for path in (tmp_path / name).glob("bsd/*/*/*.json"):
            record = json.loads(path.read_text())
            figures.setdefault((record["problem"], record["method"]), {})[name] = record["figures"]
            assert (record["figures"]["peak_memory"] or 0) >= 0  # of a CPU the kernel may not tell
    for (_, method), by_device in figures.items():
        # Fits draw other random numbers on a GPU; the others differ by rounding alone.
        apart = 0.5 if method == "vble-xz-free" else 0.05
        assert abs(by_device["cpu"]["psnr"] - by_device["cuda"]["psnr"]) < apart
