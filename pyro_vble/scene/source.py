"""What every source of a scene is: an array on the ground that is read window by window."""

import abc
import hashlib
import json
import os
from collections.abc import Sequence
from numbers import Real
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from pyro_vble._arguments import BrokenRuleError, Rule, brief, whole
from pyro_vble.io.decoded import is_nodata
from pyro_vble.io.rasters import Raster


class SourceError(OSError):
    """Raised where a scene cannot be opened, or a window of it cannot be read."""


class Source(abc.ABC):
    """A scene (C, H, W) that is read window by window, in the numbers of its file.

    A source pickles as what it is opened from: each process, and each thread of it, opens its own.

    Attributes:
        name: What errors call it.
        shape: (C, H, W).
        dtype: Data type of the file; values are read as float32 whatever it is.
        raster: Georeference and metadata of these bands and this window, in the file's own numbers; None if there are
            none.
        nodata: The value of missing pixels, if one is named.
        window: Which part of a file it is: (column offset, row offset, width, height); None of what is no file's part.
        band_numbers: Which of a file's bands, from 1; None of what are none of its.
    """

    name: str
    shape: tuple[int, int, int]
    dtype: np.dtype
    raster: Raster | None
    nodata: float | None
    window: tuple[int, int, int, int] | None = None
    band_numbers: tuple[int, ...] | None = None

    def read(self, rows: slice, columns: slice) -> np.ndarray:
        """The values of a window (C, h, w), float32, NaN where there is no data.

        Whole numbers beyond 2**24 are rounded, as float32 rounds them.

        Raises:
            ValueError: If the window is not within the scene.
            SourceError: If it cannot be read: with the scene's name and the window.
        """
        (top, height), (left, width) = (
            _extent(part, size, axis)
            for part, size, axis in zip((rows, columns), self.shape[1:], ("rows", "columns"), strict=True)
        )
        try:
            return self._block(top, left, height, width)
        except MemoryError:  # of this machine, not of the scene
            raise
        except Exception as error:  # every reader has exceptions of its own
            raise SourceError(
                f"{self.name} cannot be read at rows {top} to {top + height} and columns {left} to {left + width} "
                f"({reason(error)})."
            ) from error

    @abc.abstractmethod
    def fingerprint(self) -> str:
        """What tells whether a source is still the one that a run began with, without reading all of it."""

    def shared(self, path: Path) -> "Source":
        """This scene as workers of other processes are to get it, who can read a file that may be written at a path."""
        return self

    @abc.abstractmethod
    def _block(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """As :meth:`read`; of a window that lies within the scene."""


def _bands(value: Any) -> tuple[int | str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise BrokenRuleError("type")
    if not value:
        raise BrokenRuleError("value")
    return tuple(band if isinstance(band, str) else whole(band) for band in value)


def _window(value: Any) -> tuple[int, int, int, int] | None:
    if value is None:
        return None
    if not isinstance(value, tuple | list):
        raise BrokenRuleError("type")
    numbers = tuple(whole(number) for number in value)
    if len(numbers) != 4 or min(numbers) < 0 or min(numbers[2:]) < 1:
        raise BrokenRuleError("value")
    return numbers


def _data_set(value: Any) -> str:
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(text, str):
        raise BrokenRuleError("type")
    if not text or "\0" in text:
        raise BrokenRuleError("value")
    return text


def _nodata(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise BrokenRuleError("type")
    return float(value)


#: Not a path alone: GDAL has names for parts of files, and for what is not on this disk.
DataSetName = Annotated[
    str | os.PathLike[str], Rule("a path, or a name of a data set in GDAL's words, that is not empty", _data_set)
]
Bands = Annotated[
    Any,
    Rule("a list of bands' names, or of their numbers counted from 1, or None for all", _bands, "name at least one"),
]
NoData = Annotated[float, Rule("a number, which may be NaN", _nodata)]
WindowOf = Annotated[
    Any,
    Rule(
        "a window (column offset, row offset, width, height) in pixels, or None for the whole",
        _window,
        "offsets count from the upper left pixel, 0",
    ),
]


def chosen(bands: tuple[int | str, ...] | None, names: Sequence[str | None], name: str) -> list[int]:
    """Indices of bands, counted from 0, all if none are chosen.

    Args:
        bands: Names, or numbers counted from 1.
        names: Of all bands; None for one without.
        name: What errors call the source.

    Raises:
        ValueError: If there is no such band.
    """
    if bands is None:
        return list(range(len(names)))
    indices = []
    for band in bands:
        if isinstance(band, int):
            found = [band - 1] if 1 <= band <= len(names) else []
        else:
            found = [i for i, known in enumerate(names) if known == band]
        if len(found) != 1:
            named = ", ".join(brief(known) for known in names if known is not None)
            raise ValueError(
                f"Every band must be a number from 1 to {len(names)} or a name that one band has; received "
                f"{brief(band)} for {name}, whose bands are {'named ' + named if named else 'without names'}."
            )
        indices += found
    return indices


def placed(window: tuple[int, int, int, int] | None, height: int, width: int, name: str) -> tuple[int, int, int, int]:
    """First row, first column, rows and columns of a window; of the whole (H, W) if it is None.

    Raises:
        ValueError: If the window is not within the whole.
    """
    if window is None:
        return 0, 0, height, width
    left, top, columns, rows = window
    if left + columns > width or top + rows > height:
        raise ValueError(
            f"A window (column offset, row offset, width, height) must lie within the {width} columns and {height} "
            f"rows of {name}; received {window}."
        )
    return top, left, rows, columns


def in_float32(array: np.ndarray, nodata: float | Sequence[float | None] | None, missing: Any = None) -> np.ndarray:
    """Samples (C, H, W) as float32, NaN where they are not finite, have the value of missing ones, or are ``missing``.

    Args:
        array: Integers or floats.
        nodata: The value of missing samples, or one for each band.
        missing: Where there are none besides, of any shape that fits.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        values = array.astype(np.float32)
    values[~np.isfinite(values)] = np.nan
    each = nodata if isinstance(nodata, Sequence) else [nodata] * len(array)
    for band, samples, value in zip(values, array, each, strict=True):
        absent = is_nodata(samples, value)
        if absent is not None:
            band[absent] = np.nan
    if missing is not None:
        np.copyto(values, np.nan, where=missing)
    return values


def digest(*parts: Any) -> str:
    """A checksum of whatever can be written as JSON, or as text."""
    return hashlib.sha256(json.dumps(parts, default=str, sort_keys=True).encode()).hexdigest()


def is_gdals(error: BaseException) -> bool:
    """Whether an error is one of rasterio's, or one that GDAL told and rasterio has no public name for."""
    return type(error).__module__.split(".")[0] == "rasterio"


def reason(error: BaseException) -> str:
    """What an error and those that it came from say, in a line."""
    said: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        text = " ".join(str(cause).split()) or type(cause).__name__
        if text not in said and "See previous exception" not in text:
            said.append(text)
        cause = cause.__cause__ or cause.__context__
    return "; ".join(said)[:300]


def _extent(part: slice, size: int, axis: str) -> tuple[int, int]:
    start, stop = 0 if part.start is None else int(part.start), size if part.stop is None else int(part.stop)
    if part.step not in (None, 1) or not 0 <= start <= stop <= size:
        raise ValueError(f"A window's {axis} must be a slice within 0 to {size}, of step 1; received {part}.")
    return start, stop - start
