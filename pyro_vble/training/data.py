"""Images of a folder, in memory as integers."""

import gzip
import os
import struct
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_vble.io.images import SUFFIXES, read_image

_IDX_IMAGES = 2051  # the magic number of a file of images
_BRIGHTEST = 1.5  # floats above this are on some other scale than [0, 1]


@dataclass(frozen=True)
class ImageSet:
    """Images as integers, of any sizes, and the files that could not be used.

    Attributes:
        images: (C, H, W) each, all uint8, or all int32 on a scale of 16 bits.
        skipped: Why a file was left out, by path.
    """

    images: list[Tensor]
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def white(self) -> float:
        """The integer that stands for 1."""
        return 255.0 if all(image.dtype == torch.uint8 for image in self.images) else 65535.0

    def floats(self, index: int) -> Tensor:
        """One image in [0, 1], (1, C, H, W) float32."""
        return self.images[index][None].float() / self.white

    def split(self, held_out: int) -> tuple["ImageSet", "ImageSet"]:
        """Training and validation images: every so manieth is held out, at most a tenth; one image serves as both."""
        count = min(held_out, max(1, len(self.images) // 10))
        if len(self.images) == 1:
            return self, self
        chosen = {round((i + 0.5) * len(self.images) / count - 0.5) for i in range(count)}
        rest = [image for i, image in enumerate(self.images) if i not in chosen]
        return ImageSet(rest, self.skipped), ImageSet([self.images[i] for i in sorted(chosen)])


def read_images(
    folders: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    bands: int = 3,
    smallest: int = 1,
    scale: float | None = None,
) -> ImageSet:
    """Read all images below one or more folders (or single files): photographs, TIFFs, GeoTIFFs, MNIST's idx files.

    One-band images are replicated to ``bands``; of images with more, the first are taken. Where pixels are missing
    (NaN, GDAL's nodata, transparency) the largest whole squares around them are. Files that are broken, too small or
    out of range are named in ``skipped``, never fatal.

    Args:
        folders: Where to look, subfolders included.
        bands: Number of bands of every image.
        smallest: Images with a shorter side are left out.
        scale: The value that is 1, where a type's largest is not.

    Raises:
        FileNotFoundError: If a folder does not exist.
        ValueError: If no image can be used.
    """
    folders = [folders] if isinstance(folders, str | os.PathLike) else list(folders)
    paths = [path for folder in folders for path in _image_files(Path(folder))]

    def read(path: Path) -> list[np.ndarray] | str:
        try:
            return [part for array in _arrays(path, scale) for part in _usable(array, bands, smallest)]
        except (ValueError, OSError, EOFError) as error:
            return str(error)

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        results = dict(zip(paths, pool.map(read, paths), strict=True))
    skipped = {str(path): result for path, result in results.items() if isinstance(result, str)}
    arrays = [array for result in results.values() if not isinstance(result, str) for array in result]
    if not arrays:
        reasons = "".join(f"; {path}: {reason}" for path, reason in list(skipped.items())[:3])
        raise ValueError(
            f"Training needs images of at least {smallest} pixels a side ({', '.join(SUFFIXES)}, idx3-ubyte); of "
            f"{len(paths)} files in {', '.join(map(str, folders))} none can be used{reasons}."
        )
    if all(array.dtype == np.uint8 for array in arrays):
        return ImageSet([torch.from_numpy(array) for array in arrays], skipped)
    wide = (a.astype(np.int32) * (257 if a.dtype == np.uint8 else 1) for a in arrays)
    return ImageSet([torch.from_numpy(array) for array in wide], skipped)


def downscaled(image: Tensor, factor: float) -> Tensor:
    """An integer image (C, H, W) at a smaller size, antialiased."""
    if factor == 1:
        return image
    size = [max(1, round(side * factor)) for side in image.shape[1:]]
    small = F.interpolate(image[None].float(), size=size, mode="bilinear", antialias=True)[0]
    return small.round().to(image.dtype)


def _image_files(folder: Path) -> list[Path]:
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise FileNotFoundError(f"No folder of images at {folder}; check --data.")
    return sorted(p for p in folder.rglob("*") if p.is_file() and (p.suffix.lower() in SUFFIXES or _is_idx(p)))


def _is_idx(path: Path) -> bool:
    return "idx3-ubyte" in path.name


def _arrays(path: Path, scale: float | None) -> Iterable[np.ndarray]:
    """The images of one file, (C, H, W) in [0, 1] as floats with NaN for missing pixels, or as uint8."""
    if _is_idx(path):
        return _read_idx(path)[:, None]
    file = read_image(path, scale=scale)
    values = file.values[0].numpy()
    if file.dtype == np.uint8 and scale in (None, 255) and not np.isnan(values).any():
        return [np.rint(values * 255).astype(np.uint8)]
    with np.errstate(invalid="ignore"):
        brightest = np.nanmax(values, initial=0.0)
    if brightest > _BRIGHTEST:
        raise ValueError(f"images must lie in [0, 1]; values reach {brightest:.4g}; set data.scale in the recipe")
    return [values]


def _usable(array: np.ndarray, bands: int, smallest: int) -> list[np.ndarray]:
    """An image's parts without missing pixels, in the bands asked for, as uint8 or uint16."""
    if array.shape[0] < bands:
        array = np.repeat(array[:1], bands, axis=0)
    array = array[:bands]
    if min(array.shape[1:]) < smallest:
        raise ValueError(f"{array.shape[2]}x{array.shape[1]} pixels are fewer than the {smallest} of a crop")
    if array.dtype == np.uint8:
        return [np.ascontiguousarray(array)]
    parts = [array] if not np.isnan(array).any() else _whole_squares(array, smallest)
    if not parts:
        raise ValueError(f"no square of {smallest} pixels is free of missing ones")
    return [np.rint(np.clip(part, 0, 1) * 65535).astype(np.uint16) for part in parts]


def _whole_squares(array: np.ndarray, side: int) -> list[np.ndarray]:
    """Squares of ``side`` pixels, half overlapping, that miss none."""
    missing = np.isnan(array).any(axis=0)
    rows, columns = ([*range(0, n - side, max(1, side // 2)), n - side] for n in missing.shape)
    squares = [(slice(r, r + side), slice(c, c + side)) for r in rows for c in columns]
    return [array[:, r, c] for r, c in squares if not missing[r, c].any()]


def _read_idx(path: Path) -> np.ndarray:
    """The images of an idx file, gzipped or not, (n, rows, columns) uint8."""
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if len(content) < 16:
        raise ValueError("an idx file of images has a header of 16 bytes")
    magic, count, rows, columns = struct.unpack(">4i", content[:16])
    if magic != _IDX_IMAGES or len(content) != 16 + count * rows * columns:
        raise ValueError(f"an idx file of images must be whole and start with {_IDX_IMAGES}; this one with {magic}")
    return np.frombuffer(content, np.uint8, offset=16).reshape(count, rows, columns).copy()
