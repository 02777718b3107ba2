"""What a raster says beside its pixels: where they lie on the ground, and what they stand for."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vble._extras import extra

# No longer true of what is written.
_DERIVED = (
    "STATISTICS_",
    "TIFFTAG_XRESOLUTION",
    "TIFFTAG_YRESOLUTION",
    "TIFFTAG_RESOLUTIONUNIT",
    "TIFFTAG_SOFTWARE",
    "EXIF_Orientation",
    "EXIF_Pixel",
)
# What there is of every band.
_OF_BANDS = ("descriptions", "band_tags", "scales", "offsets", "units", "colours")
# Tags of a position on the ground; those, and more, that GDAL understands; what it looks for beside a file.
_GEOREFERENCE = {33550, 34735}
_GDALS = {*_GEOREFERENCE, 33922, 34264, 42112, 50844}
_NODATA = 42113
_BESIDE = (".tfw", ".tifw", ".wld", ".rpb", ".RPB")
_LAYOUTS = ('{"shape"', "shape=", "ImageJ=", "<?xml", "<OME")


@dataclass(frozen=True)
class Raster:
    """Georeference and metadata of a raster, for files written from it.

    Attributes:
        rows: Height of the raster.
        columns: Width of the raster.
        crs: Coordinate reference system, a ``rasterio.crs.CRS``, or None.
        transform: From (column, row) to coordinates, an ``affine.Affine``, rotated or not; None if there is none.
        nodata: The value of missing pixels, if the file names one.
        unit: The file's value that was 1 when it was read: ``scales``, ``offsets``, ``units`` and ``nodata`` are of
            values on that scale.
        descriptions: Name of every band, or None.
        tags: Metadata of the whole.
        band_tags: Metadata of every band; statistics are left out, they would no longer be true.
        scales: What every band is multiplied by for a physical quantity.
        offsets: What is added then.
        units: The physical quantity's unit, or None.
        colours: What every band stands for, in GDAL's words.
        gcps: Ground control points, ``rasterio.control.GroundControlPoint``.
        gcps_crs: Their coordinate reference system.
        rpcs: Rational polynomial coefficients, a ``rasterio.rpc.RPC``, or None.
    """

    rows: int
    columns: int
    crs: Any = None
    transform: Any = None
    nodata: float | None = None
    unit: float = 1.0
    descriptions: tuple[str | None, ...] = ()
    tags: dict[str, str] = field(default_factory=dict)
    band_tags: tuple[dict[str, str], ...] = ()
    scales: tuple[float, ...] = ()
    offsets: tuple[float, ...] = ()
    units: tuple[str | None, ...] = ()
    colours: tuple[str, ...] = ()
    gcps: tuple[Any, ...] = ()
    gcps_crs: Any = None
    rpcs: Any = None

    @property
    def count(self) -> int:
        """Number of bands."""
        return len(self.descriptions)

    @property
    def is_placed(self) -> bool:
        """Whether it says where on the ground it lies."""
        return self.crs is not None or self.transform is not None or bool(self.gcps) or self.rpcs is not None

    @property
    def grid(self) -> tuple[float, float, float, float] | None:
        """(x of the left edge, pixel width, y of the top edge, pixel height); None without them, or if turned."""
        t = self.transform
        return None if t is None or t.b or t.d else (t.c, t.a, t.f, t.e)

    def enlarged(self, rows: int, columns: int) -> "Raster":
        """The raster of an image of this size over the same ground, whose pixels are smaller (or larger)."""
        down, right = rows / self.rows, columns / self.columns
        if down == right == 1:
            return self
        t = transform = self.transform
        if t is not None:
            transform = type(t)(t.a / right, t.b / down, t.c, t.d / right, t.e / down, t.f)
        points = tuple(_moved(point, down, right) for point in self.gcps)
        rpcs = None if self.rpcs is None else _scaled(self.rpcs, down, right)
        return replace(self, rows=rows, columns=columns, transform=transform, gcps=points, rpcs=rpcs)

    def cropped(self, row: int, column: int, rows: int, columns: int) -> "Raster":
        """The raster of a window of so many rows and columns, whose first pixel is at this row and column."""
        t = transform = self.transform
        if t is not None:
            x, y = t.a * column + t.b * row + t.c, t.d * column + t.e * row + t.f
            transform = type(t)(t.a, t.b, x, t.d, t.e, y)
        points = tuple(_moved(point, 1, 1, -row, -column) for point in self.gcps)
        rpcs = None if self.rpcs is None else _scaled(self.rpcs, 1, 1, -row, -column)
        return replace(self, rows=rows, columns=columns, transform=transform, gcps=points, rpcs=rpcs)

    def of_bands(self, indices: Sequence[int]) -> "Raster":
        """The raster with these of its bands, in this order, counted from 0."""
        return replace(self, **{name: tuple(getattr(self, name)[i] for i in indices) for name in _OF_BANDS})

    def of_widths(self) -> "Raster":
        """The raster of standard deviations: a width has the scale and the unit of what it is of, and no offset."""
        return replace(self, offsets=(0.0,) * self.count)

    def without_band(self, index: int) -> "Raster":
        """The raster without one of its bands."""
        return self.of_bands([i for i in range(self.count) if i != index])


def read_raster(path: Path) -> Raster | None:
    """Georeference and metadata of a TIFF, world files beside it included; None if it has none of them.

    Raises:
        ImportError: If there is something to read, and rasterio is not installed.
        ValueError: If GDAL cannot read a file that is georeferenced.
    """
    try:
        with extra("rasters"):
            import rasterio
            from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioIOError
    except ImportError:
        if _says_more(path):
            raise
        return None  # a photograph's TIFF

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            try:
                source = rasterio.open(path.absolute(), driver="GTiff")
            except UnicodeError:  # a name that is no UTF-8 text
                with rasterio.MemoryFile(path.read_bytes()) as memory, memory.open(driver="GTiff") as source:
                    return raster_of(source)
            with source:
                return raster_of(source)
        except (RasterioIOError, CRSError) as error:
            if _GEOREFERENCE & _tags(path).keys():
                raise ValueError(f"A georeferenced TIFF must be readable by GDAL; {path} is not ({error}).") from error
            return None


def raster_of(source: Any) -> Raster | None:
    """Georeference and metadata of an open ``rasterio`` data set of any driver; None if it has none of them."""
    transform = source.transform
    numbers = np.array(transform[:6])
    if source.transform.is_identity or not np.isfinite(numbers).all() or transform.is_degenerate:
        transform = None
    points, points_crs = source.gcps
    tags = {
        name: value
        for name, value in source.tags().items()
        if not name.startswith(_DERIVED) and not (name == "TIFFTAG_IMAGEDESCRIPTION" and value.startswith(_LAYOUTS))
    }
    raster = Raster(
        source.height,
        source.width,
        source.crs,
        transform,
        source.nodata,
        descriptions=tuple(source.descriptions),
        tags=tags,
        band_tags=tuple(
            {k: v for k, v in source.tags(band).items() if not k.startswith(_DERIVED)} for band in source.indexes
        ),
        scales=tuple(source.scales),
        offsets=tuple(source.offsets),
        units=tuple(source.units),
        colours=tuple(colour.name for colour in source.colorinterp),
        gcps=tuple(points),
        gcps_crs=points_crs,
        rpcs=source.rpcs,
    )
    says = raster.crs, transform, raster.rpcs, *raster.descriptions, *raster.units
    said = any(value is not None for value in (*says, raster.nodata)) or bool(points) or any(raster.band_tags)
    said = said or not all(name == "AREA_OR_POINT" or name.startswith("TIFFTAG_") for name in tags)
    return raster if said or set(raster.scales) != {1.0} or set(raster.offsets) != {0.0} else None


def _tags(path: Path) -> dict[int, Any]:
    import tifffile

    with tifffile.TiffFile(path) as file:
        return {tag.code: tag.value for tag in file.pages[0].aspage().tags}


def _says_more(path: Path) -> bool:
    """Whether a TIFF, or a file beside it, says anything that only GDAL understands."""
    tags = _tags(path)
    nodata = str(tags.get(_NODATA, "nan")).strip("\0 ").lower()
    beside = (path.with_name(path.name + ".aux.xml"), *(path.with_suffix(suffix) for suffix in _BESIDE))
    return bool(_GDALS & tags.keys()) or nodata != "nan" or any(file.exists() for file in beside)


def _moved(point: Any, down: float, right: float, row: float = 0, column: float = 0) -> Any:
    place = point.row * down + row, point.col * right + column
    return type(point)(*place, point.x, point.y, point.z, point.id, point.info)


def _scaled(rpcs: Any, down: float, right: float, row: float = 0, column: float = 0) -> Any:
    """Coefficients of an image whose pixels are smaller: their lines and samples count from a pixel's centre."""
    import copy

    rpcs = copy.copy(rpcs)
    rpcs.line_off = (rpcs.line_off + 0.5) * down - 0.5 + row
    rpcs.samp_off = (rpcs.samp_off + 0.5) * right - 0.5 + column
    rpcs.line_scale, rpcs.samp_scale = rpcs.line_scale * down, rpcs.samp_scale * right
    return rpcs
