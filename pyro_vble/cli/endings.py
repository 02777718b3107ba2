"""Signals that ask a program to end, heeded wherever they arrive."""

import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any

_AGAIN = 0.01  # seconds


def end_tidily() -> None:
    """Have a request to end unwind the program, which removes what is half written."""

    def end(number: int, frame: Any) -> None:
        signal.signal(number, signal.SIG_IGN)  # asked once is enough
        sys.exit(128 + number)

    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # Whoever started the program may have it ignore a signal, as nohup does.
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, heeded(end))
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, heeded(signal.default_int_handler))


def heeded(handler: Callable[[int, Any], Any]) -> Callable[[int, Any], None]:
    """A handler that raises, put off where Python would swallow what it raises.

    In a finaliser or the callback of a weak reference an exception is printed and forgotten, and the program goes on as
    if nobody had asked. A long step of a network ends in such callbacks often enough.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        if is_swallowed(frame):
            timer = threading.Timer(_AGAIN, os.kill, (os.getpid(), number))
            timer.daemon = True
            timer.start()
        else:
            handler(number, frame)

    return handle


def is_swallowed(frame: FrameType | None) -> bool:
    """Whether Python forgets exceptions that are raised in a frame."""
    while frame is not None:
        if frame.f_code.co_name == "__del__" or frame.f_code.co_filename in _CALLBACKS:
            return True
        frame = frame.f_back
    return False


_CALLBACKS = {weakref.__file__, sys.modules["_weakrefset"].__file__}
