"""Seconds and memory, of a CPU or of a GPU that is waited for."""

import contextlib
import platform
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from pyro_vble._allocator import return_freed_memory

_PROCESSES = Path("/proc")


def synchronize(device: torch.device) -> None:
    """Wait until a GPU is done; a CPU always is."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def processor(device: torch.device) -> str:
    """The name of a GPU, or of this machine's processor.

    Example:
        >>> import torch
        >>> from pyro_vble.benchmark.measuring import processor
        >>> len(processor(torch.device("cpu"))) > 0
        True
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


@contextlib.contextmanager
def stopwatch(device: torch.device) -> Iterator[list[float]]:
    """A scope whose seconds are the one element of the list it gives, once it has ended.

    Example:
        >>> import torch
        >>> from pyro_vble.benchmark.measuring import stopwatch
        >>> with stopwatch(torch.device("cpu")) as seconds:
        ...     _ = torch.rand(10)
        >>> len(seconds)
        1
    """
    seconds: list[float] = []
    synchronize(device)
    start = time.perf_counter()
    yield seconds
    synchronize(device)
    seconds.append(time.perf_counter() - start)


@contextlib.contextmanager
def peak_memory(device: torch.device) -> Iterator[list[float]]:
    """A scope whose growth of memory in MiB, at its peak, is the one element of the list it gives.

    Of a GPU by torch's own count; of a CPU by the kernel's, which knows of every allocation. The list stays empty where
    the kernel does not tell.
    """
    peak: list[float] = []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield peak
        peak.append((torch.cuda.max_memory_allocated(device) - before) / 2**20)
        return
    return_freed_memory()  # or what others have freed would be used, and not counted
    try:
        (_PROCESSES / "self" / "clear_refs").write_text("5")  # sets the peak back to the present
        start = kernel_count("VmRSS")
    except (OSError, StopIteration):
        yield peak
        return
    yield peak
    peak.append((kernel_count("VmHWM") - start) / 1024)


def kernel_count(key: str, process: int | str = "self") -> int:
    """What the kernel counts of a process, in KiB: "VmRSS", its memory now, or "VmHWM", the most that it ever had.

    Raises:
        OSError: If there is no such process, or the kernel does not tell.
        StopIteration: If it does not count that.
    """
    lines = (_PROCESSES / str(process) / "status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1])
