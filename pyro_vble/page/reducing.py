"""Large images made small enough for a page, and any image made fit to be looked at."""

import math
import warnings

import numpy as np

#: A page holds no more pixels than this, of three bands.
MOST_PIXELS = 2**20
# Of images that are not of 8 bits, this share of the values at either end is shown as black and white.
_CLIPPED = 0.005


def block_of(rows: int, columns: int, bands: int = 3) -> int:
    """Side of the square of pixels that one pixel of a page stands for.

    Example:
        >>> from pyro_vble.page.reducing import block_of
        >>> block_of(1024, 1024), block_of(3000, 4000)
        (1, 4)
    """
    return max(1, math.ceil(math.sqrt(rows * columns * max(bands, 3) / 3 / MOST_PIXELS)))


def reduced(values: np.ndarray, block: int) -> np.ndarray:
    """Averages of an image (C, H, W) over squares of pixels, of those that are known; (C, ceil(H / b), ceil(W / b)).

    Example:
        >>> import numpy as np
        >>> from pyro_vble.page.reducing import reduced
        >>> reduced(np.array([[[1.0, 3.0, 7.0]]]), 2)
        array([[[2., 7.]]])
    """
    if block == 1:
        return values
    bands, rows, columns = values.shape
    down, right = -rows % block, -columns % block
    padded = np.pad(values, ((0, 0), (0, down), (0, right)), constant_values=np.nan)
    squares = padded.reshape(bands, (rows + down) // block, block, (columns + right) // block, block)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # where all of a square is missing, so is its average
        return np.nanmean(squares, axis=(2, 4))


def shown_range(values: np.ndarray, dtype: np.dtype) -> tuple[float, float]:
    """The numbers that are shown as black and as white.

    Those of 8 bits are 0 and 255, those of floating point within [0, 1] are 0 and 1; of other images nearly the least
    and the largest of their numbers.

    Example:
        >>> import numpy as np
        >>> from pyro_vble.page.reducing import shown_range
        >>> shown_range(np.array([3.0]), np.dtype(np.uint8))
        (0.0, 255.0)
    """
    if dtype == np.uint8:
        return 0.0, 255.0
    known = values[np.isfinite(values)]
    if not known.size:
        return 0.0, 1.0
    low, high = (float(end) for end in np.quantile(known, (_CLIPPED, 1 - _CLIPPED)))
    if dtype.kind == "f" and low >= -0.1 and 0.2 < high <= 1.1:
        return 0.0, 1.0
    return (low, high) if high > low else (low, low + 1.0)


def shown(values: np.ndarray, bands: tuple[int, ...], ends: tuple[float, float]) -> np.ndarray:
    """Some bands of an image on the scale [0, 1] of what is shown."""
    low, high = ends
    return (values[list(bands)] - low) / (high - low)
