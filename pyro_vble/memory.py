"""How much memory there is."""

import contextlib
from pathlib import Path

import torch

from pyro_vble._allocator import return_freed_memory


def free_memory(device: torch.device) -> int | None:
    """Bytes that may still be had: of the GPU, or of the machine and the container that this runs in.

    None if nobody tells.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return_freed_memory()
    known = [free for free in (_of_the_machine(), _of_the_container(), _of_the_process()) if free is not None]
    return min(known, default=None)


def _of_the_machine() -> int | None:
    with contextlib.suppress(OSError, ValueError, StopIteration), open("/proc/meminfo") as lines:
        return 1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1])
    return None


def _of_the_container() -> int | None:
    """The least that any control group of this process leaves: groups of version 2, and of version 1."""
    found = []
    for folder in _groups():
        for limit, usage, cache in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            with contextlib.suppress(OSError, ValueError):  # no such group, or "max"
                most, used = (int((folder / name).read_text()) for name in (limit, usage))
                stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                found.append(max(0, most - used + int(stat.get(cache, 0))))
    return min(found, default=None)


def _groups(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> list[Path]:
    """The control groups of memory that this process is in, its own first."""
    folders = []
    with contextlib.suppress(OSError, ValueError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in ("", "memory"):
                base = root / controllers
                group = base / path.lstrip("/")
                folders += [group, *(parent for parent in group.parents if parent.is_relative_to(base))]
    return folders


def _of_the_process() -> int | None:
    """What a limit of the address space, as of `ulimit -v`, leaves."""
    try:
        import resource
    except ImportError:  # as on Windows
        return None
    most = resource.getrlimit(resource.RLIMIT_AS)[0]
    if most == resource.RLIM_INFINITY:
        return None
    with contextlib.suppress(OSError, ValueError):
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        return max(0, most - used)
    return None
