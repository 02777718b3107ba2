"""Images as arrays in [0, 1], from and to files."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pyro_vble.io.atomic import atomic_path

_TIFF = (".tif", ".tiff")
_PIXEL_IS_POINT = 2
_PHOTO = (".png", ".jpg", ".jpeg", ".webp")
SUFFIXES = (*_PHOTO, *_TIFF, ".npy")


@dataclass(frozen=True)
class ImageFile:
    """An image as it was read: values in [0, 1], NaN where there is no data, and the scale of the file.

    Attributes:
        values: (1, C, H, W) float32.
        dtype: The file's data type.
        scale: The file's value that is 1 here.
        grid: Of a raster with axes along those of its coordinate system: (x of the left edge, pixel width, y of the
            top edge, pixel height, negative where y grows upwards).
    """

    values: Tensor
    dtype: np.dtype
    scale: float
    grid: tuple[float, float, float, float] | None = None

    def coordinates(self, height: int, width: int) -> dict[str, np.ndarray]:
        """Coordinates of pixel centres in the raster's own system, of an image of this size over the same ground.

        Empty where the file has none.
        """
        if self.grid is None:
            return {}
        left, dx, top, dy = self.grid
        rows, columns = self.values.shape[-2:]
        row, column = (np.arange(n) + 0.5 for n in (height, width))
        return {"row": top + dy * row * (rows / height), "col": left + dx * column * (columns / width)}


def read_image(path: str | os.PathLike, *, scale: float | None = None, nodata: float | None = None) -> ImageFile:
    """Read a PNG, JPEG, WebP, TIFF or NumPy file: 8 and 16 bit integers, or floats.

    Integers are divided by their type's largest value, so that 255 or 65535 is 1; floats are taken as they are.
    Photographs are turned upright by their EXIF orientation; fully transparent pixels of theirs become NaN, and alpha
    is dropped. All bands of a TIFF are bands: GDAL declares the fourth of four 8-bit bands as alpha, whatever it is.

    Args:
        path: The file. NumPy arrays are (H, W), (H, W, C) or (C, H, W), with C up to 16.
        scale: The value that is 1, where the type's largest is not: 4095 for 12 bits in 16.
        nodata: Value that marks missing pixels, by default the one that a GeoTIFF names; NaN always does.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If its kind is not known, it is damaged, or its shape is no image's.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No image at {path}; check the path.")
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"An image file must be one of {', '.join(SUFFIXES)}; received {path.name}; convert it.")
    try:
        array = _read_array(path)
    except Exception as error:  # every decoder has exceptions of its own
        raise ValueError(
            f"An image file must be complete and of the kind its name says; {path} cannot be read "
            f"({type(error).__name__}: {error})."
        ) from error
    array = _bands_first(array, path)
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    if not (np.issubdtype(array.dtype, np.integer) or np.issubdtype(array.dtype, np.floating)):
        raise ValueError(f"An image must hold real numbers; {path} holds {array.dtype}.")
    if scale is None:
        scale = float(np.iinfo(array.dtype).max) if np.issubdtype(array.dtype, np.integer) else 1.0
    elif not scale > 0:
        raise ValueError(f"scale must be positive; received {scale}.")
    # float64 in between: float32 cannot hold every 32-bit integer.
    values = array.astype(np.float64)
    if nodata is None and path.suffix.lower() in _TIFF:
        nodata = _gdal_nodata(path)
    if nodata is not None:
        values[array == nodata] = np.nan
    values /= scale
    alpha = len(values) in (2, 4) and path.suffix.lower() in _PHOTO
    if alpha:
        values, opacity = values[:-1], values[-1]
        values[:, opacity == 0] = np.nan
    grid = _geotiff_grid(path) if path.suffix.lower() in _TIFF else None
    return ImageFile(torch.from_numpy(values.astype(np.float32))[None], array.dtype, scale, grid)


def write_image(
    path: str | os.PathLike, values: Tensor, *, dtype: np.dtype | type = np.uint8, scale: float | None = None
) -> Path:
    """Write an image (1, C, H, W) or (C, H, W), clipped and rounded for integer types; returns the path written.

    The suffix chooses the format; a type or number of bands that PNG cannot hold goes into a TIFF beside it.

    Args:
        path: Where to; the folder is made.
        values: The image, 1 standing for ``scale``.
        dtype: Data type in the file.
        scale: The value written for 1: by default the largest of an integer type, 1 for floats.

    Raises:
        ValueError: If the suffix is not one of .png, .tif, .tiff or .npy.
    """
    path, dtype = Path(path), np.dtype(dtype)
    if path.suffix not in (".png", *_TIFF, ".npy"):
        raise ValueError(f"Images are written as .png, .tif or .npy; received {path.name}.")
    array = values.detach().cpu().double().numpy()
    array = array[0] if array.ndim == 4 else array
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        array = np.clip(np.rint(array * (scale or limits.max)), limits.min, limits.max)
    else:
        array = array * (scale or 1.0)
    array = array.astype(dtype)
    if path.suffix == ".png" and (dtype != np.uint8 or len(array) not in (1, 3)):
        path = path.with_suffix(".tif")
    with atomic_path(path) as temporary:
        if path.suffix == ".npy":
            np.save(temporary, array)
        elif path.suffix == ".png":
            from PIL import Image

            Image.fromarray(array[0] if len(array) == 1 else array.transpose(1, 2, 0)).save(temporary)
        else:
            import tifffile

            colour = len(array) == 3 and dtype.kind == "u"
            tifffile.imwrite(
                temporary,
                array.transpose(1, 2, 0) if colour else array,
                photometric="rgb" if colour else "minisblack",
                compression="zlib",
            )
    return path


def _read_array(path: Path) -> np.ndarray:
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return np.load(path, allow_pickle=False)
    if suffix in _TIFF:
        import tifffile

        return tifffile.imread(path)
    from PIL import Image, ImageOps

    with Image.open(path) as image:
        if suffix == ".png" and image.mode != "P":
            # Pillow reads 16-bit colour PNGs as 8-bit ones.
            from torchvision.io import ImageReadMode, decode_image

            return decode_image(str(path), mode=ImageReadMode.UNCHANGED, apply_exif_orientation=True).numpy()
        if image.mode == "P":
            image = image.convert("RGBA" if "transparency" in image.info else "RGB")
        elif image.mode not in ("L", "LA", "RGB", "RGBA"):
            image = image.convert("RGB")
        return np.asarray(ImageOps.exif_transpose(image))


def _gdal_nodata(path: Path) -> float | None:
    """The value of missing pixels that GDAL noted in a GeoTIFF."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        tag = file.pages[0].tags.get("GDAL_NODATA")
    try:
        return None if tag is None else float(str(tag.value).rstrip("\0 "))
    except ValueError:
        return None


def _bands_first(array: np.ndarray, path: Path) -> np.ndarray:
    """(H, W), (H, W, C) or (C, H, W) as (C, H, W); the bands are the shortest side."""
    array = array.squeeze() if array.ndim > 3 else array
    if array.ndim == 2:
        return array[None]
    if array.ndim != 3 or 0 in array.shape or min(array.shape[0], array.shape[-1]) > 16:
        raise ValueError(
            f"An image must have the shape (H, W), (H, W, C) or (C, H, W), up to 16 bands; {path} has {array.shape}."
        )
    return array.transpose(2, 0, 1) if array.shape[-1] < array.shape[0] else array


def _geotiff_grid(path: Path) -> tuple[float, float, float, float] | None:
    """Edges and pixel size of a GeoTIFF; None where it has none, or is turned."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        tags = file.geotiff_metadata or {}
    matrix, scale, tie = (tags.get(k) for k in ("ModelTransformation", "ModelPixelScale", "ModelTiepoint"))
    if matrix is not None:
        m = np.asarray(matrix, dtype=float).reshape(4, 4)
        return None if m[0, 1] or m[1, 0] else (m[0, 3], m[0, 0], m[1, 3], m[1, 1])
    if scale is None or tie is None:
        return None
    i, j, _, x, y, _ = np.asarray(tie, dtype=float).ravel()[:6]
    if int(tags.get("GTRasterTypeGeoKey", 1)) == _PIXEL_IS_POINT:  # the tie point is a pixel's centre
        i, j = i + 0.5, j + 0.5
    return (x - i * scale[0], scale[0], y + j * scale[1], -scale[1])


def evenly_spaced(paths: Sequence[Path], count: int) -> list[Path]:
    """So many of the paths, from the first to the last; all if there are no more."""
    if count >= len(paths):
        return list(paths)
    return [paths[round(i)] for i in np.linspace(0, len(paths) - 1, count)]
