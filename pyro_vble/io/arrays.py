"""NumPy's files."""

import os
from pathlib import Path

import numpy as np

from pyro_vble.io.decoded import Decoded, ImageFileError, check_claim, either, from_samples, is_nodata

_MOST_BANDS = 16


def decode_npy(path: Path, nodata: float | None) -> Decoded:
    """The samples of an array (H, W), (H, W, C), (C, H, W) or (1, C, H, W), with up to 16 bands.

    Nothing in the file tells the bands of three dimensions: they are the shorter of first and last.
    """
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(file)
        if dtype.hasobject:
            raise ImageFileError(f"An image must hold real numbers; {path} holds objects; convert it.")
        check_claim(path, *(shape or (0,)))
        if os.fstat(file.fileno()).st_size - file.tell() < dtype.itemsize * int(np.prod(shape)):
            raise ImageFileError(f"An image file must be complete; {path} ends before its {shape} values do.")
        file.seek(0)
        array = np.load(file, allow_pickle=False)
    array = _bands_first(array, path)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return from_samples(np.ascontiguousarray(array), path, missing=either(is_nodata(array, nodata)))


def _bands_first(array: np.ndarray, path: Path) -> np.ndarray:
    if array.ndim == 4 and len(array) == 1:
        array = array[0]
        if len(array) <= _MOST_BANDS:
            return array
    if array.ndim == 2:
        return array[None]
    if array.ndim != 3 or min(array.shape[0], array.shape[-1]) > _MOST_BANDS:
        raise ImageFileError(
            f"An array must have the shape (H, W), (H, W, C), (C, H, W) or (1, C, H, W), up to {_MOST_BANDS} bands; "
            f"{path} has {array.shape}; bring the image you mean into one of them."
        )
    return array.transpose(2, 0, 1) if array.shape[-1] < array.shape[0] else array
