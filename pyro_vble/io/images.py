"""Images as arrays in [0, 1], from and to files."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vble._arguments import Number, PathName, Positive, checked
from pyro_vble.io.arrays import decode_npy
from pyro_vble.io.decoded import Decoded, ImageFileError
from pyro_vble.io.image_writing import write_image
from pyro_vble.io.photographs import PNG_MAGIC, decode_photograph, decode_png
from pyro_vble.io.rasters import Raster, read_raster
from pyro_vble.io.tiff import TIFF_MAGICS, decode_tiff

__all__ = [
    "SUFFIXES",
    "ImageFile",
    "Raster",
    "decode",
    "evenly_spaced",
    "images_in",
    "read_image",
    "read_kernel",
    "read_mask",
    "write_image",
]

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".npy")
_NPY_MAGIC = b"\x93NUMPY"
_DEPTHS = (8, 10, 12, 14)  # bits of sensors that are kept in 16
_TOO_DARK = 32  # so few of 65535 levels tell nothing


@dataclass(frozen=True)
class ImageFile:
    """An image as it was read: values in [0, 1], NaN where there is no data, and the scale of the file.

    Attributes:
        values: (1, C, H, W) float32.
        dtype: The file's data type; that of 8 bits for fewer.
        scale: The file's value that is 1 here; 255 for fewer bits than eight.
        raster: Georeference and metadata of a TIFF that has any.
        quantisation: Standard deviation of the file's own rounding on the scale of ``values``, step / sqrt(12); 0 for
            floats.
        looks_like_bits: A hint: so many bits would hold all values of a 16-bit file that does not say its bits and was
            read without a scale: 8, 10, 12 or 14; None otherwise. A dark image looks the same.
        jpeg_quantisation: Of a JPEG file, an estimate of the standard deviation of its compression error on [0, 1],
            from its quantisation table alone: within a factor of 1.9 for four photographs in five up to quality 90.
        radiometry: What made ``values`` of the file's numbers, where that is more than a division by ``scale``.
        profile: The ICC profile that says which colours the values are, for ``write_image``; None if there is none.
    """

    values: Tensor
    dtype: np.dtype
    scale: float
    raster: Raster | None = None
    quantisation: float = 0.0
    looks_like_bits: int | None = None
    jpeg_quantisation: float | None = None
    radiometry: Any = None
    profile: bytes | None = None

    def read_by(self, radiometry: Any) -> "ImageFile":
        """The image whose values a radiometry makes of the numbers in the file, of one that was read with scale 1.

        Args:
            radiometry: With ``to_unit`` and ``from_unit``, a :class:`~pyro_vble.physics.Radiometry` for example.
        """
        step = unit_step(radiometry, self.values.shape[1])
        values = radiometry.to_unit(self.values)
        return replace(self, values=values, quantisation=step * self.quantisation, radiometry=radiometry)

    def in_file(self, x: Tensor) -> Tensor:
        """An image in [0, 1], (1, C, H, W), as values that are written with ``scale``."""
        return x if self.radiometry is None else self.radiometry.from_unit(x, "float64")

    def widths_in_file(self, std: Tensor) -> Tensor:
        """Widths in an image in [0, 1], such as standard deviations, as :meth:`in_file` has the image: no offset."""
        if self.radiometry is None:
            return std
        return self.radiometry.from_unit(std, "float64") - self.radiometry.from_unit(torch.zeros_like(std), "float64")

    @property
    def white(self) -> float | tuple[float, ...]:
        """The number in the file that is 1 here; one a band where a radiometry makes them differ."""
        if self.radiometry is None:
            return self.scale
        bands = self.radiometry.from_unit(torch.ones(1, self.values.shape[1], 1, 1), "float64").flatten().tolist()
        return bands[0] if len(set(bands)) == 1 else tuple(bands)

    @property
    def width_of_white(self) -> float | None:
        """How far the number that is 1 here lies from the one that is 0; None where that differs by band."""
        bands = self.widths_in_file(torch.ones(1, self.values.shape[1], 1, 1)).flatten() * self.scale
        return float(bands[0]) if bool((bands == bands[0]).all()) else None

    @property
    def grid(self) -> tuple[float, float, float, float] | None:
        """Of a raster with axes along those of its coordinate system: (left edge, pixel width, top edge, pixel height).

        The height is negative where y grows upwards.
        """
        return None if self.raster is None else self.raster.grid

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


def unit_step(radiometry: Any, bands: int) -> float:
    """How far numbers of a file that differ by 1 lie apart on [0, 1], in the band where that is most."""
    zeros = torch.zeros(1, bands, 1, 1, dtype=torch.float64)
    return float((radiometry.to_unit(zeros + 1) - radiometry.to_unit(zeros)).amax())


@checked
def read_image(path: PathName, *, scale: Positive | None = None, nodata: Number | None = None) -> ImageFile:
    """Read a PNG, JPEG, WebP, TIFF or NumPy file: integers or floats.

    Integers are divided by the largest that their bits hold, so that 255, 4095 or 65535 is 1; floats are taken as they
    are. What the file says is followed: palettes and transparent colours, which of black and white is 0, orientation,
    missing pixels, which axis are the bands. Transparent pixels are NaN, and alpha is dropped. All other bands of a
    TIFF are bands.

    Args:
        path: The file. NumPy arrays are (H, W), (H, W, C), (C, H, W) or (1, C, H, W), with C up to 16.
        scale: The value that is 1, where the type's largest is not: 4095 for 12 bits in 16. Integers beyond 16 bits
            need it.
        nodata: Value that marks missing pixels, by default the one that a GeoTIFF names; NaN always does.

    Raises:
        FileNotFoundError: If there is no such file.
        TypeError: If an argument is of a wrong type.
        ValueError: If its kind is not known, it is damaged, or it holds no image that is understood.

    Example:
        >>> import tempfile, torch
        >>> from pyro_vble.io.images import read_image, write_image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     image = read_image(write_image(f"{folder}/x.png", torch.full((1, 3, 4, 5), 0.2)))
        >>> image.values.shape, image.scale, round(image.quantisation, 5)
        (torch.Size([1, 3, 4, 5]), 255.0, 0.00113)
    """
    path = Path(path)
    decoded = decode(path, nodata=nodata)
    values = torch.from_numpy(decoded.scaled(scale, path))[None]
    unit = decoded.white_or(scale, path)
    raster = None
    if _kind(path) in TIFF_MAGICS:
        raster = read_raster(path)
    if raster is not None:
        raster = raster if decoded.alpha is None else raster.without_band(decoded.alpha)
        raster = replace(raster, unit=unit, nodata=raster.nodata if nodata is None else nodata)
    quantisation = 0.0
    if decoded.array.dtype.kind != "f":
        step = 1.0 if decoded.levels is None or decoded.white is None else decoded.white / decoded.levels
        quantisation = step / unit / math.sqrt(12)
    bits = None
    if scale is None and decoded.array.dtype.itemsize == 2 and decoded.levels and not decoded.states_bits:
        bits = _smallest_depth(decoded.largest)
    told = {"jpeg_quantisation": decoded.jpeg_quantisation, "profile": decoded.profile}
    return ImageFile(values, decoded.array.dtype, unit, raster, quantisation, bits, **told)


@checked
def read_mask(path: PathName) -> Tensor:
    """Where an image's pixels are observed, from a file that is not 0 there: (1, C, H, W) bool.

    What is missing in the file (NaN, nodata, transparent) is missing in the image.

    Raises:
        FileNotFoundError: If there is no such file.
        TypeError: If the path is none.
        ValueError: As in :func:`read_image`.

    Example:
        >>> import numpy as np, tempfile
        >>> from pyro_vble.io.images import read_mask
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(f"{folder}/mask.npy", np.array([[0, 1], [7, np.nan]]))
        ...     read_mask(f"{folder}/mask.npy")
        tensor([[[[False,  True],
                  [ True, False]]]])
    """
    values = _relative(Path(path))
    return torch.from_numpy(np.isfinite(values) & (values != 0))[None]


@checked
def read_kernel(path: PathName) -> Tensor:
    """A blur kernel (h, w), the mean of a file's bands, not normalised; what is missing or transparent is 0.

    Raises:
        FileNotFoundError: If there is no such file.
        TypeError: If the path is none.
        ValueError: As in :func:`read_image`.

    Example:
        >>> import numpy as np, tempfile
        >>> from pyro_vble.io.images import read_kernel
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(f"{folder}/kernel.npy", np.array([[0.25, 0.5, 0.25]]))
        ...     read_kernel(f"{folder}/kernel.npy")
        tensor([[0.2500, 0.5000, 0.2500]])
    """
    return torch.from_numpy(np.nan_to_num(_relative(Path(path)), nan=0.0)).mean(0)


def decode(path: Path, *, nodata: float | None = None) -> Decoded:
    """The samples of an image file, by the decoder of its content.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If its kind is not known, it is damaged, or it holds no image that is understood.
    """
    if not path.is_file():
        raise FileNotFoundError(f"No image at {path}; check the path.")
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"An image file must be one of {', '.join(SUFFIXES)}; received {path.name}; convert it.")
    kind = _kind(path)
    try:
        if kind == PNG_MAGIC:
            return decode_png(path, nodata)
        if kind == _NPY_MAGIC:
            return decode_npy(path, nodata)
        return decode_tiff(path, nodata) if kind in TIFF_MAGICS else decode_photograph(path, nodata)
    except ImageFileError:
        raise
    except Exception as error:  # every decoder has exceptions of its own
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(
            f"An image file must be complete and of a kind that its name says; {path} cannot be read ({reason})."
        ) from error


def _kind(path: Path) -> bytes:
    """The opening bytes of a file that tell its format, empty for photographs that Pillow reads."""
    with path.open("rb") as file:
        opening = file.read(8)
    return next((magic for magic in (PNG_MAGIC, _NPY_MAGIC, *TIFF_MAGICS) if opening.startswith(magic)), b"")


def _relative(path: Path) -> np.ndarray:
    """Samples on whatever scale: the file's white, or 1 for integers that have none."""
    decoded = decode(path)
    return decoded.scaled(1.0 if decoded.white is None else None, path)


def _smallest_depth(largest: float) -> int | None:
    if largest < _TOO_DARK:
        return None
    return next((bits for bits in _DEPTHS if largest < 2**bits), None)


def images_in(folder: Path) -> list[Path]:
    """Files of a folder with an image's suffix, sorted; none that are hidden, as the companions that a Mac leaves.

    Raises:
        FileNotFoundError: If there is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"No folder at {folder}; give one of images.")
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def evenly_spaced(paths: Sequence[Path], count: int) -> list[Path]:
    """So many of the paths, from the first to the last; all if there are no more."""
    if count >= len(paths):
        return list(paths)
    return [paths[round(i)] for i in np.linspace(0, len(paths) - 1, count)]
