"""What made a restored scene: a STAC item that catalogues read."""

import importlib.metadata
import json
import math
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import NoneType
from typing import Annotated, Any

import numpy as np

from pyro_vble._arguments import BrokenRuleError, PathName, Rule, checked, instance_of
from pyro_vble._extras import extra
from pyro_vble._version import __version__
from pyro_vble.io.atomic import atomic_path
from pyro_vble.io.rasters import Raster, raster_of
from pyro_vble.scene.footprint import footprint

PROCESSING = "https://stac-extensions.github.io/processing/v1.2.0/schema.json"
PROJECTION = "https://stac-extensions.github.io/projection/v2.0.0/schema.json"
RASTER = "https://stac-extensions.github.io/raster/v2.0.0/schema.json"
#: What the products of a scene are called, and what they are.
PRODUCTS = {
    "restored": "Restored scene: mean of the posterior samples",
    "standard-deviation": "Standard deviation of every pixel",
    "low": "Lower bound of every pixel's interval",
    "high": "Upper bound of every pixel's interval",
    "posterior": "Variational posterior, from which samples are drawn",
}
_PACKAGES = ("torch", "pyro-ppl", "deepinv", "compressai", "numpy", "dask", "rasterio", "zarr")
_MEMBERS = ("type", "stac_version", "id", "geometry", "properties", "links", "assets")
# When a scene was taken, and when its file was made if nothing says more.
_TAKEN = re.compile(r"acquisition|sensing|datetimeoriginal", re.IGNORECASE)
_FILED = "TIFFTAG_DATETIME"
_TIME = re.compile(r"(\d{4})[:/-](\d\d)[:/-](\d\d)(?:[T ]+(\d\d):(\d\d)(?::(\d\d)(?:\.\d+)?)?)?")
_ZONE = re.compile(r"([+-]\d\d):?(\d\d)$")


@dataclass(frozen=True)
class Making:
    """What a restored scene was made of, and how.

    Attributes:
        started: When the run began, with its time zone.
        ended: When it ended.
        prior: Name or path of the prior.
        prior_checksum: SHA-256 of its file.
        sensor: The sensor's settings, or its name.
        settings: Of the fit and of the tiles, as JSON can hold them.
        seeds: By what they are of.
        failed: Windows (column offset, row offset, width, height) that could not be restored and are missing.
        source: What was restored.
        source_fingerprint: Its :meth:`~pyro_vble.scene.sources.Source.fingerprint`.
        source_window: Which part of it, (column offset, row offset, width, height); None where that is not known.
        source_bands: Which of its bands, from 1; None likewise.
    """

    started: datetime
    ended: datetime
    prior: str
    prior_checksum: str | None = None
    sensor: Any = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    seeds: Mapping[str, int] = field(default_factory=dict)
    failed: Sequence[tuple[int, int, int, int]] = ()
    source: str | None = None
    source_fingerprint: str | None = None
    source_window: tuple[int, int, int, int] | None = None
    source_bands: tuple[int, ...] | None = None


def _products(value: Any) -> dict[str, Path]:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise BrokenRuleError("type")
    if not value:
        raise BrokenRuleError("value")
    return {name: Path(path) for name, path in value.items()}


@checked
def write_manifest(
    path: PathName,
    products: Annotated[Any, Rule("a mapping from products' names to paths, with at least one", _products)],
    raster: Annotated[Any, instance_of("a pyro_vble.io.rasters.Raster, or None", Raster, NoneType)],
    making: Annotated[Any, instance_of("a Making", Making)],
) -> Path:
    """Write what made a scene as a STAC item (version 1.1), validated and read back; returns its path.

    With the extensions processing (versions of all software; what was done, in words), projection where there is a
    coordinate reference system, and raster for bands with scales and offsets. What they have no field for is in
    properties that begin with ``pyro_vble:``.

    Args:
        path: Where to, ``.json``. Its stem is the item's name.
        products: Paths by name; :data:`PRODUCTS` says what the names mean, and others are told as data. A ``.tif`` is
            read for its bands; a ``.zarr`` is a store. They are referred to relative to the item.
        raster: Georeference of the products: the geometry is its :func:`~pyro_vble.scene.footprint.footprint`, null
            where it has none. ``datetime`` is the time of acquisition by its tags, in UTC unless they say a zone, else
            the time its file was made by its tags, else the end of the processing.
        making: What made it.

    Raises:
        ImportError: If pystac or rasterio is not installed.
        OSError: If it cannot be written.
        TypeError: If an argument is of a wrong type.
        ValueError: If JSON cannot hold a setting, or the item is no valid one.

    Example:
        >>> import datetime, json, pathlib, tempfile
        >>> from pyro_vble.scene.manifest import Making, write_manifest
        >>> time = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     products = {"posterior": f"{folder}/x.zarr"}
        ...     path = write_manifest(f"{folder}/x.json", products, None, Making(time, time, "cae-bsd"))
        ...     item = json.loads(path.read_text())
        >>> item["id"], item["geometry"], item["properties"]["datetime"], item["assets"]["posterior"]["href"]
        ('x', None, '2026-01-02T00:00:00Z', './x.zarr')
    """
    with extra("geo"):
        import pystac

    path = Path(path)
    place = None if raster is None else footprint(raster)
    taken = None if raster is None else acquired(raster.tags)
    properties, extensions = _processing(making), [PROCESSING]
    if raster is not None and raster.crs is not None and raster.transform is not None:
        properties |= _projection(raster)
        extensions.append(PROJECTION)
    geometry, box = (None, None) if place is None else place
    item = pystac.Item(path.stem, geometry, box, _utc(taken or making.ended), properties, stac_extensions=extensions)
    for name, product in products.items():
        asset = _asset(name, product, path.parent)
        if any("raster:scale" in band for band in asset.extra_fields.get("bands", ())) and RASTER not in extensions:
            item.stac_extensions.append(RASTER)
        item.add_asset(name, asset)
    content = item.to_dict(include_self_link=False, transform_hrefs=False)
    try:
        text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ValueError(f"Settings must be what JSON can hold, and finite ({error}); write them as text.") from error
    validate(json.loads(text))
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
        pystac.Item.from_dict(json.loads(temporary.read_text(encoding="utf-8")))
    return path


def validate(content: dict[str, Any]) -> None:
    """Validate an item by the core schema that pystac brings, where jsonschema is installed; else by its structure.

    Schemas of extensions are only on the web, and are not asked for.

    Raises:
        ValueError: If it is not valid.
    """
    with extra("geo"):
        import pystac
        from pystac.validation.stac_validator import JsonSchemaSTACValidator

    lacking = [name for name in _MEMBERS if name not in content]
    if lacking or "datetime" not in content["properties"] or (content["geometry"] is None) == ("bbox" in content):
        what = f"it has no {', '.join(lacking)}" if lacking else "its datetime, or its geometry and box, are not"
        raise ValueError(f"A manifest must be a valid STAC item; {what}.")
    try:
        validator = JsonSchemaSTACValidator()
    except ImportError:
        return
    try:
        validator.validate_core(content, pystac.STACObjectType.ITEM, content["stac_version"])
    except pystac.STACValidationError as error:
        said = " ".join(str(error).split())[:300]
        raise ValueError(f"A manifest must be a valid STAC item; this one is not ({said}).") from error


def acquired(tags: Mapping[str, str]) -> datetime | None:
    """When a scene was taken, by its tags; when its file was made, if no tag says more; None if none does.

    Example:
        >>> from pyro_vble.scene.manifest import acquired
        >>> tags = {"TIFFTAG_DATETIME": "2025:01:01 00:00:00", "ACQUISITION_TIME": "2024-05-06T07:08:09+02:00"}
        >>> acquired(tags).isoformat()
        '2024-05-06T07:08:09+02:00'
    """
    told = [value for name, value in sorted(tags.items()) if _TAKEN.search(name)]
    return next(filter(None, map(_time, (*told, tags.get(_FILED, "")))), None)


def _time(text: str) -> datetime | None:
    found = _TIME.search(text)
    if found is None:
        return None
    try:
        time = datetime(*(int(part or 0) for part in found.groups()), tzinfo=UTC)
        zone = _ZONE.search(text[found.end() :]) if found[4] else None
        return time if zone is None else datetime.fromisoformat(f"{time:%Y-%m-%dT%H:%M:%S}{zone[1]}:{zone[2]}")
    except ValueError:
        return None  # a month 00, and the like


def _processing(making: Making) -> dict[str, Any]:
    versions = {"pyro-vble": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    failed = [list(window) for window in making.failed]
    return {
        "created": _text(making.ended),
        "processing:software": versions,
        "processing:lineage": f"Bayesian restoration by variational inference, with the prior {making.prior}",
        "pyro_vble:started": _text(making.started),
        "pyro_vble:ended": _text(making.ended),
        "pyro_vble:prior": {"name": making.prior, "sha256": making.prior_checksum},
        "pyro_vble:sensor": making.sensor,
        "pyro_vble:settings": dict(making.settings),
        "pyro_vble:seeds": dict(making.seeds),
        "pyro_vble:failed_windows": failed,
        "pyro_vble:source": {
            "name": making.source,
            "fingerprint": making.source_fingerprint,
            "window": None if making.source_window is None else list(making.source_window),
            "bands": None if making.source_bands is None else list(making.source_bands),
        },
    }


def _projection(raster: Raster) -> dict[str, Any]:
    authority, t = raster.crs.to_authority(), raster.transform
    return {
        "proj:code": None if authority is None else ":".join(authority),
        **({"proj:wkt2": raster.crs.to_wkt(version="WKT2_2019")} if authority is None else {}),
        "proj:shape": [raster.rows, raster.columns],
        "proj:transform": [float(number) for number in t[:6]],
    }


def _asset(name: str, product: Path, folder: Path) -> Any:
    with extra("geo"):
        import pystac

    href = os.path.relpath(os.path.abspath(product), os.path.abspath(folder)).replace(os.sep, "/")
    href = href if href.startswith("../") else f"./{href}"
    kinds = {".tif": pystac.MediaType.COG, ".tiff": pystac.MediaType.COG, ".zarr": pystac.MediaType.VND_ZARR}
    fields = {"bands": _bands(product)} if product.suffix in (".tif", ".tiff") else {}
    roles = ["data", name] if name in PRODUCTS else ["data"]
    return pystac.Asset(href, PRODUCTS.get(name, name), None, kinds.get(product.suffix), roles, fields)


def _bands(product: Path) -> list[dict[str, Any]]:
    """What a GeoTIFF says of its bands."""
    import warnings

    with extra("geo"):
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(product) as file:
            raster, dtypes = raster_of(file), file.dtypes
    bands = []
    for place, dtype in enumerate(dtypes):
        band: dict[str, Any] = {"data_type": np.dtype(dtype).name}
        if raster is not None:
            name, unit = raster.descriptions[place], raster.units[place]
            band |= {"name": name} if name else {}
            band |= {"unit": unit} if unit else {}
            if raster.nodata is not None:
                band["nodata"] = raster.nodata if math.isfinite(raster.nodata) else str(raster.nodata)
            if (raster.scales[place], raster.offsets[place]) != (1.0, 0.0):
                band |= {"raster:scale": raster.scales[place], "raster:offset": raster.offsets[place]}
        bands.append(band)
    return bands


def _utc(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def _text(time: datetime) -> str:
    return _utc(time).isoformat(timespec="seconds").replace("+00:00", "Z")
