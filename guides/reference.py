"""What makes a guide, as a name that can be written down, and back."""

import functools
import importlib
import inspect
import sys
from collections.abc import Callable
from typing import Any

from pyro.infer.autoguide import AutoGuide
from torch import nn

from pyro_vble.guides.building import unwrapped
from pyro_vble.guides.mean_field import MeanFieldGuide
from pyro_vble.guides.parameters import StoredGuide

_OURS, _PYRO = "pyro_vble.guides", "pyro.infer.autoguide"
_PLAIN = (str, bool, int, float, type(None))


def reference_of(guide: Callable, maker: Callable | None = None) -> dict[str, Any]:
    """Module, qualified name and options of what makes a guide.

    Args:
        guide: The guide.
        maker: What made it, where it is known.

    Raises:
        TypeError: If an option is no number, word or truth value, or a list of such, as a file can hold them.

    Example:
        >>> import functools
        >>> from pyro.infer.autoguide import AutoLowRankMultivariateNormal
        >>> from pyro_vble.guides.reference import reference_of
        >>> maker = functools.partial(AutoLowRankMultivariateNormal, rank=8)
        >>> reference_of(maker(lambda y: None), maker)
        {'module': 'pyro.infer.autoguide', 'name': 'AutoLowRankMultivariateNormal', 'options': {'rank': 8}}
    """
    function = guide.function if isinstance(guide, StoredGuide) else guide
    kind = type(function) if isinstance(function, nn.Module) else function
    options: dict[str, Any] = {}
    if maker is not None and (unwrapped(maker) is kind or not isinstance(kind, type)):
        kind = unwrapped(maker)
        options |= _keywords(maker)
    # Of a subclass those that it takes: the rest are its parent's.
    options |= {name: value for name, value in getattr(guide, "options", {}).items() if _takes(kind, name)}
    if wrong := [name for name, value in options.items() if not _is_plain(value)]:
        raise TypeError(
            f"A guide's options must be numbers, words or truth values, or lists of them, to be saved; {wrong[0]} of "
            f"{getattr(kind, '__name__', kind)} is {type(options[wrong[0]]).__name__}."
        )
    module = getattr(kind, "__module__", "")
    for public in (_OURS, _PYRO):
        if module.startswith(f"{public}."):
            module = public
    return {"module": module, "name": getattr(kind, "__qualname__", type(kind).__qualname__), "options": options}


def maker_of(module: str, name: str, options: dict[str, Any]) -> Callable:
    """What makes a guide, by its name: a class of this library, of Pyro, or of a module that is imported already.

    A file that names it so cannot have anything imported, nor anything called that is no guide class.

    Raises:
        LookupError: If there is none.
    """
    if module in (_OURS, _PYRO):
        found: Any = getattr(importlib.import_module(module), name, None)
        fits = isinstance(found, type) and issubclass(found, MeanFieldGuide if module == _OURS else AutoGuide)
        found = found if fits and found not in (MeanFieldGuide, AutoGuide) else None
    else:
        found = sys.modules.get(module)
        for part in name.split("."):
            found = getattr(found, part, None)
        found = found if isinstance(found, type) and issubclass(found, nn.Module) else None
    if found is None:
        raise LookupError(f"there is no guide class {name} in {module}")
    return functools.partial(found, **options) if options else found


def _is_plain(value: Any) -> bool:
    return isinstance(value, _PLAIN) or (isinstance(value, list) and all(isinstance(one, _PLAIN) for one in value))


def _takes(kind: Callable, name: str) -> bool:
    parameters = inspect.signature(kind).parameters
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _keywords(maker: Callable) -> dict[str, Any]:
    if not isinstance(maker, functools.partial):
        return {}
    if maker.args:
        raise TypeError(
            "A guide's options must be named to be saved; received a functools.partial with positional ones; write "
            "functools.partial(Guide, rank=8)."
        )
    return {**_keywords(maker.func), **maker.keywords}
