"""Scenes in files, as GDAL reads them."""

import contextlib
import os
import threading
import warnings
from dataclasses import replace
from typing import Any

import numpy as np

from pyro_vble._arguments import checked
from pyro_vble._extras import extra
from pyro_vble.io.decoded import either, is_nodata, upright
from pyro_vble.io.rasters import Raster, raster_of
from pyro_vble.scene.source import (
    Bands,
    DataSetName,
    NoData,
    Source,
    SourceError,
    WindowOf,
    chosen,
    digest,
    in_float32,
    placed,
    reason,
)

_ORIENTATION = 274
_PHOTOGRAPHS = ("JPEG", "PNG", "WEBP")
# Files beside a scene's that change when it is looked at, and that say nothing but what its header has.
_OF_VIEWERS = (".aux.xml", ".ovr")
_TAKEN = ("ACQUISITIONDATETIME", "SATELLITEID")
_LOOKS = 8  # along each axis, at blocks of a band
_LOOK = 256  # pixels of a block's side
# GDAL's cache would else be a twentieth of the machine's memory, in every process. What it holds lies scattered between
# a fit's tensors, so it is small but for files in strips, of which neighbouring cells need the same.
_CACHE, _CACHE_OF_STRIPS = 32 * 2**20, 256 * 2**20


class RasterSource(Source):
    """A scene in a file that GDAL reads: GeoTIFF, JPEG 2000, VRT, photographs and many more.

    Missing are the pixels of a band's nodata value, those that a mask (within the file or beside it) or alpha leaves
    out, NaN and infinity. Alpha is no band, unless ``bands`` names it; as GDAL declares the fourth of four 8-bit bands
    as alpha, whatever it is, a band of a georeferenced file that is declared so and holds graded values is one (a look
    at up to 64 blocks tells). A palette is read as its colours, and a photograph is turned upright, as its camera says.

    Args:
        path: The file, or a name of a data set in GDAL's words.
        bands: Names (descriptions) of bands, or numbers counted from 1; all but alpha by default.
        nodata: Value of missing pixels, by default the one that the file names.
        window: (column offset, row offset, width, height): the scene is this part of the file.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If rasterio is not installed.
        SourceError: If GDAL cannot open it.
        TypeError: If an argument is of a wrong type.
        ValueError: If it holds no real numbers, or bands or window are not in it.

    Example:
        >>> import tempfile, torch
        >>> from pyro_vble.io.images import write_image
        >>> from pyro_vble.scene.raster_source import RasterSource
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = write_image(f"{folder}/x.tif", torch.tensor([[[0.0, torch.nan, 1.0]]]))
        ...     source = RasterSource(path, window=(1, 0, 2, 1))
        ...     source.shape, source.read(slice(0, 1), slice(0, 2)).tolist()
        ((1, 1, 2), [[[nan, 255.0]]])
    """

    @checked
    def __init__(
        self,
        path: DataSetName,
        bands: Bands = None,
        nodata: NoData | None = None,
        window: WindowOf = None,
    ) -> None:
        self.name = os.path.abspath(path) if os.path.exists(path) else os.fspath(path)
        if not os.path.exists(path) and not self.name.startswith("/vsi") and ":" not in self.name:
            raise FileNotFoundError(f"No raster at {path}; check the path.")
        self._handles = threading.local()
        self._cache = _CACHE
        dataset = self._opened()
        if any(columns == dataset.width for _, columns in dataset.block_shapes):
            self._cache = _CACHE_OF_STRIPS
        self._header = dataset.count, dataset.height, dataset.width
        self._check(dataset)
        raster = raster_of(dataset)
        if raster is not None:  # satellites' own files say in a domain apart when they were taken
            taken = {name: value for name, value in dataset.tags(ns="IMAGERY").items() if name in _TAKEN}
            raster = replace(raster, tags=taken | raster.tags)
        located = raster is not None and any((raster.crs, raster.transform, raster.gcps, raster.rpcs))
        self._orientation = 1 if located else _orientation(dataset)
        self._palette = _palette(dataset)
        self._alpha: int | None = None
        if self._palette is not None:
            indices = chosen(bands, (None,) * 3, self.name)
            self._indices, self._colours = [0], indices
            raster = None if raster is None else _of_colours(raster).of_bands(indices)
            self.dtype = np.dtype(np.uint8)
        else:
            alpha = _alpha(dataset, located)
            indices = chosen(bands, dataset.descriptions, self.name)
            if bands is None:
                indices = [i for i in indices if i != alpha]
            self._alpha = None if alpha in indices else alpha
            self._indices, self._colours = indices, None
            raster = None if raster is None else raster.of_bands(indices)
            self.dtype = np.result_type(*(dataset.dtypes[i] for i in indices))
        self._nodata = [dataset.nodatavals[i] if nodata is None else nodata for i in self._indices]
        self._masked = [i for i in self._indices if self._has_mask(dataset, i)]
        self.nodata = None if self._palette is not None else self._nodata[0]
        rows, columns = dataset.shape if self._orientation < 5 else dataset.shape[::-1]
        self._full = rows, columns
        self._window = placed(window, rows, columns, self.name)
        self.shape = len(indices), *self._window[2:]
        if self._orientation == 1:
            top, left, height, width = self._window
            self.window = left, top, width, height
        self.band_numbers = None if self._colours is not None else tuple(i + 1 for i in self._indices)
        if raster is not None:
            raster = replace(raster, rows=rows, columns=columns, nodata=self.nodata).cropped(*self._window)
        self.raster = raster

    def fingerprint(self) -> str:
        """What tells whether a source is still the one that a run began with: sizes and times of files, the header."""
        dataset = self._opened()
        files = []
        for file in sorted({self.name, *dataset.files}):
            if os.path.exists(file) and not file.endswith(_OF_VIEWERS):
                status = os.stat(file)
                files.append((file, status.st_size, status.st_mtime_ns))
        header = self.shape, self.dtype, self._window, self._indices, self._colours, self._nodata, self._orientation
        place = () if self.raster is None else (self.raster.crs, self.raster.transform)
        return digest(files, header, place)

    def _block(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        if not height or not width:
            return np.empty((self.shape[0], height, width), np.float32)
        dataset = self._opened()
        if (dataset.count, dataset.height, dataset.width) != self._header:
            raise SourceError("its size has changed since it was opened")
        top, left, height, width = self._lying(top + self._window[0], left + self._window[1], height, width)
        where: dict[str, Any] = {"window": _gdal().windows.Window(left, top, width, height)}
        with self._settings():
            array = dataset.read([i + 1 for i in self._indices], out_dtype=self.dtype, **where)
            hidden = np.zeros(array.shape, bool) if self._masked else None
            if hidden is not None:
                for i in self._masked:
                    hidden[np.equal(self._indices, i)] = dataset.read_masks(i + 1, **where) == 0
            if self._alpha is not None:
                hidden = either(hidden, dataset.read(self._alpha + 1, **where) == 0)
        if self._palette is not None:
            hidden = either(hidden, is_nodata(array, self._nodata[0]), self._palette[3, array] == 0)
            array = self._palette[self._colours][:, array[0]]
            return upright(in_float32(array, None, hidden), self._orientation)
        return upright(in_float32(array, self._nodata, hidden), self._orientation)

    def _lying(self, top: int, left: int, height: int, width: int) -> tuple[int, int, int, int]:
        """A window of the upright scene as one of the file."""
        if self._orientation in (2, 3, 6, 7):
            left = self._full[1] - left - width
        if self._orientation in (3, 4, 7, 8):
            top = self._full[0] - top - height
        return (top, left, height, width) if self._orientation < 5 else (left, top, width, height)

    def _opened(self) -> Any:
        """The data set of this thread and process: GDAL's may not be shared, nor outlive a fork."""
        process, dataset = getattr(self._handles, "own", (None, None))
        if process == os.getpid():
            return dataset
        gdal = _gdal()
        try:
            with warnings.catch_warnings(), self._settings():
                warnings.simplefilter("ignore", gdal.errors.NotGeoreferencedWarning)
                dataset = gdal.open(self.name)
        except (gdal.errors.RasterioError, OSError, UnicodeError) as error:
            raise SourceError(f"A raster must be readable by GDAL; {self.name} is not ({reason(error)}).") from error
        self._handles.own = os.getpid(), dataset
        return dataset

    def _settings(self) -> Any:
        return _gdal().Env(GDAL_CACHEMAX=self._cache)

    def _check(self, dataset: Any) -> None:
        if dataset.count == 0:
            inside = ", ".join(dataset.subdatasets[:4]) or "nothing"
            raise ValueError(f"A raster must have bands; {self.name} has none, but holds {inside}; name one of these.")
        kinds = sorted(set(dataset.dtypes))
        if any("complex" in kind for kind in kinds):
            raise ValueError(
                f"A raster must hold real numbers; {self.name} holds {', '.join(kinds)}; write its amplitude to a file."
            )

    def _has_mask(self, dataset: Any, index: int) -> bool:
        """Whether a band has a mask that is none of alpha's, nor only another word for its nodata value."""
        flags, kinds = set(dataset.mask_flag_enums[index]), _gdal().enums.MaskFlags
        return flags not in ({kinds.all_valid}, {kinds.nodata}) and kinds.alpha not in flags

    def __getstate__(self) -> dict[str, Any]:
        """All but the open data sets."""
        return {name: value for name, value in vars(self).items() if name != "_handles"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Nothing is opened before it is read."""
        vars(self).update(state, _handles=threading.local())


def _gdal() -> Any:
    with extra("geo"):
        import rasterio
        import rasterio.enums
        import rasterio.errors
        import rasterio.windows
    return rasterio


def _orientation(dataset: Any) -> int:
    """How a photograph, or a TIFF without georeference, lies in its file, in the words of EXIF."""
    found = 1
    try:
        if dataset.driver in _PHOTOGRAPHS:
            from PIL import Image

            with Image.open(dataset.name) as image:
                found = image.getexif().get(_ORIENTATION, 1)
        elif dataset.driver == "GTiff":
            import tifffile

            with tifffile.TiffFile(dataset.name) as file:
                tag = file.pages[0].aspage().tags.get(_ORIENTATION)
                found = 1 if tag is None else tag.value
    except Exception:  # what GDAL reads and others do not, or no file on this disk
        return 1
    return int(found) if found in range(1, 9) else 1


def _palette(dataset: Any) -> np.ndarray | None:
    """Red, green, blue and alpha (4, 2**bits) of a file of colours' numbers."""
    kind = np.dtype(dataset.dtypes[0])
    if dataset.count != 1 or dataset.colorinterp[0].name != "palette" or kind not in (np.uint8, np.uint16):
        return None
    table = np.zeros((4, np.iinfo(kind).max + 1), np.uint8)
    for number, colour in dataset.colormap(1).items():
        table[:, number] = colour
    return table


def _of_colours(raster: Raster) -> Raster:
    """What is said of a palette's image, of its three colours: nothing that was said of the colours' numbers."""
    three = replace(raster, nodata=None).of_bands([0, 0, 0])
    return replace(three, scales=(1.0,) * 3, offsets=(0.0,) * 3, units=(None,) * 3, colours=("red", "green", "blue"))


def _alpha(dataset: Any, located: bool) -> int | None:
    """Index of the band that is transparency."""
    declared = [i for i, colour in enumerate(dataset.colorinterp) if colour.name == "alpha"]
    if not declared or dataset.count < 2 or np.dtype(dataset.dtypes[declared[0]]).kind == "f":
        return None
    if not located:
        return declared[0]
    seen = _look(dataset, declared[0])
    highest = np.iinfo(dataset.dtypes[declared[0]]).max
    solid = len(seen) == 1 and seen[0] == highest
    return declared[0] if solid or (len(seen) == 2 and seen[0] == 0) else None


def _look(dataset: Any, index: int) -> np.ndarray:
    """The values that a band has in some of its blocks, from the first to the last."""
    seen = np.empty(0, dataset.dtypes[index])
    sides = zip(dataset.shape, dataset.block_shapes[index], strict=True)
    rows, columns = (
        [int(i) * block for i in np.unique(np.linspace(0, -(-size // block) - 1, _LOOKS).round())]
        for size, block in sides
    )
    for top in rows:
        for left in columns:
            size = min(_LOOK, dataset.width - left), min(_LOOK, dataset.height - top)
            window = _gdal().windows.Window(left, top, *size)
            with contextlib.suppress(_gdal().errors.RasterioIOError):  # told of when it is read for its pixels
                seen = np.union1d(seen, dataset.read(index + 1, window=window))
    return seen
