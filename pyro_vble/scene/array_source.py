"""Scenes in arrays: of NumPy, or of xarray with what rioxarray knows of them, in memory or lazy."""

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np

from pyro_vble._arguments import Rule, brief, checked, instance_of
from pyro_vble._extras import extra
from pyro_vble.io.atomic import atomic_path
from pyro_vble.io.rasters import Raster
from pyro_vble.scene.source import Bands, NoData, Source, WindowOf, chosen, digest, in_float32, placed

# Of a variable's attributes: what is said elsewhere, or only of the array as it was on disk.
_NOT_TAGS = {
    "_FillValue",
    "missing_value",
    "fill_value",
    "nodata",
    "nodatavals",
    "scale_factor",
    "add_offset",
    "scales",
    "offsets",
    "long_name",
    "descriptions",
    "units",
    "grid_mapping",
    "coordinates",
    "transform",
    "crs",
    "res",
    "is_tiled",
}
_STATISTICS = "STATISTICS_"
_LOOKS = 4  # along each axis
_LOOK = 16  # pixels of a side


class _DataArrayRule(Rule):
    """Of a class whose package is imported only when somebody passes one."""

    def __init__(self) -> None:
        super().__init__("an xarray.DataArray", self._accepted, "pass a NumPy array to open_source")

    @staticmethod
    def _accepted(value: Any) -> Any:
        import xarray

        return instance_of("", xarray.DataArray).accept(value)


class ArraySource(Source):
    """A scene in an ``xarray.DataArray`` (band, y, x) or (y, x), whose windows are computed when they are read.

    Dimensions have any names that rioxarray knows; georeference and nodata are what ``array.rio`` says, and bands are
    named by the attribute ``long_name`` or by words along their dimension. A lazy array is computed in the thread that
    reads, window by window.

    Args:
        array: Integers or floats.
        bands: Names of bands, or numbers counted from 1; all by default.
        nodata: Value of missing pixels, by default the array's own; NaN always is.
        window: (column offset, row offset, width, height): the scene is this part of the array.

    Raises:
        ImportError: If rioxarray is not installed.
        TypeError: If an argument is of a wrong type.
        ValueError: If the array holds no real numbers or has other dimensions, or bands or window are not in it.

    Example:
        >>> import numpy as np, xarray
        >>> from pyro_vble.scene.array_source import ArraySource
        >>> array = xarray.DataArray(np.arange(6).reshape(1, 2, 3), dims=("band", "y", "x"))
        >>> ArraySource(array, nodata=4, window=(1, 0, 2, 2)).read(slice(0, 2), slice(0, 2)).tolist()
        [[[1.0, 2.0], [nan, 5.0]]]
    """

    name = "The array"

    @checked
    def __init__(
        self,
        array: Annotated[Any, _DataArrayRule()],
        bands: Bands = None,
        nodata: NoData | None = None,
        window: WindowOf = None,
    ) -> None:
        with extra("geo"):
            from rioxarray.exceptions import RioXarrayError
        if array.dtype.kind not in "uif":
            raise ValueError(f"A scene must hold real numbers; the array holds {array.dtype}; convert it.")
        try:
            self._across, self._down = array.rio.x_dim, array.rio.y_dim
        except RioXarrayError as error:
            raise ValueError(
                f"A scene's array must have dimensions that rioxarray knows as x and y; received {brief(array.dims)}; "
                "name them by rio.set_spatial_dims."
            ) from error
        rest = [dim for dim in array.dims if dim not in (self._across, self._down)]
        longer = [dim for dim in rest if array.sizes[dim] > 1]
        if len(longer) > 1 or 0 in array.shape:
            raise ValueError(
                f"A scene's array must be (band, y, x) or (y, x), and not empty; received {brief(dict(array.sizes))}."
            )
        along = longer[0] if longer else rest[0] if rest else None
        raster = _raster_of(array, along, array.sizes[self._down], array.sizes[self._across])
        indices = chosen(bands, raster.descriptions, self.name)
        self._window = placed(window, raster.rows, raster.columns, self.name)
        self.nodata = raster.nodata if nodata is None else nodata
        array = array.isel({dim: 0 for dim in rest if dim != along})
        array = array.expand_dims("band") if along is None else array
        order = along or "band", self._down, self._across
        top, left, rows, columns = self._window
        part = {self._down: slice(top, top + rows), self._across: slice(left, left + columns)}
        self._array = array.transpose(*order).isel({order[0]: indices, **part})
        self.shape = len(indices), rows, columns
        self.dtype = np.dtype(array.dtype)
        self.raster = replace(raster.of_bands(indices).cropped(*self._window), nodata=self.nodata)
        # What is computed, or read from a file, when it is asked for, travels as that alone.
        self._in_memory = array.chunks is None and "source" not in array.encoding
        self._file: Path | None = None

    def shared(self, path: Path) -> Self:
        """In that file (.npy), read window by window: an array in memory would be copied to each of them."""
        if not self._in_memory:
            return self
        shared = copy.copy(self)
        with atomic_path(path) as temporary:
            np.save(temporary, np.ascontiguousarray(self._array.values))
        shared._file, shared._array = path, None
        return shared

    def fingerprint(self) -> str:
        """A checksum of shape, type, place and some of the values."""
        values = hashlib.sha256()
        starts = ([int(i) for i in np.linspace(0, max(size - _LOOK, 0), _LOOKS)] for size in self.shape[1:])
        rows, columns = (sorted(set(ends)) for ends in starts)
        for top in rows:
            for left in columns:
                size = min(_LOOK, self.shape[1]), min(_LOOK, self.shape[2])
                values.update(np.ascontiguousarray(self._block(top, left, *size)).tobytes())
        return digest(self.shape, self.dtype, self.nodata, self.raster, values.hexdigest())

    def _block(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        if self._file is not None:
            values = np.load(self._file, mmap_mode="r")[:, top : top + height, left : left + width]
            return in_float32(np.array(values), self.nodata)
        part = {self._down: slice(top, top + height), self._across: slice(left, left + width)}
        data = self._array.isel(part).variable
        if data.chunks is not None:
            # In this thread: a worker that asked its scheduler would wait for itself.
            return in_float32(np.asarray(data.data.compute(scheduler="synchronous")), self.nodata)
        return in_float32(np.asarray(data.values), self.nodata)


def _raster_of(array: Any, along: Any, rows: int, columns: int) -> Raster:
    count = 1 if along is None else array.sizes[along]
    tags = {
        name: str(value)
        for name, value in array.attrs.items()
        if name not in _NOT_TAGS and not name.startswith(_STATISTICS) and isinstance(value, str | int | float)
    }
    said = array.attrs  # not its encoding: what has been unpacked is no longer packed
    return Raster(
        rows,
        columns,
        array.rio.crs,
        _transform_of(array),
        _nodata_of(array),
        descriptions=_names_of(array, along, count),
        tags=tags,
        band_tags=({},) * count,
        scales=tuple(float(v) for v in _each(said.get("scales", said.get("scale_factor")), count, 1.0)),
        offsets=tuple(float(v) for v in _each(said.get("offsets", said.get("add_offset")), count, 0.0)),
        units=_each(said.get("units"), count, None),
        colours=("gray", *("undefined",) * (count - 1)),
        gcps=tuple(array.rio.get_gcps() or ()),
        gcps_crs=array.rio.crs if array.rio.get_gcps() else None,
    )


def _transform_of(array: Any) -> Any:
    """From the coordinates where there are any: the one noted is still that of the whole after a part was taken."""
    noted = array.rio.transform()
    if noted.b or noted.d:
        if {"xc", "yc"} <= set(array.coords):  # centres of a turned grid, as rioxarray names them
            x, y = float(array.xc[0, 0]), float(array.yc[0, 0])
            return type(noted)(
                noted.a, noted.b, x - (noted.a + noted.b) / 2, noted.d, noted.e, y - (noted.d + noted.e) / 2
            )
        return noted
    found = array.rio.transform(recalc=all(array.sizes[dim] > 1 for dim in (array.rio.x_dim, array.rio.y_dim)))
    return None if found.is_identity or found.is_degenerate else found


def _nodata_of(array: Any) -> float | None:
    value = array.rio.nodata
    if (value is None or np.isnan(value)) and not {"scale_factor", "add_offset"} & set(array.encoding):
        value = array.encoding.get("_FillValue", value)
    return None if value is None else float(value)


def _names_of(array: Any, along: Any, count: int) -> tuple[str | None, ...]:
    names = array.attrs.get("long_name", array.attrs.get("descriptions"))
    if isinstance(names, str) and count == 1:
        return (names,)
    if isinstance(names, Sequence) and not isinstance(names, str) and len(names) == count:
        return tuple(None if name is None else str(name) for name in names)
    if along is not None and along in array.coords and array[along].dtype.kind in "UO":
        return tuple(str(name) for name in array[along].values)
    return (None,) * count


def _each(value: Any, count: int, default: Any) -> tuple[Any, ...]:
    """One value for every band, of one for all or of one for each."""
    if isinstance(value, str) or not isinstance(value, Sequence | np.ndarray):
        value = (default if value is None else value,) * count
    return tuple(value) if len(value) == count else (default,) * count
