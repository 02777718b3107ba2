"""A page's content from the folder that ``pyro-vble restore`` or ``demo`` wrote."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vble.io.images import ImageFile, read_image, read_mask
from pyro_vble.page.content import Content, Picture
from pyro_vble.page.figures import figures_of
from pyro_vble.page.reducing import block_of, reduced, shown, shown_range
from pyro_vble.page.words import named_bands, notes_of, shown_bands, unit_of

_SUFFIXES = (".png", ".tif", ".npy")
_RESTORED = "The image after restoration."
_SAMPLES = "One of many images that would explain the measurement."
_MOVED = (
    "The image before restoration is not shown: it is not where it was ({path}); say with --before where it is now."
)
_CHANGED = (
    "The image before restoration is not shown: the file has changed since ({path}); say with --before what to show."
)


@dataclass(frozen=True)
class _Found:
    """Files of one restoration.

    Attributes:
        folder: Where they are.
        stem: What their names begin with.
        metrics: What metrics.json says.
    """

    folder: Path
    stem: str
    metrics: Mapping[str, Any]

    def path(self, name: str) -> Path | None:
        """The file of an image; None if there is none."""
        paths = (self.folder / f"{self.stem}{name}{suffix}" for suffix in _SUFFIXES)
        return next((path for path in paths if path.is_file()), None)

    def read(self, name: str) -> ImageFile | None:
        """An image in the file's own numbers."""
        path = self.path(name)
        return None if path is None else read_image(path, scale=1.0)

    def array(self, name: str, block: int) -> np.ndarray | None:
        """Its values (C, h, w), reduced."""
        image = self.read(name)
        return None if image is None else _array(image, block)


def of_folder(folder: Path, before: Path | None = None) -> Content:
    """What a page shows of a folder.

    Raises:
        FileNotFoundError: If it holds no restoration.
        ValueError: If a file of it cannot be read.
    """
    found = _found(folder)
    restored = found.read("restored")
    if restored is None:
        raise FileNotFoundError(
            f"{folder} holds no restoration ({found.stem}restored.png, .tif or .npy); give the output folder of "
            "pyro-vble restore or demo."
        )
    count, rows, columns = restored.values.shape[1:]
    block = block_of(rows, columns, count)
    value = _array(restored, block)
    std = found.array("std", block)
    lower, upper = _half_widths(found, value, block)
    bands = _shown_bands(restored)
    ends = shown_range(value[list(bands)], restored.dtype)
    pictures, notes = [], []
    for name, alt, file in _measured(found, before):
        if not file.is_file():
            notes.append(_MOVED.format(path=file))
            continue
        if before is None and _has_changed(file, found.metrics):
            notes.append(_CHANGED.format(path=file))
            continue
        pictures.append(Picture(name, alt, shown(_input(file, found.metrics), bands, ends)))
    place = len(pictures)
    pictures.append(Picture("Restored", _RESTORED, shown(value, bands, ends)))
    for number in (1, 2):
        sample = found.array(f"sample_{number}", block)
        if sample is not None:
            pictures.append(Picture(f"Sample {number}", _SAMPLES, shown(sample, bands, ends), sample=True))
    truth = found.folder / "truth.png"
    if truth.is_file():
        values = _array(read_image(truth, scale=1.0), block)
        pictures.append(Picture("Truth", "The image as it really was.", shown(values, bands, ends)))
    return Content(
        title=f"Restoration of {_title(found)}",
        lead=f"{columns} x {rows} pixels, restored with pyro-vble.",
        pictures=tuple(pictures),
        restored=place,
        value=value,
        std=std,
        lower=lower,
        upper=upper,
        bands=_band_names(restored, len(value)),
        unit=unit_of(restored.dtype, ends),
        step=1.0 if restored.dtype.kind in "ui" else 0.0,
        size=(rows, columns),
        block=block,
        figures=figures_of(found.metrics, found.stem),
        notes=(*notes, *notes_of(block, ends, restored.dtype)),
    )


def _found(folder: Path) -> _Found:
    file = folder / "metrics.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"{folder} holds no metrics.json, so it is no finished restoration; give the output folder of pyro-vble "
            "restore or demo."
        )
    try:
        metrics = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}); restore the image again.") from error
    if not isinstance(metrics, dict):
        raise ValueError(f"{file} is damaged; restore the image again.")
    # A demo restores with several guides; the last is the recommended one.
    guides = metrics.get("guides")
    stem = f"{list(guides)[-1].lower()}_" if isinstance(guides, dict) and guides else ""
    if not stem and "white" not in metrics:
        raise ValueError(
            f"{folder} was written by a version before 0.2, whose error bars are on another scale; restore the image "
            "again."
        )
    return _Found(folder, stem, metrics)


def _array(image: ImageFile, block: int) -> np.ndarray:
    return reduced(image.values[0].numpy(), block)


def _half_widths(found: _Found, value: np.ndarray, block: int) -> tuple[np.ndarray | None, np.ndarray | None]:
    """From the restoration to the ends of its interval."""
    symmetric = found.array("error_quantile_90", block)
    if symmetric is not None:
        return symmetric, symmetric
    low, high = found.array("low", block), found.array("high", block)
    if low is None or high is None:
        return None, None
    # Rounded to whole numbers the restoration may lie a little outside.
    return np.maximum(value - low, 0), np.maximum(high - value, 0)


def _measured(found: _Found, before: Path | None) -> list[tuple[str, str, Path]]:
    """The image before restoration."""
    told = found.metrics.get("input")
    file = before or (Path(told) if isinstance(told, str) else found.folder / "measurement.png")
    return [("Before", "The image before restoration.", file)]


def _has_changed(file: Path, metrics: Mapping[str, Any]) -> bool:
    """Whether a file is another than the one that was restored."""
    asked = metrics.get("asked")
    told = asked if isinstance(asked, Mapping) else {}
    status = file.stat()
    now = {"input_bytes": status.st_size, "input_modified": status.st_mtime_ns}
    return any(told.get(name, value) != value for name, value in now.items())


def _input(file: Path, metrics: Mapping[str, Any]) -> np.ndarray:
    image = read_image(file, scale=1.0, nodata=metrics.get("nodata"))
    values = image.values[0].numpy()
    mask = metrics.get("mask")
    if isinstance(mask, str) and Path(mask).is_file():
        observed = read_mask(mask)[0].numpy()
        if observed.shape[-2:] == values.shape[-2:]:
            values = np.where(observed, values, np.nan)
    return reduced(values, block_of(*values.shape[-2:]))


def _title(found: _Found) -> str:
    told = found.metrics.get("input")
    return Path(told).name if isinstance(told, str) else f"the demo's photograph ({found.metrics.get('image')})"


def _shown_bands(image: ImageFile) -> tuple[int, ...]:
    colours = () if image.raster is None else image.raster.colours
    return shown_bands(image.values.shape[1], colours)


def _band_names(image: ImageFile, count: int) -> tuple[str, ...]:
    described = () if image.raster is None else image.raster.descriptions
    return named_bands(described, count)
