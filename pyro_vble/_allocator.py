"""Keeping the memory that has been freed, for the next step to use."""

import contextlib
import ctypes
import functools
from typing import Any

# What glibc is told: names in the environment, with their numbers in malloc.h, and values.
_OPTIONS = {"MALLOC_MMAP_MAX_": (-4, 0), "MALLOC_TRIM_THRESHOLD_": (-1, 2**31 - 1)}
#: The environment in which a process keeps freed memory from its start on, whichever of its threads compute.
KEEP_FREED_MEMORY = {name: str(value) for name, (_, value) in _OPTIONS.items()} | {"MALLOC_ARENA_MAX": "1"}


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory for the next allocation, in this process from now on.

    By default large tensors are mapped anew at every step of a fit or a training, and the kernel clears their pages
    each time, which costs a restoration on a CPU up to a tenth of its time (docs/performance.md). It is for programs to
    say, of their whole process, which then holds as much memory as it ever needed at once; the command line does.
    Where there is no glibc, nothing happens.

    Example:
        >>> import pyro_vble as pv
        >>> pv.keep_freed_memory()
    """
    for option, value in _OPTIONS.values():
        with contextlib.suppress(AttributeError, TypeError):
            _libc().mallopt(option, value)


def return_freed_memory() -> None:
    """Give back to the system what is freed and kept, once: what it then says of free memory is true."""
    with contextlib.suppress(AttributeError, TypeError):
        _libc().malloc_trim(0)


@functools.cache
def _libc() -> Any:
    try:
        return ctypes.CDLL(None)
    except (OSError, TypeError):  # no C library to ask, as on Windows
        return None
