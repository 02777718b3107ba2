"""A page's content from the files of a scene, by the overviews in them."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vble._extras import extra
from pyro_vble.page.content import Content, Figure, Picture
from pyro_vble.page.reducing import block_of, shown, shown_range
from pyro_vble.page.words import named_bands, notes_of, plain, shown_bands, unit_of


def of_scene(path: Path, before: Path | None = None) -> Content:
    """What a page shows of a scene, reduced to what a page holds, from OUT.tif and the files beside it.

    Raises:
        ImportError: If rasterio is not installed.
        ValueError: If it is no raster, or a file beside it has another size.
    """
    with extra("rasters"):
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning, RasterioIOError

    manifest = _manifest(path.with_suffix(".json"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            return _content(rasterio, path, before, manifest)
    except RasterioIOError as error:
        raise ValueError(
            f"A scene is a GeoTIFF that pyro-vble scene wrote; {path} cannot be read ({error}); give that, or the "
            "output folder of restore."
        ) from error


def _content(rasterio: Any, path: Path, before: Path | None, manifest: Mapping[str, Any]) -> Content:
    with rasterio.open(path) as file:
        rows, columns = file.shape
        block = block_of(rows, columns, file.count)
        size = -(-rows // block), -(-columns // block)
        value = _values(rasterio, file, size)
        dtype, colours, names = np.dtype(file.dtypes[0]), [c.name for c in file.colorinterp], file.descriptions
        bands = shown_bands(file.count, tuple(colours))
        ends = shown_range(value[list(bands)], dtype)
        pictures, notes = [], []
        told = before or _source(manifest)
        if told is not None and Path(told).is_file():
            with rasterio.open(told) as source:
                part = {} if before is not None else _part(manifest)
                values = _before(rasterio, source, file, size, bands, part.get("window"), part.get("bands"))
            pictures.append(Picture("Before", "The scene before restoration.", shown(values, _all(values), ends)))
        else:
            notes.append("The scene before restoration is not shown; say with --before where it is.")
    beside = {name: _beside(rasterio, path, name, (rows, columns), size) for name in ("std", "low", "high")}
    place = len(pictures)
    pictures.append(Picture("Restored", "The scene after restoration.", shown(value, bands, ends)))
    for number in (0, 1):
        sample = _beside(rasterio, path, f"sample_{number}", (rows, columns), size)
        if sample is not None:
            alt = "One of many scenes that would explain the measurement."
            pictures.append(Picture(f"Sample {number + 1}", alt, shown(sample, bands, ends), sample=True))
    low, high = beside["low"], beside["high"]
    bounded = low is not None and high is not None
    return Content(
        title=f"Restoration of {path.name if told is None else Path(told).name}",
        lead=f"{columns} x {rows} pixels, restored with pyro-vble.",
        pictures=tuple(pictures),
        restored=place,
        value=value,
        std=beside["std"] if bounded else None,
        lower=np.maximum(value - low, 0) if bounded else None,
        upper=np.maximum(high - value, 0) if bounded else None,
        bands=named_bands(tuple(names), len(value)),
        probability=float(_settings(manifest).get("probability", 0.9)),
        unit=unit_of(dtype, ends),
        step=1.0 if dtype.kind in "ui" and block == 1 else 0.0,
        size=(rows, columns),
        block=block,
        figures=_figures(manifest, beside["std"]),
        notes=(*notes, *notes_of(block, ends, dtype)),
    )


def _values(rasterio: Any, file: Any, size: tuple[int, int], bands: tuple[int, ...] | None = None, **of: Any) -> Any:
    """Averages of a raster over the squares that pixels of a page stand for, NaN where all of one is missing."""
    indexes = None if bands is None else [band + 1 for band in bands]
    count = file.count if bands is None else len(bands)
    average = rasterio.enums.Resampling.average
    read = file.read(indexes, out_shape=(count, *size), resampling=average, masked=True, out_dtype="float32", **of)
    return np.where(np.ma.getmaskarray(read), np.nan, read.data)


def _before(
    rasterio: Any,
    source: Any,
    file: Any,
    size: tuple[int, int],
    bands: tuple[int, ...],
    window: Any = None,
    numbers: Any = None,
) -> np.ndarray:
    """The part of a source that was restored, in the bands that are shown; no finer than it is.

    Args:
        rasterio: The package.
        source: The source, opened.
        file: The restored scene, opened.
        size: Of the page's pictures.
        bands: Which of the scene's bands are shown.
        window: Which part of the source was restored, (column, row, width, height), where the manifest says.
        numbers: Which of its bands, from 1, where the manifest says.
    """
    part: dict[str, Any] = {}
    rows, columns = source.shape
    if window is not None:
        part, (rows, columns) = {"window": rasterio.windows.Window(*window)}, (window[3], window[2])
    elif not source.transform.is_identity and not file.transform.is_identity:
        window = rasterio.windows.from_bounds(*file.bounds, transform=source.transform)
        part, (rows, columns) = {"window": window}, (round(window.height), round(window.width))
    names, own = list(source.descriptions), file.descriptions
    chosen = tuple(names.index(own[i]) if own[i] and own[i] in names else i for i in bands)
    if numbers is not None and len(numbers) == file.count:
        chosen = tuple(numbers[i] - 1 for i in bands)
    if max(chosen) >= source.count:
        chosen = shown_bands(source.count)[: len(bands)]
    return _values(rasterio, source, (min(rows, size[0]), min(columns, size[1])), chosen, **part)


def _all(values: np.ndarray) -> tuple[int, ...]:
    return tuple(range(len(values)))


def _beside(rasterio: Any, path: Path, name: str, shape: tuple[int, int], size: tuple[int, int]) -> np.ndarray | None:
    """What stands beside a scene, (C, h, w); None if there is none."""
    other = path.with_name(f"{path.stem}_{name}{path.suffix}")
    if not other.is_file():
        return None
    with rasterio.open(other) as file:
        if file.shape != shape:
            raise ValueError(f"{other} must have the size of {path.name}, {shape}; received {file.shape}; remove it.")
        return _values(rasterio, file, size)


def _manifest(path: Path) -> Mapping[str, Any]:
    """The properties of a STAC item beside a scene; empty if there is none."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    found = content.get("properties") if isinstance(content, dict) else None
    return found if isinstance(found, dict) else {}


def _settings(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    found = manifest.get("pyro_vble:settings")
    return found if isinstance(found, dict) else {}


def _source(manifest: Mapping[str, Any]) -> Path | None:
    told = manifest.get("pyro_vble:source")
    name = told.get("name") if isinstance(told, dict) else None
    return Path(name) if isinstance(name, str) else None


def _part(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Which window and bands of its source a scene is of, where the manifest says so in whole numbers."""
    told = manifest.get("pyro_vble:source")
    found = {name: told.get(name) for name in ("window", "bands")} if isinstance(told, dict) else {}
    whole = {
        name: value for name, value in found.items()
        if isinstance(value, list) and value and all(type(number) is int and number >= 0 for number in value)
    }  # fmt: skip
    if len(whole.get("window", [0] * 4)) != 4:
        del whole["window"]
    return whole


def _figures(manifest: Mapping[str, Any], std: np.ndarray | None) -> tuple[Figure, ...]:
    prior, settings = manifest.get("pyro_vble:prior"), _settings(manifest)
    failed = manifest.get("pyro_vble:failed_windows") or []
    mean = "" if std is None else plain(float(np.nanmean(std)))
    told = [
        Figure("Mean error bar", mean, "The standard deviation, averaged over the scene, in the file's numbers."),
        Figure("Sensor", str(manifest.get("pyro_vble:sensor") or "")),
        Figure("Prior", str(prior.get("name")) if isinstance(prior, dict) else ""),
        Figure("Samples", str(settings.get("samples", ""))),
        Figure("Tiles that failed", str(len(failed)) if failed else "", "They are missing in the result."),
        Figure("Made", str(manifest.get("pyro_vble:ended", ""))),
    ]
    return tuple(figure for figure in told if figure.value)
