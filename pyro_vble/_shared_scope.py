"""Settings of the whole process that hold while anybody wants them."""

import threading
from collections.abc import Callable


class SharedScope:
    """A scope that may be nested, and overlap in several threads: the first to begin sets, the last to end restores.

    Args:
        begin: Called when nobody was within.
        end: Called when nobody is left.

    Example:
        >>> from pyro_vble._shared_scope import SharedScope
        >>> scope = SharedScope(lambda: print("set"), lambda: print("restored"))
        >>> with scope, scope:
        ...     print("within")
        set
        within
        restored
    """

    def __init__(self, begin: Callable[[], None], end: Callable[[], None]) -> None:
        self._begin, self._end = begin, end
        self._lock = threading.Lock()
        self.count = 0

    def __enter__(self) -> None:
        with self._lock:
            self.count += 1
            if self.count == 1:
                self._begin()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self.count -= 1
            if self.count == 0:
                self._end()
