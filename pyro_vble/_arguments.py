"""Arguments of public functions, checked once, where they come in.

A public function names its rules in its annotations and is decorated with :func:`checked`; what is beneath it takes its
arguments as they are. A wrong type is a TypeError, a wrong value a ValueError, each with argument, value and remedy.
"""

import functools
import inspect
import math
import operator
import os
import reprlib
from collections.abc import Callable, Mapping
from numbers import Real
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, GetCoreSchemaHandler, ValidationError, validate_call
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

_F = TypeVar("_F", bound=Callable[..., Any])
#: Says that a rule is broken by the kind of a value, or by the value itself.
_Broken = Literal["type", "value"]
# Characters of a value in an error message.
_LONGEST = 160
_MISSING = ("missing_argument", "missing_keyword_only_argument", "missing_positional_only_argument")
_UNKNOWN = ("unexpected_keyword_argument", "unexpected_positional_argument", "multiple_argument_values")
# Errors of pydantic's own types that are about a value; all others are about its type.
_ABOUT_VALUES = ("literal_error", "enum", "value_error", "greater_than", "less_than", "too_short", "too_long")


class BrokenRuleError(Exception):
    """Raised by a rule's function: the value is of a wrong ``type``, or the ``value`` is wrong."""

    def __init__(self, broken: _Broken) -> None:
        super().__init__(broken)
        self.broken: _Broken = broken


class Rule:
    """What an argument must be, for ``Annotated[type, Rule(...)]``.

    Args:
        text: The rule, as it follows "must be".
        accept: Returns the value as the function is to have it, or raises :class:`BrokenRuleError`.
        remedy: What to do about it.
    """

    def __init__(self, text: str, accept: Callable[[Any], Any], remedy: str = "") -> None:
        self.text, self.accept, self.remedy = text, accept, remedy

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """The rule alone decides."""
        return core_schema.no_info_plain_validator_function(self._validate)

    def _validate(self, value: Any) -> Any:
        try:
            return self.accept(value)
        except BrokenRuleError as error:
            kind = f"pyro_vble_{error.broken}"
            raise PydanticCustomError(kind, "{rule}", {"rule": self.text, "remedy": self.remedy}) from None


def checked(function: _F) -> _F:
    """A function whose arguments are checked against its annotations before it runs; of a class, its constructor.

    Unannotated arguments, and those annotated with Any, are passed on unseen. What is passed on is what the rules
    make of the arguments: a NumPy integer becomes Python's.

    Example:
        >>> from pyro_vble._arguments import Count, checked
        >>> @checked
        ... def repeat(word: str, times: Count = 1):
        ...     return word * times
        >>> repeat("ab", 2)
        'abab'
        >>> repeat("ab", times=0)
        Traceback (most recent call last):
        ...
        ValueError: times must be a whole number of at least 1; received 0.
    """
    return _checked(function)


def _checked(function: Any) -> Any:
    if isinstance(function, type):
        function.__init__ = _checked(function.__init__)
        return function
    signature = inspect.signature(function)

    @functools.wraps(function)
    def passed_on(*args: Any, **kwargs: Any) -> tuple[tuple, dict[str, Any]]:
        return args, kwargs

    # What is returned may be named by a class that is yet to be defined.
    passed_on.__annotations__ = {name: a for name, a in function.__annotations__.items() if name != "return"}
    config = ConfigDict(strict=True, arbitrary_types_allowed=True)
    validated = validate_call(config=config)(passed_on)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        problem: Exception | None = None
        try:
            args, kwargs = validated(*args, **kwargs)
        except ValidationError as error:
            problem = _explained(error, function, signature)
        if problem is not None:  # outside the handler: pydantic's own words are not what the user is to read
            raise problem
        return function(*args, **kwargs)

    return call


def _explained(error: ValidationError, function: Callable[..., Any], signature: inspect.Signature) -> Exception:
    """Argument, rule, value and remedy, of the first argument that is wrong."""
    found = error.errors(include_url=False)
    first = found[0]
    parameters = [name for name in signature.parameters if name not in ("self", "cls")]
    if first["type"] in _MISSING + _UNKNOWN:
        where = first["loc"][0]
        name = where if isinstance(where, str) else f"number {where + 1}"
        what = "needs an argument" if first["type"] in _MISSING else "has no argument"
        called = function.__qualname__.removesuffix(".__init__").rsplit(".", 1)[-1]
        return TypeError(f"{called} {what} {name!r}; its arguments are {', '.join(parameters)}.")
    where = first["loc"][0]
    name = list(signature.parameters)[where] if isinstance(where, int) else str(where)
    same = [one for one in found if one["loc"][0] == where]
    rules = dict.fromkeys(one.get("ctx", {}).get("rule") or _rule_of(one) for one in same)
    remedy = first.get("ctx", {}).get("remedy", "")
    by_value = first["type"] == "pyro_vble_value" or first["type"].startswith(_ABOUT_VALUES)
    kind = ValueError if by_value else TypeError
    tail = f"; {remedy}" if remedy else ""
    return kind(f"{name} must be {' or '.join(rules)}; received {brief(first['input'])}{tail}.")


def _rule_of(error: Any) -> str:
    """Pydantic's message as what follows "must be"."""
    message = str(error["msg"])
    for opening in ("Input should be ", "Value error, "):
        message = message.removeprefix(opening)
    return message.replace("a valid boolean", "True or False").replace("a valid string", "text")


def brief(value: object) -> str:
    """A value in an error message: short, on one line, whatever its repr does.

    Example:
        >>> import torch
        >>> from pyro_vble._arguments import brief
        >>> brief(torch.zeros(2, 3)), brief("x" * 500)[:4]
        ('a float32 tensor of shape (2, 3)', "'xxx")
    """
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    try:
        if isinstance(shape, tuple) and dtype is not None and len(shape):
            kind = "tensor" if type(value).__module__.startswith("torch") else "array"
            return f"a {str(dtype).removeprefix('torch.')} {kind} of shape {tuple(shape)}"
        printer = reprlib.Repr()
        printer.maxstring = printer.maxother = 120
        text = " ".join(printer.repr(value).split())
        return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 4]} ..."
    except Exception:  # a repr may do anything
        return f"an object of type {type(value).__name__}"


# --- rules ---


def whole(value: Any) -> int:
    """The value as a Python integer."""
    if isinstance(value, bool):
        raise BrokenRuleError("type")
    try:
        return operator.index(value)
    except (TypeError, RuntimeError, ValueError):  # a tensor of several values refuses with others than TypeError
        raise BrokenRuleError("value" if isinstance(value, Real) else "type") from None


def real(value: Any) -> float:
    """The value as a finite Python float."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise BrokenRuleError("type")
    try:
        number = float(value)
    except OverflowError:
        raise BrokenRuleError("value") from None
    if not math.isfinite(number):
        raise BrokenRuleError("value")
    return number


def _in_range(convert: Callable[[Any], Any], within: Callable[[Any], bool]) -> Callable[[Any], Any]:
    def accept(value: Any) -> Any:
        number = convert(value)
        if not within(number):
            raise BrokenRuleError("value")
        return number

    return accept


def whole_from(low: int, high: int = 2**31 - 1) -> Rule:
    """The rule of a whole number within a range."""
    return Rule(f"a whole number of at least {low}", _in_range(whole, lambda n: low <= n <= high))


def _path(value: Any) -> Path:
    if not isinstance(value, str | os.PathLike):
        raise BrokenRuleError("type")
    text = os.fspath(value)
    if not isinstance(text, str):
        raise BrokenRuleError("type")
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        raise BrokenRuleError("value") from None
    if not text or "\0" in text:
        raise BrokenRuleError("value")
    return Path(text)


def _flag(value: Any) -> bool:
    if type(value).__name__ in ("bool", "bool_"):  # Python's and NumPy's
        return bool(value)
    raise BrokenRuleError("type")


def _mapping_of_names(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise BrokenRuleError("type")
    return dict(value.items())


def one_of(*choices: str) -> Rule:
    """The rule of a word among others."""

    def accept(value: Any) -> str:
        if not isinstance(value, str):
            raise BrokenRuleError("type")
        if value not in choices:
            raise BrokenRuleError("value")
        return str(value)

    return Rule(f"one of {', '.join(map(repr, choices))}", accept)


def _image_shape(value: Any) -> tuple[int, int, int]:
    if not isinstance(value, tuple | list):
        raise BrokenRuleError("type")
    shape = tuple(whole(side) for side in value)
    if len(shape) != 3 or min(shape) < 1 or max(shape) >= 2**31:
        raise BrokenRuleError("value")
    return shape


def _sizes(value: Any) -> tuple[int, ...]:
    if not isinstance(value, tuple | list):
        raise BrokenRuleError("type")
    sizes = tuple(whole(one) for one in value)
    if not sizes or not all(1 <= one < 2**31 for one in sizes):
        raise BrokenRuleError("value")
    return sizes


def _image_size(value: Any) -> tuple[int, ...]:
    size = _sizes(value)
    if len(size) not in (2, 3):
        raise BrokenRuleError("value")
    return size


def rate_scale_of(value: Any) -> float | tuple[float, ...]:
    scales = tuple(real(one) for one in (value if isinstance(value, tuple | list) else (value,)))
    if not scales or not all(0 < scale <= 1 for scale in scales):
        raise BrokenRuleError("value")
    return scales[0] if len(scales) == 1 else scales


def instance_of(text: str, *types: type, remedy: str = "") -> Rule:
    """The rule of an object of one of some classes."""

    def accept(value: Any) -> Any:
        if not isinstance(value, types):
            raise BrokenRuleError("type")
        return value

    return Rule(text, accept, remedy)


def within(low: float, high: float, unit: str) -> Rule:
    """The rule of a number in a closed range."""
    return Rule(f"a number of {unit} from {low:g} to {high:g}", _in_range(real, lambda v: low <= v <= high))


def _switch_or_callable(value: Any) -> Any:
    return value if callable(value) else _flag(value)


def _callable(value: Any) -> Any:
    if not callable(value):
        raise BrokenRuleError("type")
    return value


Count = Annotated[int, whole_from(1)]
CountOrZero = Annotated[int, whole_from(0)]
Seed = Annotated[
    int,
    Rule("a whole number of at most 64 bits, or None", _in_range(whole, lambda n: -(2**63) <= n < 2**64)),
]
Number = Annotated[float, Rule("a finite number", real)]
Positive = Annotated[float, Rule("a positive, finite number", _in_range(real, lambda v: v > 0))]
NotNegative = Annotated[float, Rule("a finite number that is not negative", _in_range(real, lambda v: v >= 0))]
Probability = Annotated[
    float, Rule("a probability in [0, 1]", _in_range(real, lambda v: 0 <= v <= 1), "write 90 % as 0.9")
]
Flag = Annotated[bool, Rule("True or False", _flag)]
PathName = Annotated[
    str | os.PathLike[str],
    Rule("a path, as text or pathlib.Path, that is not empty", _path),
]
ImageShape = Annotated[
    tuple[int, int, int],
    Rule("the shape (C, H, W) of one image, three whole numbers of at least 1", _image_shape, "leave out the batch"),
]
ImageSize = Annotated[
    tuple[int, ...],
    Rule("a size (H, W) or (C, H, W), whole numbers of at least 1", _image_size, "leave out the batch"),
]
Sizes = Annotated[tuple[int, ...], Rule("a tuple of whole numbers of at least 1", _sizes)]
RateScale = Annotated[
    Any,
    Rule("in (0, 1], or a tuple of such numbers", rate_scale_of, "for a higher bitrate load a prior of larger alpha"),
]
Progress = Annotated[
    Any, Rule("True, False, or a callable that wraps the iterable of steps (such as tqdm)", _switch_or_callable)
]
Function = Annotated[Callable[..., Any], Rule("a function", _callable)]
Named = Annotated[dict[str, Any], Rule("a mapping from names to values", _mapping_of_names)]
