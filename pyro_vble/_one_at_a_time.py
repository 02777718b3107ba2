"""One lock for whatever runs a Pyro program: threads wait for each other."""

import contextlib
import functools
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import torch

_F = TypeVar("_F", bound=Callable[..., Any])

#: Pyro's handler stack, parameter store and settings, and torch's default generators, are those of the whole process.
#: Within this lock, which the same thread may take again, nobody else of this library touches them.
program_lock = threading.RLock()


def one_at_a_time(function: _F) -> _F:
    """A function that no other thread runs, nor any other that is decorated so, while one does.

    A caller's inference mode is not its own: nothing that is made there ever has a gradient, as guides must.

    Example:
        >>> from pyro_vble._one_at_a_time import one_at_a_time
        >>> @one_at_a_time
        ... def twice(x):
        ...     return 2 * x
        >>> twice(3)
        6
    """

    @functools.wraps(function)
    def alone(*args: Any, **kwargs: Any) -> Any:
        outside = torch.inference_mode(False) if torch.is_inference_mode_enabled() else contextlib.nullcontext()
        with program_lock, outside:
            return function(*args, **kwargs)

    return alone  # type: ignore[return-value]
