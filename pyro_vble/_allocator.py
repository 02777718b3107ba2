"""Keeping the memory that has been freed, for the next step to use."""

import contextlib
import ctypes
import functools
from typing import Any

from pyro_vble._shared_scope import SharedScope

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # glibc's malloc.h
_NEVER = 2**31 - 1
# Where glibc's own thresholds end once a program has freed an array of 32 MiB, and its largest number of mappings.
_LARGEST_THRESHOLD, _DEFAULT_MMAP_MAX = 32 * 2**20, 65536


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory for the next allocation, in this process from now on.

    By default large tensors are mapped anew at every step of a training, and the kernel clears their pages each time:
    on two CPU cores a fifth to a third of a step. Programs call this for themselves; where there is no glibc, nothing
    happens.
    """
    _scope.__enter__()


def freed_memory_kept() -> SharedScope:
    """A scope in which glibc keeps freed memory, as after :func:`keep_freed_memory`, and at whose end it is returned.

    Scopes may be nested: the last to end returns the memory.
    """
    return _scope


def _keep() -> None:
    _set({_MMAP_MAX: 0, _TRIM_THRESHOLD: _NEVER})


def _give_back() -> None:
    own = {_MMAP_THRESHOLD: _LARGEST_THRESHOLD, _TRIM_THRESHOLD: 2 * _LARGEST_THRESHOLD}
    _set({_MMAP_MAX: _DEFAULT_MMAP_MAX, **own})
    with contextlib.suppress(AttributeError, TypeError):
        _libc().malloc_trim(0)


_scope = SharedScope(_keep, _give_back)


def _set(options: dict[int, int]) -> None:
    for option, value in options.items():
        with contextlib.suppress(AttributeError, TypeError):
            _libc().mallopt(option, value)


@functools.cache
def _libc() -> Any:
    try:
        return ctypes.CDLL(None)
    except (OSError, TypeError):  # no C library to ask, as on Windows
        return None
