"""Settings of the whole process that hold while anybody wants them."""

from collections.abc import Callable

from pyro_vble._one_at_a_time import program_lock


class SharedScope:
    """A scope that may be nested: the first to begin sets, the last to end restores.

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
        self.count = 0

    def __enter__(self) -> None:
        with program_lock:
            self.count += 1
            if self.count == 1:
                self._begin()

    def __exit__(self, *_: object) -> None:
        with program_lock:
            self.count -= 1
            if self.count == 0:
                self._end()
