"""TIFF files: what their tags say of the samples."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vble.io.decoded import Decoded, ImageFileError, check_claim, either, from_samples, is_nodata, upright
from pyro_vble.io.photographs import decode_photograph

#: Little and big endian, and BigTIFF.
TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_REDUCED, _MASK = 1, 4  # bits of NewSubfileType
_GEOREFERENCE = (33550, 33922, 34264, 34735)
_ORIENTATION, _PROFILE = 274, 34675
_FAX = (2, 3, 4)  # compressions of CCITT, which tifffile leaves to others
_JPEG = (6, 7)
_WHITE_IS_0, _BLACK_IS_0, _RGB, _PALETTE, _TRANSPARENCY, _INKS, _YCBCR = range(7)
_UNREAD = {8: "CIELab", 9: "ICCLab", 10: "ITULab", 32803: "a colour filter array", 34892: "linear raw data"}
_AXES = {
    "Z": "slices",
    "T": "times",
    "Q": "pages",
    "I": "pages",
    "S": "samples",
    "C": "channels",
    "Y": "rows",
    "X": "columns",
}
_ASSOCIATED, _UNASSOCIATED = 1, 2  # kinds of alpha

# Spellings of float32's lowest number that tifffile complains of are read here.
logging.getLogger("tifffile").addFilter(lambda record: "GDAL_NODATA" not in record.getMessage())


def decode_tiff(path: Path, nodata: float | None) -> Decoded:
    """The samples of a TIFF of one image, as its tags say: photometric interpretation, palette, bits, orientation.

    All its bands are bands, but alpha. GDAL declares the fourth of four 8-bit bands as alpha, whatever it is: in a
    georeferenced file, alpha is what is declared so and has one value beside 0, or the largest everywhere. A
    georeferenced file is not turned by its orientation, as its coordinates are those of the file's rows and columns.
    """
    import tifffile

    with tifffile.TiffFile(path) as file:
        series, mask = _image_and_mask(file, path)
        page = series.keyframe
        check_claim(path, *series.shape)
        photometric, compression = int(page.photometric), int(page.compression)
        if photometric not in range(7):
            named = _UNREAD.get(photometric, f"of photometric interpretation {photometric}")
            raise ImageFileError(
                f"A TIFF must be grey, RGB, CMYK, YCbCr or with a palette; {path} is {named}; convert it."
            )
        declared = _declared_nodata(page) if nodata is None else nodata
        if compression in _FAX or (photometric == _YCBCR and compression not in _JPEG):
            return decode_photograph(path, declared, ("TIFF",))
        bits = page.bitspersample
        if not isinstance(bits, int):
            raise ImageFileError(
                f"All bands of a TIFF must have the same number of bits; {path} has {bits}; convert it."
            )
        array = _bands_first(series.asarray(), series.axes, path)
        hidden = _mask_beside(path, size=array.shape[1:]) if mask is None else mask.asarray() == 0
        profile = page.tags[_PROFILE].value if _PROFILE in page.tags and photometric != _INKS else None
        located = any(tag in page.tags for tag in _GEOREFERENCE)
        orientation = 1 if located or _ORIENTATION not in page.tags else int(page.tags[_ORIENTATION].value)
        colours = page.colormap if photometric == _PALETTE else None
        extra = tuple(int(kind) for kind in page.extrasamples)
        inks = int(page.tags[332].value) if 332 in page.tags else 1
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    missing = either(is_nodata(array, declared), hidden)
    alpha = _alpha(array, extra, located, path)
    if alpha is not None:
        missing = either(
            missing if missing is None or missing.ndim == 2 else np.delete(missing, alpha, 0), array[alpha] == 0
        )
        array = np.delete(array, alpha, 0)
    if colours is not None:
        array, bits = _looked_up(array, colours, path), None
        missing = None if missing is None else np.atleast_3d(missing.T).T.any(0)
    elif photometric == _INKS:
        if len(array) != 4 or inks != 1 or array.dtype.kind != "u" or bits != 8 * array.dtype.itemsize:
            raise ImageFileError(
                f"Inks of a TIFF must be C, M, Y and K of 8 or 16 bits; {path} has others; convert it to RGB."
            )
        array = _rgb_of_inks(array)
        missing = None if missing is None else np.atleast_3d(missing.T).T.any(0)
    decoded = from_samples(
        upright(array, orientation),
        path,
        bits=bits,
        missing=None if missing is None else upright(missing, orientation),
        inverted=photometric == _WHITE_IS_0,
        alpha=alpha,
    )
    return replace(decoded, profile=profile)


def _mask_beside(path: Path, size: tuple[int, ...]) -> np.ndarray | None:
    """Where GDAL's mask in a file beside the image, NAME.tif.msk, has no data: (H, W), or one a band; None without one.

    Raises:
        ImageFileError: If it is damaged, or of another size.
    """
    import tifffile

    beside = path.with_name(path.name + ".msk")
    if not beside.is_file():
        return None
    try:
        with tifffile.TiffFile(beside) as file:
            series = file.series[0]
            check_claim(beside, *series.shape)
            hidden = _bands_first(series.asarray(), series.axes, beside) == 0
    except ImageFileError:
        raise
    except Exception as error:  # every decoder has exceptions of its own
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ImageFileError(f"The mask beside {path.name}, {beside}, cannot be read ({reason}); remove it.") from error
    if hidden.shape[1:] != size:
        raise ImageFileError(
            f"A mask must be of its image's size, {size[0]}x{size[1]}; {beside} is {hidden.shape[1]}x"
            f"{hidden.shape[2]}; remove it, or make it anew."
        )
    return hidden[0] if len(hidden) == 1 else hidden


def _image_and_mask(file: Any, path: Path) -> tuple[Any, Any]:
    """The one image of a file, and the page that says where it has data, if there is one.

    Raises:
        ImageFileError: If there are several images.
    """
    len(file.pages)  # follows the chain of pages to its end, and finds one that goes in a circle
    if not file.series:
        raise ImageFileError(f"A TIFF must hold an image; {path} holds none.")
    image, mask = file.series[0], None
    size = image.keyframe.imagelength, image.keyframe.imagewidth
    for other in file.series[1:]:
        kind = int(other.keyframe.subfiletype)
        if kind & _MASK and not kind & _REDUCED and other.shape == size:
            check_claim(path, *other.shape)
            mask = other
        elif not kind & (_MASK | _REDUCED):
            raise ImageFileError(
                f"A TIFF must hold one image; {path} holds {len(file.series)}, of {image.shape} and {other.shape}; "
                "save the one you mean in a file of its own."
            )
    return image, mask


def _bands_first(array: np.ndarray, axes: str, path: Path) -> np.ndarray:
    """(C, H, W) of an array whose axes the file names."""
    bands = [i for i, axis in enumerate(axes) if axis in "SC" and array.shape[i] > 1]
    wrong = [axis for i, axis in enumerate(axes) if axis not in "SCYX" and array.shape[i] > 1]
    wrong += [axes[i] for i in bands[1:]]
    if wrong or axes.count("Y") != 1 or axes.count("X") != 1:
        sizes = ", ".join(f"{n} {_AXES.get(axis, axis)}" for axis, n in zip(axes, array.shape, strict=True))
        raise ImageFileError(
            f"A TIFF must hold one image of rows, columns and bands; {path} holds {sizes}; "
            "save each image on its own, with its bands in one page (tifffile: planarconfig='separate')."
        )
    order = [*bands, axes.index("Y"), axes.index("X")]
    rest = [i for i in range(array.ndim) if i not in order]
    array = np.squeeze(array.transpose(*order, *rest), axis=tuple(range(len(order), array.ndim)))
    return array if bands else array[None]


def _declared_nodata(page: Any) -> float | None:
    """The value of missing pixels that GDAL noted."""
    tag = page.tags.get("GDAL_NODATA")
    try:
        return None if tag is None else float(str(tag.value).rstrip("\0 "))
    except ValueError:
        return None


def _alpha(array: np.ndarray, extra: tuple[int, ...], located: bool, path: Path) -> int | None:
    """Which band is transparency."""
    declared = [i for i, kind in enumerate(extra, len(array) - len(extra)) if kind in (_ASSOCIATED, _UNASSOCIATED)]
    if not declared or array.dtype.kind == "f" or len(array) < 2:
        return None
    band = array[declared[0]]
    highest = band.max()
    graded = bool(((band != 0) & (band != highest)).any())
    full = array.dtype.kind == "b" or highest == np.iinfo(array.dtype).max
    if located and (graded or highest == 0 or not (full or (band == 0).any())):
        return None
    if graded and extra[declared[0] - len(array) + len(extra)] == _ASSOCIATED:
        raise ImageFileError(f"Colours of a TIFF must not be multiplied by its alpha; those of {path} are; convert it.")
    return declared[0]


def _looked_up(indices: np.ndarray, colours: np.ndarray | None, path: Path) -> np.ndarray:
    """The colours of a palette's indices (1, H, W), (3, H, W) of 8 bits if they are colours of 8 bits."""
    if colours is None or len(indices) != 1 or int(indices.max()) >= colours.shape[1]:
        raise ImageFileError(f"Indices of a TIFF's palette must lie in it; those of {path} do not.")
    table = np.asarray(colours, dtype=np.uint16)
    for step in (257, 256):  # as the standard has it, and as some programs write it
        if not (table % step).any():
            table = (table // step).astype(np.uint8)
            break
    return np.ascontiguousarray(table[:3, indices[0]])


def _rgb_of_inks(array: np.ndarray) -> np.ndarray:
    """Cyan, magenta, yellow and black as RGB, without a colour profile."""
    white = np.float32(np.iinfo(array.dtype).max)
    light = 1 - array[3] / white
    return np.stack([np.rint((white - ink) * light) for ink in array[:3]]).astype(array.dtype)
