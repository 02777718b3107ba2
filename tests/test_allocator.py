"""Freed memory is kept within a scope, and returned after it."""

import sys

import pytest
import torch

from pyro_vble import _allocator
from pyro_vble._allocator import freed_memory_kept, keep_freed_memory


def resident() -> int:
    """Bytes of this process in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


@pytest.mark.skipif(sys.platform != "linux", reason="needs glibc and /proc")
def test_a_freed_tensor_stays_until_the_scope_ends():
    size = 64 * 2**20
    with freed_memory_kept():
        before = resident()
        torch.ones(size // 4)
        kept = resident() - before
    returned = before + kept - resident()
    assert kept > 0.9 * size
    assert returned > 0.9 * size


def test_scopes_nest_and_the_last_returns(monkeypatch):
    calls = []
    monkeypatch.setattr(_allocator, "_scopes", 0)
    monkeypatch.setattr(_allocator, "_set", lambda options: calls.append(options[_allocator._MMAP_MAX]))
    with freed_memory_kept():
        with freed_memory_kept():
            pass
        assert calls == [0]
    assert calls == [0, _allocator._DEFAULT_MMAP_MAX]


def test_a_program_that_keeps_it_keeps_it_after_any_scope(monkeypatch):
    calls = []
    monkeypatch.setattr(_allocator, "_scopes", 0)
    monkeypatch.setattr(_allocator, "_set", lambda options: calls.append(options[_allocator._MMAP_MAX]))
    keep_freed_memory()
    with freed_memory_kept():
        pass
    assert calls == [0]
