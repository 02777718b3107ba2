"""Scenes as Cloud-Optimised GeoTIFFs, written in pieces."""

import contextlib
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Annotated, Any

import numpy as np

from pyro_vble._arguments import (
    Count,
    Flag,
    Function,
    ImageShape,
    PathName,
    brief,
    checked,
    instance_of,
    one_of,
)
from pyro_vble._extras import extra
from pyro_vble.io.atomic import atomic_path
from pyro_vble.io.geotiffs import describe, geotiff_options
from pyro_vble.io.rasters import Raster
from pyro_vble.io.sample_types import data_type, in_type, nodata_of
from pyro_vble.scene.source import NoData, is_gdals, reason

#: Rows and columns that are asked for at a time.
WINDOW = 1024
# GDAL writes a block when this is full of others, and says then what goes wrong: so that nothing is left to the end.
_CACHE = 64 * 2**20
_COMPRESSIONS = ("deflate", "zstd", "lzw", "none")


@checked
def write_cog(
    path: PathName,
    read_block: Function,
    shape: ImageShape,
    raster: Annotated[Any, instance_of("a pyro_vble.io.rasters.Raster, or None", Raster, NoneType)],
    dtype: Any,
    *,
    nodata: NoData | None = None,
    overviews: Flag = True,
    compress: Annotated[str, one_of(*_COMPRESSIONS)] = "deflate",
    block: Count = 512,
    threads: Count = 1,
) -> Path:
    """Write a scene as a Cloud-Optimised GeoTIFF, window by window; returns its path.

    Values are in the file's own numbers; integers are rounded and clipped to their type, floats of 16 bits become
    float32. NaN stands for missing pixels and becomes the nodata value, which no other pixel gets: one that rounding
    would give it is moved by one step. Where none is named, or the type cannot hold it, floats stay NaN (which the
    file then declares), and integers get a mask within the file, in which a pixel is missing if any of its bands is
    (where the file has 0); the mask is there only if a pixel is missing.

    Overviews are averages of the pixels that are not missing. Every window is read back and compared before the file
    gets its name. Memory does not depend on the shape; the folder needs room for the scene twice, as a tiled TIFF and
    as its cloud-optimised copy.

    Args:
        path: Where to; the folder is made.
        read_block: Called as ``read_block(rows, columns)`` with two slices, of up to 1024 rows and columns, each window
            once, row by row of windows: returns its values (C, h, w), NaN where they are missing.
        shape: (C, H, W) of the scene.
        raster: Georeference and metadata, of a raster over the same ground, whatever its size: the transform is scaled
            to the scene's. What it says of bands is written where the scene has as many. For standard deviations pass
            ``raster.of_widths()``.
        dtype: Data type in the file.
        nodata: The value of missing pixels, by default the raster's.
        overviews: Whether to add smaller copies, for viewers.
        compress: How blocks are compressed, without loss.
        block: Rows and columns of a block, a multiple of 16.
        threads: Threads that compress the copy; the file is the same with any number.

    Raises:
        ImportError: If rasterio is not installed.
        OSError: If it cannot be written, or the disk is full: nothing is left of it then, and what was at ``path``
            stays.
        TypeError: If an argument is of a wrong type.
        ValueError: If a value is wrong, or a window's values have another shape.

    Example:
        >>> import numpy as np, rasterio, tempfile
        >>> from pyro_vble.scene.writing import write_cog
        >>> scene = np.random.default_rng(0).uniform(0, 4095, (1, 700, 600))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = write_cog(f"{folder}/x.tif", lambda *part: scene[:, *part], scene.shape, None, np.uint16)
        ...     with rasterio.open(path) as file:
        ...         file.dtypes, file.overviews(1), bool((file.read() == scene.round()).all())
        (('uint16',), [2], True)
    """
    path, dtype = Path(path), data_type(dtype)
    if block % 16:
        raise ValueError(f"block must be a multiple of 16; received {block}; take 256 or 512.")
    dtype = np.dtype(np.float32) if dtype == np.float16 else dtype
    raster = Raster(*shape[1:]) if raster is None else raster
    named = raster.nodata if nodata is None else nodata
    raster = raster.enlarged(*shape[1:])
    value = nodata_of(named, dtype)
    options = geotiff_options(raster, shape, dtype) | {
        "tiled": True,
        "blockxsize": block,
        "blockysize": block,
        "interleave": "pixel",
        "compress": "deflate",
        "zlevel": 1,
        "nodata": value if named is not None else None,
    }
    gdal = _gdal()
    layout = {"driver": "COG", "compress": compress, "blocksize": block, "bigtiff": "IF_SAFER"}
    layout |= {"num_threads": threads, "resampling": "AVERAGE", "overviews": "AUTO" if overviews else "NONE"}
    layout |= {} if compress == "none" else {"predictor": "YES"}
    settings = {"GDAL_TIFF_INTERNAL_MASK": True, "GDAL_CACHEMAX": _CACHE}
    with atomic_path(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore", gdal.errors.NotGeoreferencedWarning)
        pieces = temporary.with_name(f"{temporary.name}.pieces")
        with _plainly(), gdal.Env(**settings):
            with gdal.open(pieces, "w", **options) as file:
                describe(file, raster, values=True)
                sums, incomplete = _write(file, read_block, shape, value)
                if incomplete and named is None and value is not None:
                    file.nodata = value
            gdal.shutil.copy(pieces, temporary, **layout)
            _check(temporary, shape, sums, masked=value is None)
    return path


def _write(file: Any, read_block: Function, shape: tuple[int, int, int], value: float | None) -> tuple[list[int], bool]:
    """Write all windows to an open data set; returns what each sums up to, and whether any pixel is missing."""
    dtype, sums, incomplete = np.dtype(file.dtypes[0]), [], False
    windows = list(_windows(*shape[1:]))
    for place, (rows, columns) in enumerate(windows):
        values = np.asarray(read_block(rows, columns))
        expected = shape[0], rows.stop - rows.start, columns.stop - columns.start
        if values.shape != expected or values.dtype.kind not in "uif":
            raise ValueError(
                f"read_block must return real numbers {expected} at rows {rows.start} to {rows.stop} and columns "
                f"{columns.start} to {columns.stop}; received {brief(values)}."
            )
        missing = np.isnan(values)
        array = np.empty(values.shape, dtype)
        for band, absent, samples in zip(array, missing, values, strict=True):
            band[...] = in_type(samples.astype(np.float64), absent, dtype, value)
        file.write(array, window=_window(rows, columns))
        absent = missing.any(0)
        if value is None:
            if absent.any() and not incomplete:  # a mask begins as one that leaves out everything
                for before in windows[:place]:
                    window = _window(*before)
                    file.write_mask(np.full((window.height, window.width), 255, np.uint8), window=window)
            if absent.any() or incomplete:
                file.write_mask(np.where(absent, 0, 255).astype(np.uint8), window=_window(rows, columns))
        incomplete = incomplete or bool(absent.any())
        sums.append(_sum(array, absent if value is None else None))
    return sums, incomplete


def _check(path: Path, shape: tuple[int, int, int], sums: list[int], *, masked: bool) -> None:
    """Compare what a file holds with what was to be written: GDAL does not tell of all that goes wrong at its end."""
    with _gdal().open(path) as file:
        for expected, (rows, columns) in zip(sums, _windows(*shape[1:]), strict=True):
            window = _window(rows, columns)
            absent = file.read_masks(1, window=window) == 0 if masked else None
            if _sum(file.read(window=window), absent) != expected:
                raise OSError("what is read back is not what was written")


def _sum(array: np.ndarray, absent: np.ndarray | None) -> int:
    start = 0 if absent is None else zlib.crc32(np.packbits(absent).tobytes())
    return zlib.crc32(array.tobytes(), start)


def _windows(height: int, width: int) -> Iterator[tuple[slice, slice]]:
    for top in range(0, height, WINDOW):
        for left in range(0, width, WINDOW):
            yield slice(top, min(top + WINDOW, height)), slice(left, min(left + WINDOW, width))


def _window(rows: slice, columns: slice) -> Any:
    return _gdal().windows.Window.from_slices(rows, columns)


@contextlib.contextmanager
def _plainly() -> Iterator[None]:
    """What GDAL says of a failure, as an OSError."""
    try:
        yield
    except Exception as error:
        unknown = isinstance(error, SystemError)  # of which GDAL has told nothing
        if not unknown and not is_gdals(error):
            raise
        raise OSError("GDAL does not say why" if unknown else reason(error)) from error


def _gdal() -> Any:
    with extra("geo"):
        import rasterio
        import rasterio.errors
        import rasterio.shutil
        import rasterio.windows
    return rasterio
