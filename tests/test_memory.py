"""How much memory is free: of the machine, the container, the process, a GPU."""

import resource

import pytest
import torch

from pyro_vble import memory
from pyro_vble.memory import free_memory

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("line", "folder", "names"),
    [
        ("0::/a/b", "a", ("memory.max", "memory.current", "inactive_file")),
        ("4:memory:/a", "memory/a", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")),
        ("0::/elsewhere", "", ("memory.max", "memory.current", "inactive_file")),
    ],
)
def test_a_containers_limit_counts(tmp_path, monkeypatch, line, folder, names):
    root, own = tmp_path / "cgroup", tmp_path / "own"
    group = root / folder
    group.mkdir(parents=True)
    limit, usage, cache = names
    (group / limit).write_text("1000000\n")
    (group / usage).write_text("700000\n")
    (group / "memory.stat").write_text(f"anon 1\n{cache} 200000\n")
    own.write_text(f"1:name=systemd:/\n{line}\n")
    monkeypatch.setattr(memory, "_groups", lambda found=memory._groups: found(root, own))
    assert free_memory(CPU) == 500_000
    (group / limit).write_text("max\n")
    assert free_memory(CPU) != 500_000


@pytest.mark.cuda
def test_memory_of_a_gpu_that_its_allocator_keeps_is_free():
    device, size = torch.device("cuda", 0), 2**30
    torch.ones(1, device=device)  # what starting takes
    before = free_memory(device)
    tensor = torch.empty(size, dtype=torch.uint8, device=device)
    assert before - free_memory(device) == pytest.approx(size, rel=0.1)
    del tensor
    assert torch.cuda.memory_reserved(device) >= size, "it is kept for the next tensor"
    assert free_memory(device) == pytest.approx(before, rel=0.01)


def test_a_limit_of_the_address_space_counts(monkeypatch):
    monkeypatch.setattr(memory, "_of_the_machine", lambda: 2**60)
    monkeypatch.setattr(memory, "_of_the_container", lambda: None)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (2**50, 2**50))
    assert 0 < free_memory(CPU) < 2**50
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert free_memory(CPU) == 2**60


def test_nobody_tells(monkeypatch):
    for name in ("_of_the_machine", "_of_the_container", "_of_the_process"):
        monkeypatch.setattr(memory, name, lambda: None)
    assert free_memory(CPU) is None
