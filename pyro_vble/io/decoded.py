"""What an image file holds, before it is put on a scale; and how much of it is believed."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

#: The largest number of values (bands times rows times columns) that is read: 2 GiB in single precision.
MAX_VALUES = 2**29
_BLOCK = 2**20  # values that are converted at a time
_VANISHED = 1e-6
# No physical quantity is as large; the lowest number of float32 is written in many ways, some of them other numbers.
_SENTINEL = 1e38


class ImageFileError(ValueError):
    """A file that is understood, and that says what this package does not read."""


@dataclass(frozen=True)
class Decoded:
    """The samples of an image file and what they mean.

    Attributes:
        array: (C, H, W), integers or floats.
        white: The sample that is 1; None where nothing tells it.
        levels: Number of steps from 0 to ``white``, None for floats.
        missing: True where there is no data, (H, W) or (C, H, W); None if there is all.
        inverted: Whether 0 is white and ``white`` is black.
        states_bits: Whether the file says how many of a sample's bits are used, if not all are.
        alpha: Which of the file's bands was taken for transparency, if one was.
        jpeg_quantisation: Standard deviation of a JPEG file's compression error, where white is 1.
        profile: The ICC profile that says which colours the samples are, if there is one.
    """

    array: np.ndarray
    white: float | None
    levels: int | None
    missing: np.ndarray | None = None
    inverted: bool = False
    states_bits: bool = False
    alpha: int | None = None
    jpeg_quantisation: float | None = None
    profile: bytes | None = None

    def scaled(self, scale: float | None, path: Path) -> np.ndarray:
        """The samples with ``scale`` (by default the file's white) as 1: (C, H, W) float32, NaN where missing.

        Raises:
            ImageFileError: If nothing tells which value is white, or the scale does not fit the values.
        """
        by_default = scale is None
        scale = self.white_or(scale, path)
        values = np.empty(self.array.shape, np.float32)
        rows = max(1, _BLOCK // (values.shape[0] * values.shape[2]))
        largest = 0.0
        for start in range(0, values.shape[1], rows):
            part = np.s_[:, start : start + rows]
            # float64 in between, in pieces: float32 cannot hold every 32-bit integer.
            block = self.array[part].astype(np.float64)
            block[~np.isfinite(block)] = np.nan
            if self.missing is not None:
                np.copyto(block, np.nan, where=self.missing[..., start : start + rows, :])
            largest = max(largest, float(np.nanmax(np.abs(block), initial=0.0)))
            with np.errstate(over="ignore"):
                block /= scale
                values[part] = 1 - block if self.inverted else block
        with np.errstate(over="ignore"):
            brightest = float(np.float32(largest / scale))
        if not math.isfinite(brightest):
            remedy = "name the value of missing pixels as nodata, or pass another scale"
            raise ImageFileError(
                f"Values must be finite in single precision; those of {path} reach {largest:.4g} and the scale is "
                f"{scale:.4g}; {remedy}."
            )
        if not by_default and largest > 0 and brightest < _VANISHED:
            raise ImageFileError(
                f"scale must be of the size of an image's largest values; received {scale:.4g} for {path}, whose "
                f"values reach {largest:.4g}; pass the value that is white."
            )
        return values

    def white_or(self, scale: float | None, path: Path) -> float:
        """The scale told, or the file's white.

        Raises:
            ImageFileError: If there is neither.
        """
        white = self.white if scale is None else scale
        if white is None:
            raise ImageFileError(
                f"Integers beyond 16 bits must come with the value that is white; {path} holds {self.array.dtype} up "
                f"to {self.array.max()} and none is given; pass it as scale (--scale; in a recipe data.scale)."
            )
        return white

    @property
    def largest(self) -> float:
        """The largest sample that is not missing; 0 if all are."""
        if self.missing is None:
            return float(np.nanmax(self.array, initial=0))
        there = np.broadcast_to(~self.missing, self.array.shape)
        return float(np.max(self.array, initial=0, where=there))


def from_samples(array: np.ndarray, path: Path, *, bits: int | None = None, **meaning: Any) -> Decoded:
    """Samples (C, H, W) with the white of their type, or of as many ``bits`` as the file says; few bits become eight.

    Raises:
        ImageFileError: If they are no real numbers, or there are none.
    """
    if array.size == 0:
        raise ImageFileError(f"An image must have at least one pixel; {path} has the shape {array.shape}.")
    if array.dtype == bool:
        array, bits = array.astype(np.uint8), 1
    kind, size = array.dtype.kind, 8 * array.dtype.itemsize
    if kind == "f":
        return Decoded(array, 1.0, None, **meaning)
    if kind not in "ui":
        raise ImageFileError(f"An image must hold real numbers; {path} holds {array.dtype}; convert it.")
    bits = size if bits is None or kind == "i" else bits
    white = float(2 ** (bits - (kind == "i")) - 1)
    if bits > 16:
        return Decoded(array, None, None, **meaning)
    levels = int(white)
    if bits < 8 and 255 % levels == 0:
        array, white = array * np.uint8(255 // levels), 255.0
    return Decoded(array, white, levels, states_bits=bits != size, **meaning)


def check_claim(path: Path, *shape: int) -> None:
    """Refuse what a header claims, before memory is taken for it.

    Raises:
        ImageFileError: If an image of this shape is empty, or has more than :data:`MAX_VALUES` values.
    """
    count = math.prod(int(n) for n in shape)
    if min(shape, default=0) < 1 or count > MAX_VALUES:
        raise ImageFileError(
            f"An image must have 1 to {MAX_VALUES} values, over all its bands; {path} claims "
            f"{'x'.join(str(int(n)) for n in shape)}; cut it into smaller files."
        )


def is_nodata(array: np.ndarray, nodata: float | None) -> np.ndarray | None:
    """Where samples are the value of missing ones, compared in the samples' own type; None if they never can be.

    A float type holds what is nearest to the number, or its end where the number lies beyond; near the end of
    float32 all numbers of that sign are meant. An integer type holds whole numbers within its range only.
    """
    if nodata is None or math.isnan(nodata):
        return None
    kind = array.dtype.type
    if array.dtype.kind == "f":
        limits = np.finfo(array.dtype)
        if abs(nodata) >= _SENTINEL and float(limits.max) >= _SENTINEL:
            return array <= kind(-_SENTINEL) if nodata < 0 else array >= kind(_SENTINEL)
        return array == kind(min(max(nodata, float(limits.min)), float(limits.max)))
    if array.dtype.kind not in "ui" or nodata != math.floor(nodata):
        return None
    whole = np.iinfo(array.dtype)
    return array == kind(int(nodata)) if whole.min <= nodata <= whole.max else None


def either(*masks: np.ndarray | None) -> np.ndarray | None:
    """Where any of the masks is true, None if there is none."""
    present = [mask for mask in masks if mask is not None and mask.any()]
    if not present:
        return None
    return np.logical_or.reduce(np.broadcast_arrays(*present))


def upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """An array (..., H, W) turned as the orientation of EXIF and TIFF says, from 1 (as it lies) to 8."""
    if orientation in (5, 6, 7, 8):
        array = np.swapaxes(array, -1, -2)
    if orientation in (3, 4, 7, 8):
        array = array[..., ::-1, :]
    if orientation in (2, 3, 6, 7):
        array = array[..., ::-1]
    return np.ascontiguousarray(array)
