"""Old names, which work for one minor version and say what the new ones are."""

import functools
import importlib
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

_T = TypeVar("_T", bound=Callable[..., Any])
_C = TypeVar("_C", bound=type)
_GOES_IN = "0.3"


def warn_moved(old: str, new: str, stacklevel: int = 2) -> None:
    """Warn that an old name was used; ``stacklevel`` counts from the caller of this, as in ``warnings.warn``."""
    message = f"{old} has moved to {new}; the old name goes in {_GOES_IN}"
    warnings.warn(message, DeprecationWarning, stacklevel=stacklevel + 1)


def moved(module: str, names: dict[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a module that others have left.

    Args:
        module: The module's ``__name__``.
        names: Where each old name is found now, as "package.module:attribute"; imported when it is asked for.

    Example:
        >>> import warnings
        >>> from pyro_vble._deprecated import moved
        >>> find = moved("old", {"tau": "math:tau"})
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     value = find("tau")
        >>> round(value, 2), str(caught[0].message)
        (6.28, 'old.tau has moved to math.tau; the old name goes in 0.3')
    """

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        home, _, attribute = names[name].partition(":")
        warn_moved(f"{module}.{name}", f"{home}.{attribute}")
        return getattr(importlib.import_module(home), attribute)

    return find


def renamed_arguments(**names: str) -> Callable[[_T], _T]:
    """A function (or a class, by its constructor) that also takes arguments by old names, ``old="new"``.

    Example:
        >>> from pyro_vble._deprecated import renamed_arguments
        >>> @renamed_arguments(colour="color")
        ... def paint(color):
        ...     return color
        >>> paint(colour="red")
        'red'
    """

    def decorate(function: Any) -> Any:
        if isinstance(function, type):
            function.__init__ = decorate(function.__init__)
            return function
        called = function.__qualname__.removesuffix(".__init__")

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            for old in names.keys() & kwargs.keys():
                new = names[old]
                if new in kwargs:
                    raise TypeError(f"{called} has one argument {new!r}; received it as {old!r} too; leave that out.")
                warn_moved(f"{called}({old}=...)", f"{called}({new}=...)")
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call

    return decorate


def renamed_attributes(**names: str) -> Callable[[_C], _C]:
    """A class whose attributes are also found, and set, by old names, ``old="new"``.

    Example:
        >>> from pyro_vble._deprecated import renamed_attributes
        >>> @renamed_attributes(colour="color")
        ... class Paint:
        ...     color = "red"
        >>> Paint().colour
        'red'
    """

    def decorate(cls: Any) -> Any:
        plain = cls.__setattr__

        def put(owner: Any, name: str, value: Any) -> None:
            if name in names:  # not by the property: torch sets modules past those
                warn_moved(f"{cls.__name__}.{name}", f"{cls.__name__}.{names[name]}")
            plain(owner, names.get(name, name), value)

        for old, new in names.items():
            setattr(cls, old, property(_getter(cls.__name__, old, new)))
        cls.__setattr__ = put
        return cls

    return decorate


def _getter(cls: str, old: str, new: str) -> Callable[[Any], Any]:
    def get(owner: Any) -> Any:
        warn_moved(f"{cls}.{old}", f"{cls}.{new}")
        return getattr(owner, new)

    return get
