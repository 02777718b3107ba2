"""From the numbers of a file to images in [0, 1], and back."""

import math
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from pyro_vble._arguments import BrokenRuleError, Rule, brief, checked, real, whole

_T = TypeVar("_T", np.ndarray, Tensor)
_BITS = (1, 32)
# Numbers of these types come back from single precision as they were.
_SINGLE = ("uint8", "int8", "uint16", "int16", "float16", "bfloat16", "float32")


def _bits(value: Any) -> int:
    bits = whole(value)
    if not _BITS[0] <= bits <= _BITS[1]:
        raise BrokenRuleError("value")
    return bits


def _numbers(value: Any) -> float | tuple[float, ...]:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, list | tuple):
        return real(value)
    numbers = tuple(real(one) for one in value)
    if not numbers:
        raise BrokenRuleError("value")
    return numbers


def _gain(value: Any) -> float | tuple[float, ...]:
    gain = _numbers(value)
    if not all(one > 0 for one in (gain if isinstance(gain, tuple) else (gain,))):
        raise BrokenRuleError("value")
    return gain


def _dtype(value: Any) -> str:
    """The name of a type of real numbers, NumPy's or torch's."""
    name = str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else value
    try:
        dtype = np.dtype(name)
    except (TypeError, ValueError):
        raise BrokenRuleError("value" if isinstance(value, str) else "type") from None
    if name is None or dtype.kind not in "uif":
        raise BrokenRuleError("value")
    return dtype.name


Bits = Annotated[int, Rule(f"a whole number of bits from {_BITS[0]} to {_BITS[1]}", _bits)]
Gain = Annotated[float | tuple[float, ...], Rule("a positive, finite number, or a list of one a band", _gain)]
Offset = Annotated[float | tuple[float, ...], Rule("a finite number, or a list of one a band", _numbers)]
DType = Annotated[str, Rule("the name of a type of real numbers", _dtype, '"uint16" and "float32" are such')]


@checked
@dataclass(frozen=True)
class Radiometry:
    r"""What the numbers of a file mean, and what of it is 1 in an image.

    .. math:: x = \frac{g\,v + o}{w}, \qquad v = \frac{w\,x - o}{g}

    g v + o is the radiance (or reflectance) of the number v, as GDAL's scale and offset have it; the radiance w is 1 in
    the image, and radiance 0 is 0. Every whole number of up to 16 bits comes back as it was.

    Attributes:
        bits: Bits of the numbers: the largest of them, 2^bits - 1, becomes 1.
        white: w, in place of bits: a radiance, or one a band.
        gain: g, or one a band.
        offset: o, or one a band.
        dtype: Type of the file's numbers, which :meth:`from_unit` makes; None for numbers in single precision.

    Raises:
        TypeError: If something is of a wrong kind.
        ValueError: If neither bits nor white is given, or both, or white is not positive.

    Example:
        >>> import numpy as np
        >>> from pyro_vble.physics import Radiometry
        >>> radiometry = Radiometry(bits=12, dtype="uint16")
        >>> x = radiometry.to_unit(np.array([[[0, 819, 4095]]], np.uint16))
        >>> x, radiometry.from_unit(x)
        (array([[[0. , 0.2, 1. ]]], dtype=float32), array([[[   0,  819, 4095]]], dtype=uint16))
    """

    bits: Bits | None = None
    white: Gain | None = None
    gain: Gain = 1.0
    offset: Offset = 0.0
    dtype: DType | None = None

    def __post_init__(self) -> None:
        """Check the numbers against each other."""
        if (self.bits is None) == (self.white is None):
            raise ValueError(
                f"Exactly one of bits and white is needed; received bits={self.bits} and white={brief(self.white)}; "
                "white is the radiance that becomes 1."
            )
        if len({len(v) for v in (self.white, self.gain, self.offset) if isinstance(v, tuple)}) > 1:
            raise ValueError(
                "white, gain and offset must be of equally many bands; received "
                f"white={brief(self.white)}, gain={brief(self.gain)} and offset={brief(self.offset)}."
            )
        if (self._white <= 0).any():
            raise ValueError(
                f"The largest number must have a positive radiance; received {brief(self._white.tolist())} for "
                f"bits={self.bits}, gain={brief(self.gain)} and offset={brief(self.offset)}."
            )

    @property
    def num_bands(self) -> int | None:
        """How many bands have numbers of their own; None where all bands have the same."""
        return next((len(v) for v in (self.white, self.gain, self.offset) if isinstance(v, tuple)), None)

    @property
    def radiance(self) -> float | tuple[float, ...]:
        """w, the radiance that is 1 in the image; one a band where bands differ."""
        white = self._white.tolist()
        return white[0] if len(white) == 1 else tuple(white)

    def of_bands(self, *indices: int) -> "Radiometry":
        """That of some bands, in this order."""
        kept: dict[str, Any] = {
            name: tuple(value[i] for i in indices) if isinstance(value, tuple) else value
            for name, value in (("white", self.white), ("gain", self.gain), ("offset", self.offset))
        }
        return Radiometry(bits=self.bits, dtype=self.dtype, **kept)

    def to_unit(self, values: _T) -> _T:
        """The image of a file's numbers (..., C, H, W), or (..., H, W) where all bands have the same.

        In double precision where the numbers are, or have more than 16 bits; otherwise in single. NaN stays NaN.

        Raises:
            TypeError: If values are neither an array nor a tensor of real numbers.
            ValueError: If they have not as many bands as gain or offset.
        """
        x, kind = self._computed(values, "values")
        white, gain, offset = self._constants(x)
        unit: Any = (x * gain + offset) / white
        return unit.to(kind) if isinstance(x, Tensor) else unit.astype(kind)

    def from_unit(self, x: _T, dtype: Any = None) -> _T:
        """The numbers of an image, in the file's type or another.

        Of a type of whole numbers they are rounded and clipped to its range.

        Args:
            x: Image (..., C, H, W), or (..., H, W) where all bands have the same radiometry.
            dtype: Name of the type; that of the file, or single precision where none is known, if it is None.

        Raises:
            TypeError: If x is neither an array nor a tensor of real numbers, or dtype no type.
            ValueError: If x has not as many bands as gain or offset, or NaN where the type has none.
        """
        name = _checked_dtype(dtype) if dtype is not None else self.dtype or "float32"
        x, _ = self._computed(x, "x")
        white, gain, offset = self._constants(x)
        values = (x * white - offset) / gain
        return _typed(values, np.dtype(name))

    @property
    def _white(self) -> np.ndarray:
        if self.bits is None:
            return np.atleast_1d(np.asarray(self.white))
        return np.atleast_1d(self.gain) * (2**self.bits - 1) + np.atleast_1d(self.offset)

    def _computed(self, values: Any, name: str) -> tuple[Any, Any]:
        """The values in double precision, and the type that they are to have in the end."""
        real_numbers = isinstance(values, Tensor) and not values.is_complex() and values.dtype != torch.bool
        if not real_numbers and not (isinstance(values, np.ndarray) and values.dtype.kind in "uif"):
            raise TypeError(f"{name} must be an array or a tensor of real numbers; received {brief(values)}.")
        bands = self.num_bands
        if bands is not None and (len(values.shape) < 3 or values.shape[-3] != bands):
            raise ValueError(
                f"{name} must have {bands} bands before rows and columns, as gain, offset or white have; received "
                f"shape {tuple(values.shape)}; take that of some bands by radiometry.of_bands(*indices)."
            )
        single = str(values.dtype).removeprefix("torch.") in _SINGLE
        if isinstance(values, Tensor):
            return values.to(torch.float64), torch.float32 if single else torch.float64
        return values.astype(np.float64), np.float32 if single else np.float64

    def _constants(self, like: Any) -> tuple[Any, ...]:
        """w, g and o beside an image."""
        found = []
        for value in (self._white, np.atleast_1d(self.gain), np.atleast_1d(self.offset)):
            shaped = value.astype(np.float64).reshape(-1, 1, 1) if len(value) > 1 else value.astype(np.float64)
            found.append(torch.from_numpy(shaped).to(like) if isinstance(like, Tensor) else shaped)
        return tuple(found)


def _checked_dtype(dtype: Any) -> str:
    try:
        return _dtype(dtype)
    except BrokenRuleError as error:
        kind = TypeError if error.broken == "type" else ValueError
        raise kind(
            f'dtype must be the name of a type of real numbers; received {brief(dtype)}; "uint16" is one.'
        ) from None


def _typed(values: Any, dtype: np.dtype) -> Any:
    """Values as numbers of a type: whole ones are rounded and clipped to its range."""
    torch_type = getattr(torch, dtype.name) if isinstance(values, Tensor) else None
    if dtype.kind == "f":
        return values.to(torch_type) if isinstance(values, Tensor) else values.astype(dtype)
    if bool((values != values).any()):
        raise ValueError(
            f"NaN has no number in {dtype.name}; received one in x; write float32, or fill such pixels with the file's "
            "nodata first."
        )
    limits = np.iinfo(dtype)
    # The largest of 64 bits is rounded up to what is no number of them any more.
    low, high = float(limits.min), math.nextafter(float(limits.max), 0) if limits.bits == 64 else float(limits.max)
    if isinstance(values, Tensor):
        return values.round().clamp(low, high).to(torch_type)
    return np.clip(np.rint(values), low, high).astype(dtype)
