"""Images of a folder, in memory as integers."""

import functools
import gzip
import math
import os
import struct
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_vble._arguments import BrokenRuleError, Count, Positive, Rule, checked
from pyro_vble.io.decoded import check_claim
from pyro_vble.io.images import SUFFIXES, decode

_IDX_IMAGES = 2051  # the magic number of a file of images
_CHECKED_PIXEL = 997  # a prime, so that no column is left out
_CHECKED_AT_LEAST = 64  # of small images
_DARKEST, _BRIGHTEST = -0.1, 1.5  # values beyond these are on some other scale than [0, 1]


def _several_paths(value: Any) -> list[Path]:
    values = [value] if isinstance(value, str | os.PathLike) else value
    if not isinstance(values, Sequence) or not all(isinstance(each, str | os.PathLike) for each in values):
        raise BrokenRuleError("type")
    if not values or not all(os.fspath(each) for each in values):
        raise BrokenRuleError("value")
    return [Path(each) for each in values]


_Path = str | os.PathLike[str]
_Folders = Annotated[_Path | Sequence[_Path], Rule("a path or a list of paths", _several_paths)]


@dataclass(frozen=True)
class ImageSet:
    """Images as integers, of any sizes, and the files that could not be used.

    Attributes:
        images: (C, H, W) each, all uint8 or all uint16.
        missing: For images with missing pixels, by their place in ``images``, which those are: (H, W), true where
            missing.
        skipped: Why a file was left out, by path.
    """

    images: list[Tensor]
    missing: dict[int, Tensor] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    @functools.cached_property
    def white(self) -> float:
        """The integer that stands for 1."""
        return 255.0 if all(image.dtype == torch.uint8 for image in self.images) else 65535.0

    @functools.cached_property
    def fingerprint(self) -> str:
        """What tells these images from others: their number, and a checksum of sizes and of some of the pixels."""
        digest = zlib.crc32(b"")
        for image in self.images:
            few = image.numel() < 8 * _CHECKED_PIXEL
            step = max(1, image.numel() // _CHECKED_AT_LEAST) if few else _CHECKED_PIXEL
            digest = zlib.crc32(image.flatten()[::step].contiguous().numpy().tobytes(), digest)
            digest = zlib.crc32(str(tuple(image.shape)).encode(), digest)
        for index, missing in sorted(self.missing.items()):
            digest = zlib.crc32(f"{index} {missing.sum()}".encode(), digest)
        return f"{len(self.images)} images, {digest:08x}"

    def middle(self, index: int, side: int, smallest: int) -> Tensor:
        """The middle of one image, at most ``side`` pixels a side, in [0, 1]: (1, C, h, w) float32.

        Of an image with missing pixels it is the whole square of ``smallest`` pixels that is closest to its middle.
        """
        image = self.images[index]
        top, left = ((n - min(n, side)) // 2 for n in image.shape[1:])
        if index in self.missing:
            corners = whole_corners(self.missing[index], smallest).nonzero()
            middle = torch.tensor([(n - smallest) / 2 for n in image.shape[1:]])
            top, left = corners[(corners - middle).square().sum(1).argmin()].tolist()
            side = smallest
        return image[None, :, top : top + side, left : left + side].float() / self.white

    def has_square(self, index: int, side: int) -> bool:
        """Whether an image has a square of ``side`` pixels that misses none."""
        if min(self.images[index].shape[1:]) < side:
            return False
        return index not in self.missing or bool(whole_corners(self.missing[index], side).any())

    def split(self, held_out: int) -> tuple["ImageSet", "ImageSet"]:
        """Training and validation images: every n-th image is held out, at most a tenth; one image serves as both."""
        count = min(held_out, max(1, len(self.images) // 10))
        if len(self.images) == 1:
            return self, self
        chosen = sorted({round((i + 0.5) * len(self.images) / count - 0.5) for i in range(count)})
        rest = sorted(set(range(len(self.images))) - set(chosen))
        return self._part(rest), self._part(chosen)

    def _part(self, indices: list[int]) -> "ImageSet":
        missing = {new: self.missing[old] for new, old in enumerate(indices) if old in self.missing}
        return ImageSet([self.images[i] for i in indices], missing, self.skipped)


@checked
def read_images(
    folders: _Folders,
    *,
    bands: Count = 3,
    smallest: Count = 1,
    scale: Positive | None = None,
    without: Iterable[Path] = (),
) -> ImageSet:
    """Read all images below one or more folders (or single files): photographs, TIFFs, GeoTIFFs, MNIST's idx files.

    One-band images are replicated to ``bands``; of images with more, the first are taken, or for one band their mean.
    Missing pixels (NaN, GDAL's nodata, a photograph's transparency) are noted, and crops keep clear of them. Files
    that are broken, too small or out of range, or whose white nothing tells, are named in ``skipped``, never fatal.

    Args:
        folders: Where to look, subfolders included.
        bands: Number of bands of every image.
        smallest: Images with a shorter side are left out.
        scale: The value that is 1, where a type's largest is not; 8 bits have a scale of their own.
        without: Files that are left out.

    Raises:
        FileNotFoundError: If a folder does not exist.
        TypeError: If an argument is of a wrong type.
        ValueError: If no image can be used.

    Example:
        >>> import tempfile, torch
        >>> from pyro_vble.io.images import write_image
        >>> from pyro_vble.training import read_images
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = write_image(f"{folder}/x.png", torch.rand(3, 8, 9))
        ...     [image.shape for image in read_images(folder).images]
        [torch.Size([3, 8, 9])]
    """
    folders = _several_paths(folders)
    left_out = {path.resolve() for path in without}
    paths = [path for path in image_paths(folders) if path.resolve() not in left_out]

    def read(path: Path) -> list[tuple[np.ndarray, np.ndarray | None]] | str:
        try:
            return [_usable(array, bands, smallest) for array in _arrays(path, scale)]
        except Exception as error:  # every decoder has exceptions of its own, and no file is worth the rest
            return f"{error}" or type(error).__name__

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        results = dict(zip(paths, pool.map(read, paths), strict=True))
    skipped = {str(path): result for path, result in results.items() if isinstance(result, str)}
    found = [each for result in results.values() if not isinstance(result, str) for each in result]
    if not found:
        reasons = "".join(f"; {path}: {reason}" for path, reason in list(skipped.items())[:3])
        raise ValueError(
            f"Training needs images of at least {smallest} pixels a side ({', '.join(SUFFIXES)}, idx3-ubyte); of "
            f"{len(paths)} files in {', '.join(map(str, folders))} none can be used{reasons}."
        )
    eight_bits = all(array.dtype == np.uint8 for array, _ in found)
    images = [torch.from_numpy(array if eight_bits else _sixteen_bits(array)) for array, _ in found]
    return ImageSet(images, {i: torch.from_numpy(m) for i, (_, m) in enumerate(found) if m is not None}, skipped)


def image_paths(folders: Any) -> list[Path]:
    """Files of images in folders, their subfolders included.

    Raises:
        FileNotFoundError: If a folder does not exist.
    """
    return [path for folder in _several_paths(folders) for path in _image_files(folder)]


def whole_corners(missing: Tensor, side: int) -> Tensor:
    """Where the upper left corners of squares of ``side`` pixels lie that miss none, (H - side + 1, W - side + 1)."""
    counts = F.pad(missing.to(torch.int32).cumsum(0, dtype=torch.int32).cumsum(1, dtype=torch.int32), (1, 0, 1, 0))
    inside = counts[side:, side:] - counts[:-side, side:] - counts[side:, :-side] + counts[:-side, :-side]
    return inside == 0


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
    files = sorted(p for p in folder.rglob("*") if p.is_file() and (p.suffix.lower() in SUFFIXES or _is_idx(p)))
    # MNIST is often kept unpacked beside its archive: the same digits twice.
    return [path for path in files if not (path.suffix == ".gz" and path.with_suffix("") in files)]


def _is_idx(path: Path) -> bool:
    return "idx3-ubyte" in path.name


def _arrays(path: Path, scale: float | None) -> Iterable[np.ndarray]:
    """The images of one file, (C, H, W) in [0, 1] as floats with NaN for missing pixels, or as uint8."""
    if _is_idx(path):
        return _read_idx(path)[:, None]
    decoded = decode(path)
    eight_bits = decoded.array.dtype == np.uint8
    values = decoded.scaled(None if eight_bits else scale, path)  # 8 bits have a scale of their own
    if eight_bits and not np.isnan(values).any():
        return [np.rint(values * 255).astype(np.uint8)]
    darkest, brightest = np.nanmin(values, initial=0.0), np.nanmax(values, initial=0.0)
    if brightest > _BRIGHTEST:
        raise ValueError(f"images must lie in [0, 1]; values reach {brightest:.4g}; set data.scale in the recipe")
    if darkest < _DARKEST:
        raise ValueError(
            f"images must lie in [0, 1]; values reach {darkest:.4g}; if they mark missing pixels, name their value in "
            "the file (gdal_edit.py -a_nodata)"
        )
    return [values]


def _usable(array: np.ndarray, bands: int, smallest: int) -> tuple[np.ndarray, np.ndarray | None]:
    """An image in the bands asked for, as uint8 or uint16, and which of its pixels are missing, if any are."""
    if array.shape[0] > bands == 1:
        grey = array[:3].mean(0, keepdims=True, dtype=np.float32)
        array = np.rint(grey).astype(np.uint8) if array.dtype == np.uint8 else grey
    elif array.shape[0] == 1:
        array = np.repeat(array, bands, axis=0)
    elif array.shape[0] < bands:
        raise ValueError(f"{array.shape[0]} bands are fewer than the {bands} that are asked for")
    array = np.ascontiguousarray(array[:bands])
    if min(array.shape[1:]) < smallest:
        raise ValueError(f"{array.shape[2]}x{array.shape[1]} pixels are fewer than the {smallest} of a crop")
    if array.dtype == np.uint8:
        return array, None
    missing = np.isnan(array).any(axis=0)
    if missing.any() and not whole_corners(torch.from_numpy(missing), smallest).any():
        raise ValueError(f"no square of {smallest} pixels is free of missing ones")
    whole = np.nan_to_num(array, nan=0.0)
    return np.rint(np.clip(whole, 0, 1) * 65535).astype(np.uint16), missing if missing.any() else None


def _sixteen_bits(array: np.ndarray) -> np.ndarray:
    return array if array.dtype == np.uint16 else array.astype(np.uint16) * np.uint16(257)


def _read_idx(path: Path) -> np.ndarray:
    """The images of an idx file, gzipped or not, (n, rows, columns) uint8."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        header = file.read(16)
        if len(header) < 16:
            raise ValueError("an idx file of images has a header of 16 bytes")
        magic, *shape = struct.unpack(">4i", header)
        if magic != _IDX_IMAGES:
            raise ValueError(f"an idx file of images must start with {_IDX_IMAGES}; this one with {magic}")
        check_claim(path, *shape)
        size = math.prod(shape)
        content = file.read(size + 1)
    if len(content) != size:
        raise ValueError(
            f"an idx file of images must be whole; this one does not hold {'x'.join(map(str, shape))} bytes"
        )
    return np.frombuffer(content, np.uint8).reshape(shape).copy()
