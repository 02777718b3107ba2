"""Images written as PNG, TIFF and NumPy files."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pyro_vble._arguments import PathName, Positive, brief, checked
from pyro_vble._extras import extra
from pyro_vble.io.atomic import atomic_path
from pyro_vble.io.rasters import Raster

_TIFF = (".tif", ".tiff")
_TILE = 256
_NODATA_TAG = 42113


@checked
def write_image(
    path: PathName,
    values: Tensor,
    *,
    dtype: Any = np.uint8,
    scale: Positive | None = None,
    raster: Raster | None = None,
) -> Path:
    """Write an image (1, C, H, W) or (C, H, W), clipped and rounded for integer types; returns the path written.

    The suffix chooses the format; a type or number of bands that PNG cannot hold goes into a TIFF beside it. The bands
    of a TIFF are one page, deflated, in tiles; three integer bands are RGB. A type of 16 bits goes into a TIFF as
    float32 if it is a float, which GDAL has no shorter of.

    NaN stands for missing pixels. They become the raster's nodata value where the type can hold it, and a value that
    would be written as this one by rounding is moved by one step. Without such a value, floats stay NaN; a PNG gets an
    alpha channel and a TIFF of integers a mask, in which a pixel is missing if any of its bands is (where the file has
    0); integers in a NumPy file are refused.

    Args:
        path: Where to; the folder is made.
        values: The image, 1 standing for ``scale``.
        dtype: Data type in the file.
        scale: The value written for 1: by default the largest of an integer type up to 16 bits, 1 for floats. A TIFF
            does not say it.
        raster: Georeference and metadata for a TIFF, of a raster over the same ground, whatever its size. What is said
            of values (scales, offsets, units, and nodata for floats) is written where ``scale`` is the raster's own;
            what is said of bands, where the image has as many.

    Raises:
        ImportError: If a raster is to be kept, and rasterio is not installed.
        TypeError: If an argument is of a wrong type.
        ValueError: If the suffix is not one of .png, .tif, .tiff or .npy, the values are no image's, or the file cannot
            say which of them are missing.

    Example:
        >>> import tempfile, torch
        >>> from pyro_vble.io.images import read_image, write_image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = write_image(f"{folder}/x.tif", torch.tensor([[[0.0, torch.nan, 1.0]]]))
        ...     read_image(path).values
        tensor([[[[0., nan, 1.]]]])
    """
    path, dtype = Path(path), _data_type(dtype)
    suffix = path.suffix.lower()
    if suffix not in (".png", *_TIFF, ".npy"):
        raise ValueError(f"Images are written as .png, .tif or .npy; received {brief(path.name)}; choose one of them.")
    image = values.detach().cpu()
    image = image[0] if image.ndim == 4 and len(image) == 1 else image
    if image.ndim != 3 or 0 in image.shape or image.is_complex():
        raise ValueError(f"values must be an image (1, C, H, W) or (C, H, W); received {brief(values)}.")
    if suffix == ".png" and (dtype != np.uint8 or len(image) not in (1, 3)):
        path, suffix = path.with_suffix(".tif"), ".tif"
    if suffix in _TIFF and dtype == np.float16:
        dtype = np.dtype(np.float32)
    if scale is None:
        if dtype.kind in "ui" and dtype.itemsize > 2:
            raise ValueError(f"scale must be given for {dtype}; received None; pass the value that is to stand for 1.")
        scale = 1.0 if dtype.kind == "f" else float(np.iinfo(dtype).max)
    raster = raster if suffix in _TIFF else None
    nodata = _nodata(raster, dtype, scale)
    missing = image.isnan().numpy()
    if nodata is None and dtype.kind in "ui" and suffix == ".npy" and missing.any():
        raise ValueError(
            f"Integers of a NumPy file must be whole; {int(missing.sum())} values are missing; write floats, or a TIFF."
        )
    array = np.empty(tuple(image.shape), dtype)
    for band, (written, absent) in enumerate(zip(array, missing, strict=True)):
        written[...] = _in_type(image[band].double().numpy() * scale, absent, dtype, nodata)
    with atomic_path(path) as temporary:
        if suffix == ".npy":
            np.save(temporary, array)
        elif suffix == ".png":
            _save_png(temporary, array, missing)
        elif raster is None:
            _save_tiff(temporary, array, missing, nodata)
        else:
            temporary.write_bytes(_geotiff(array, missing, nodata, scale, raster))
    return path


def _data_type(dtype: Any) -> np.dtype:
    try:
        found = np.dtype(dtype)
    except (TypeError, ValueError):
        raise TypeError(
            f"dtype must be a NumPy data type; received {brief(dtype)}; pass for example np.uint8."
        ) from None
    if found.kind not in "uif" or found.itemsize > 8:
        raise ValueError(f"dtype must be of integers or floats up to 64 bits; received {found}.")
    return found


def _nodata(raster: Raster | None, dtype: np.dtype, scale: float) -> float | None:
    """The value that the file is to have for missing pixels; NaN for floats that have no other."""
    value = None if raster is None else raster.nodata
    if dtype.kind == "f":
        if value is None or raster is None or scale != raster.unit or abs(value) > np.finfo(dtype).max:
            return math.nan
        return float(dtype.type(value))
    limits = np.iinfo(dtype)
    if value is None or not limits.min <= value <= limits.max or value != math.floor(value):
        return None
    return int(value)


def _in_type(band: np.ndarray, missing: np.ndarray, dtype: np.dtype, nodata: float | None) -> np.ndarray:
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


def _save_png(path: Path, array: np.ndarray, missing: np.ndarray) -> None:
    from PIL import Image

    if missing.any():
        opaque = np.where(missing.any(0, keepdims=True), 0, 255).astype(np.uint8)
        array = np.concatenate((array, opaque))
    pixels = array[0] if len(array) == 1 else np.ascontiguousarray(array.transpose(1, 2, 0))
    Image.fromarray(pixels).save(path, format="PNG")


def _save_tiff(path: Path, array: np.ndarray, missing: np.ndarray, nodata: float | None) -> None:
    """Save a TIFF without georeference, as GDAL would write it."""
    import tifffile

    count, height, width = array.shape
    tile = (_TILE, _TILE) if min(height, width) >= _TILE else None
    common: dict[str, Any] = {"compression": "zlib", "tile": tile, "metadata": None, "software": False}
    colour = count == 3 and array.dtype.kind in "ui"
    layout: dict[str, Any] = {"photometric": "minisblack"}
    if colour:
        array, layout = array.transpose(1, 2, 0), {"photometric": "rgb", "planarconfig": "contig"}
    elif count == 1:
        array = array[0]
    else:
        layout |= {"planarconfig": "separate", "extrasamples": [0] * (count - 1)}
    tags = [(_NODATA_TAG, "s", 0, str(nodata), False)] if nodata is not None and missing.any() else []
    with tifffile.TiffWriter(path) as file:
        file.write(
            array,
            predictor=2 if array.dtype.kind in "ui" else 3,
            extratags=tags,
            **layout,
            **common,
        )
        if nodata is None and missing.any():
            file.write(~missing.any(0), photometric="mask", subfiletype=4, **common)


def _geotiff(array: np.ndarray, missing: np.ndarray, nodata: float | None, scale: float, raster: Raster) -> bytes:
    """A GeoTIFF."""
    import warnings

    with extra("rasters"):
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning

    count, height, width = array.shape
    known = raster.count == count
    colour = count == 3 and array.dtype.kind in "ui" and not (known and "red" not in raster.colours)
    options: dict[str, Any] = {
        "driver": "GTiff",
        "count": count,
        "height": height,
        "width": width,
        "dtype": array.dtype,
        "compress": "deflate",
        "predictor": 2 if array.dtype.kind in "ui" else 3,
        "photometric": "rgb" if colour else "minisblack",
        "interleave": "pixel" if colour or count == 1 else "band",
        "alpha": "unspecified",
        "BIGTIFF": "IF_SAFER",
    }
    if min(height, width) >= _TILE:
        options |= {"tiled": True, "blockxsize": _TILE, "blockysize": _TILE}
    if nodata is not None and (raster.nodata is not None or missing.any()):
        options["nodata"] = nodata
    raster = raster.enlarged(height, width)
    options |= {"crs": raster.crs, "transform": raster.transform} if raster.transform is not None else {}
    with warnings.catch_warnings(), rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.MemoryFile() as memory:
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with memory.open(**options) as file:
            _describe(file, raster, values=scale == raster.unit)
            file.write(array)
            if nodata is None and missing.any():
                file.write_mask(np.where(missing.any(0), 0, 255).astype(np.uint8))
        return bytes(memory.getbuffer())


def _describe(file: Any, raster: Raster, *, values: bool) -> None:
    """Metadata of a raster; what is said of values only if they are on its scale."""
    with extra("rasters"):
        from rasterio.enums import ColorInterp

    if raster.gcps:
        file.gcps = (list(raster.gcps), raster.gcps_crs)
    elif raster.transform is None and raster.crs is not None:
        file.crs = raster.crs
    if raster.rpcs is not None:
        file.rpcs = raster.rpcs
    file.update_tags(**raster.tags)
    if raster.count != file.count:
        return
    file.descriptions = raster.descriptions
    for band, tags in enumerate(raster.band_tags, start=1):
        file.update_tags(band, **tags)
    # What GDAL declared as alpha without asking was read as a band.
    colours = [ColorInterp["undefined" if name == "alpha" else name] for name in raster.colours]
    if file.count > 1 and list(file.colorinterp) != colours:
        file.colorinterp = colours
    if values:
        file.scales, file.offsets = raster.scales, raster.offsets
        file.units = [unit or "" for unit in raster.units]
