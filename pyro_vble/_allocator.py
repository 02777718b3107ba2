"""Keeping the memory that a process has freed."""

import contextlib
import ctypes

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # glibc's malloc.h
_NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory for the next allocation, in this process from now on.

    By default large tensors are mapped anew at every step of a training, and the kernel clears their pages each time:
    on two CPU cores a fifth to a third of a step. Programs call this for themselves, the library does not; where there
    is no glibc, nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_MAX, 0)
        libc.mallopt(_TRIM_THRESHOLD, _NEVER)
