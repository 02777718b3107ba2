"""Rules of what is asked of a stream of draws: of ``to_arviz`` and ``to_zarr`` alike."""

from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from pyro_vble._arguments import BrokenRuleError, Rule, whole
from pyro_vble.io.draw_stream import GROUPS


def _source(value: Any) -> Any:
    if not callable(getattr(value, "chains", None)) or not hasattr(value, "groups"):
        raise BrokenRuleError("type")
    return value


def _region(value: Any) -> tuple[slice, slice]:
    if not isinstance(value, tuple | list):
        raise BrokenRuleError("type")
    if len(value) != 2:
        raise BrokenRuleError("value")
    return _slice(value[0]), _slice(value[1])


def _slice(value: Any) -> slice:
    if not isinstance(value, slice):
        raise BrokenRuleError("type")
    start, stop, step = (None if end is None else whole(end) for end in (value.start, value.stop, value.step))
    if any(end is not None and abs(end) >= 2**31 for end in (start, stop, step)) or (step is not None and step < 1):
        raise BrokenRuleError("value")
    return slice(start, stop, step)


def _groups(value: Any) -> set[str]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple | set | frozenset) or not all(isinstance(name, str) for name in names):
        raise BrokenRuleError("type")
    if not names or set(names) - set(GROUPS):
        raise BrokenRuleError("value")
    return set(names)


def _truth(value: Any) -> Tensor:
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        value = torch.from_numpy(np.ascontiguousarray(value, value.dtype.newbyteorder("=")))
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_complex():
        raise BrokenRuleError("type")
    return value


def _coords(value: Any) -> dict[str, np.ndarray]:
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise BrokenRuleError("type")
    try:
        arrays = {name: np.asarray(one) for name, one in value.items()}
    except Exception:  # whatever an object that is no array does when it is made one
        raise BrokenRuleError("type") from None
    if any(array.dtype.kind not in "biufMmU" for array in arrays.values()):
        raise BrokenRuleError("value")
    return arrays


Source = Annotated[Any, Rule("a posterior, as pyro_vble.restore returns it", _source)]
Region = Annotated[
    Any,
    Rule(
        "two slices, of rows and of columns, with whole numbers as ends", _region, "(slice(0, 64), slice(0, 64)) is one"
    ),
]
Groups = Annotated[Any, Rule(f"a list of groups of {', '.join(GROUPS)}", _groups)]
Truth = Annotated[Any, Rule("a tensor of real numbers of the image's shape", _truth)]
Coords = Annotated[Any, Rule("a dict from row, col or band to arrays of numbers, times or text", _coords)]
