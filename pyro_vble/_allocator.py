"""Keeping the memory that has been freed, for the next step to use."""

import contextlib
import ctypes
import functools
from typing import Any

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # glibc's malloc.h
_NEVER = 2**31 - 1


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
    for option, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER)):
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
