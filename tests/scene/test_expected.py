"""What a scene is expected to take, and how many processes that gives it."""

import math
import os
import subprocess
import sys

import pytest
import torch

from pyro_vble._allocator import KEEP_FREED_MEMORY
from pyro_vble._forecast import Forecast
from pyro_vble.guides import VBLExz
from pyro_vble.scene import expected as module
from pyro_vble.scene.expected import Expected, expected_of
from pyro_vble.scene.grid import Grid

GRID = Grid(1500, 1500, cell=512, halo=64, ramp=16)
CPU = torch.device("cpu")


@pytest.fixture
def expected(cae, monkeypatch):
    """The function (bytes a cell, bytes that are free, device, ...) -> what the nine cells take on sixteen cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)

    def of(needed=0.0, free=None, device=CPU, grid=GRID, **how):
        monkeypatch.setattr(module, "forecast", lambda *_, **__: Forecast(60.0, needed, free))
        settings = {"steps": 90, "samples": 100, "device": torch.device(device), "precision": "auto"}
        return expected_of(grid, 4, cae, VBLExz, **settings, **how)

    return of


def test_no_more_processes_than_cores_cells_or_memory(expected):
    assert expected(1e9, None).workers == 9  # of cells
    assert expected(1e9, None, grid=Grid(4000, 4000, cell=512, halo=64, ramp=16)).workers == 16  # of cores
    assert expected(1e9, int(8.5e9)).workers == 4  # with a gigabyte for each one's libraries
    assert expected(1e12, int(8e9)).workers == 1


def test_what_is_fitted_is_still_to_be_blended_and_drawn(expected):
    assert expected(1e9, None, cells=1).workers == 9
    assert expected(1e9, None, cells=0).workers == 9
    assert math.isnan(expected(1e9, None, cells=0).seconds)


def test_a_small_scene_is_not_tried_out(expected, monkeypatch):
    small = Grid(300, 300, cell=128, halo=64, ramp=16)
    found = expected(1e12, int(8e9), grid=small)
    assert math.isnan(found.seconds)
    assert found.workers == 9
    assert not found.too_much


def test_as_many_as_are_asked_for_and_a_word_if_that_is_too_many(expected):
    asked = expected(1e9, int(8e9), workers=12)
    assert asked.workers == 12
    assert asked.too_much
    assert not expected(1e9, int(8e9), workers=4).too_much


def test_fewer_processes_take_longer(expected):
    one, four = (expected(1e9, None, workers=count).seconds for count in (1, 4))
    assert one == pytest.approx(4 * four)


def test_one_process_a_gpu(expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert expected(device="cuda").workers == 4
    assert expected(device="cuda", cells=3).workers == 4
    assert expected(device="cuda", workers=8).workers == 8
    assert expected(device="cuda:1").workers == 1
    assert math.isnan(expected(device="cuda").seconds)  # not tried out


def test_it_is_told_in_words():
    told = "9 tiles of 512x512 on 2 processes, about 12 min and 2.4 GB of memory each (8.0 GB are free)"
    assert str(Expected(9, 512, 2, 720.0, 2.4e9, int(8e9))) == told
    assert str(Expected(1, 512, 1, 20.0, 2.4e9)) == "1 tile of 512x512 on 1 process, about 20 s and 2.4 GB of memory"
    assert str(Expected(9, 512, 4)) == "9 tiles of 512x512 on 4 processes"


# A worker's environment is one that it starts in.
PROGRAM = """
import sys, numpy, torch, deepinv, pyro_vble as pv
from pyro_vble._forecast import forecast
from pyro_vble.guides import DEFAULT_GUIDE

torch.set_num_threads(1)
bands = int(sys.argv[1])
def told(name):
    with open("/proc/self/status") as lines:
        return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])

prior, physics = pv.load_prior("cae-bsd"), deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))
how = {"steps": 2, "samples": 2, "device": torch.device("cpu"), "precision": "float32"}
needed = forecast((bands, 512, 512), prior, DEFAULT_GUIDE, **how).needed
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak begins anew
before = told("VmRSS")
pv.restore(torch.rand(1, bands, 512, 512), physics, prior, num_steps=2, precision="float32", progress=False)
print(needed, told("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("bands", [1, 4])
def test_a_process_takes_what_is_forecast(bands):
    """Within the half that a forecast may be off: what is kept of earlier steps is used again, in part."""
    command = [sys.executable, "-c", PROGRAM, str(bands)]
    output = subprocess.run(command, capture_output=True, text=True, env=os.environ | KEEP_FREED_MEMORY, check=True)
    needed, taken = map(float, output.stdout.split())
    assert 0.5 < taken / needed < 1.5
