"""Freed memory is kept within a scope, and returned after it."""

import subprocess
import sys

import pytest

from pyro_vble import _allocator
from pyro_vble._allocator import freed_memory_kept, keep_freed_memory

# In a process of its own: in this one other tests have left room, of unknown size, that a tensor may take.
PROGRAM = """
import torch
from pyro_vble._allocator import freed_memory_kept

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

with freed_memory_kept():
    before = resident()
    torch.ones(16 * 2**20)
    kept = resident() - before
print(kept / 2**26, (before + kept - resident()) / 2**26)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs glibc and /proc")
def test_a_freed_tensor_stays_until_the_scope_ends():
    output = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout
    kept, returned = map(float, output.split())
    assert kept > 0.9
    assert returned > 0.9


def test_scopes_nest_and_the_last_returns(monkeypatch):
    calls = []
    monkeypatch.setattr(_allocator._scope, "count", 0)
    monkeypatch.setattr(_allocator, "_set", lambda options: calls.append(options[_allocator._MMAP_MAX]))
    with freed_memory_kept():
        with freed_memory_kept():
            pass
        assert calls == [0]
    assert calls == [0, _allocator._DEFAULT_MMAP_MAX]


def test_a_program_that_keeps_it_keeps_it_after_any_scope(monkeypatch):
    calls = []
    monkeypatch.setattr(_allocator._scope, "count", 0)
    monkeypatch.setattr(_allocator, "_set", lambda options: calls.append(options[_allocator._MMAP_MAX]))
    keep_freed_memory()
    with freed_memory_kept():
        pass
    assert calls == [0]
