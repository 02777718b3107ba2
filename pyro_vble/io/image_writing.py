"""Images written as PNG, TIFF and NumPy files."""

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pyro_vble._arguments import PathName, Positive, brief, checked
from pyro_vble._extras import extra
from pyro_vble.io.atomic import atomic_path
from pyro_vble.io.geotiffs import describe, geotiff_options
from pyro_vble.io.rasters import Raster
from pyro_vble.io.sample_types import data_type, in_type, nodata_of

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
    profile: bytes | None = None,
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
        profile: ICC profile that says which colours the values are; kept by a PNG or a TIFF of integers without
            georeference, if it is one of so many bands.

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
    path, dtype = Path(path), data_type(dtype)
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
    named = None
    if raster is not None and (dtype.kind != "f" or scale == raster.unit):
        named = raster.nodata
    nodata = nodata_of(named, dtype)
    missing = image.isnan().numpy()
    if nodata is None and dtype.kind in "ui" and suffix == ".npy" and missing.any():
        raise ValueError(
            f"Integers of a NumPy file must be whole; {int(missing.sum())} values are missing; write floats, or a TIFF."
        )
    array = np.empty(tuple(image.shape), dtype)
    for band, (written, absent) in enumerate(zip(array, missing, strict=True)):
        written[...] = in_type(image[band].double().numpy() * scale, absent, dtype, nodata)
    with atomic_path(path) as temporary:
        if suffix == ".npy":
            np.save(temporary, array)
        elif suffix == ".png":
            _save_png(temporary, array, missing, _of_bands(profile, array))
        elif raster is None:
            _save_tiff(temporary, array, missing, nodata, _of_bands(profile, array))
        else:
            temporary.write_bytes(_geotiff(array, missing, nodata, scale, raster))
    return path


def _of_bands(profile: bytes | None, array: np.ndarray) -> bytes | None:
    """A profile, if it says what such bands are: bytes 16 to 20 name its colours."""
    named = {1: b"GRAY", 3: b"RGB "}.get(len(array))
    return profile if profile is not None and profile[16:20] == named and array.dtype.kind == "u" else None


def _save_png(path: Path, array: np.ndarray, missing: np.ndarray, profile: bytes | None) -> None:
    from PIL import Image

    if missing.any():
        opaque = np.where(missing.any(0, keepdims=True), 0, 255).astype(np.uint8)
        array = np.concatenate((array, opaque))
    pixels = array[0] if len(array) == 1 else np.ascontiguousarray(array.transpose(1, 2, 0))
    Image.fromarray(pixels).save(path, format="PNG", icc_profile=profile)


def _save_tiff(path: Path, array: np.ndarray, missing: np.ndarray, nodata: float | None, profile: bytes | None) -> None:
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
            iccprofile=profile,
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
    raster = raster.enlarged(height, width)
    options = geotiff_options(raster, array.shape, array.dtype)
    options |= {"compress": "deflate", "predictor": 2 if array.dtype.kind in "ui" else 3}
    options["interleave"] = "pixel" if options["photometric"] == "rgb" or count == 1 else "band"
    if min(height, width) >= _TILE:
        options |= {"tiled": True, "blockxsize": _TILE, "blockysize": _TILE}
    if nodata is not None and (raster.nodata is not None or missing.any()):
        options["nodata"] = nodata
    with warnings.catch_warnings(), rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.MemoryFile() as memory:
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with memory.open(**options) as file:
            describe(file, raster, values=scale == raster.unit)
            file.write(array)
            if nodata is None and missing.any():
                file.write_mask(np.where(missing.any(0), 0, 255).astype(np.uint8))
        return bytes(memory.getbuffer())
