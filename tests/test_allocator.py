"""Freed memory is kept where a program asks for it, and nowhere else."""

import os
import subprocess
import sys

import pytest

from pyro_vble._allocator import KEEP_FREED_MEMORY

# In processes of their own: this one may keep its memory, and other tests have left room of unknown size in it.
PROGRAM = """
import sys, torch
import pyro_vble as pv
from pyro_vble.memory import free_memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

if sys.argv[1] == "kept":
    pv.keep_freed_memory()
else:
    import deepinv
    physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))
    pv.restore(torch.rand(1, 1, 28, 28), physics, "vae-mnist", num_steps=2, progress=False).mmse_x(3)
before = resident()
torch.ones(16 * 2**20)
kept = resident() - before
free_memory(torch.device("cpu"))
print(kept / 2**26, (resident() - before) / 2**26)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs glibc and /proc")
@pytest.mark.parametrize("asked", [True, False])
def test_a_freed_tensor_stays_if_asked_for(asked):
    """Until somebody asks how much memory is free."""
    command = [sys.executable, "-c", PROGRAM, "kept" if asked else "restored"]
    environment = {name: value for name, value in os.environ.items() if name not in KEEP_FREED_MEMORY}
    output = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    kept, still = map(float, output.split())
    assert (kept > 0.9) is asked
    assert still < 0.1
