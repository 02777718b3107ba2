"""Values in the data types of files, and how these say which of them are missing."""

import math
from typing import Any

import numpy as np

from pyro_vble._arguments import brief


def data_type(dtype: Any) -> np.dtype:
    """The NumPy data type of a file's samples.

    Raises:
        TypeError: If it is none.
        ValueError: If it is of neither integers nor floats, or longer than 64 bits.
    """
    try:
        found = np.dtype(dtype)
    except (TypeError, ValueError):
        raise TypeError(
            f"dtype must be a NumPy data type; received {brief(dtype)}; pass for example np.uint8."
        ) from None
    if found.kind not in "uif" or found.itemsize > 8:
        raise ValueError(f"dtype must be of integers or floats up to 64 bits; received {found}.")
    return found


def nodata_of(value: float | None, dtype: np.dtype) -> float | None:
    """The value that missing pixels are to have: the one named if the type holds it, NaN for floats, or else None."""
    if dtype.kind == "f":
        return math.nan if value is None or abs(value) > np.finfo(dtype).max else float(dtype.type(value))
    limits = np.iinfo(dtype)
    if value is None or not limits.min <= value <= limits.max or value != math.floor(value):
        return None
    return int(value)


def in_type(band: np.ndarray, missing: np.ndarray, dtype: np.dtype, nodata: float | None) -> np.ndarray:
    """A band in its data type; none but missing pixels have the nodata value."""
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            band = band.astype(dtype)
        if nodata is not None and not math.isnan(nodata):
            band[band == nodata] = np.nextafter(dtype.type(nodata), dtype.type(0 if nodata else 1))
            band[missing] = nodata
        return band
    limits = np.iinfo(dtype)
    # The largest of 64 bits is no double: the next below is.
    highest = float(limits.max) if dtype.itemsize < 8 else np.nextafter(float(limits.max), 0)
    band = np.clip(np.rint(np.where(missing, 0, band)), float(limits.min), highest).astype(dtype)
    if nodata is not None:
        band[band == nodata] = nodata + 1 if nodata < limits.max else nodata - 1
        band[missing] = nodata
    return band
