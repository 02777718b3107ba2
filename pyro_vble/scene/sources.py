"""What scenes are read from: files and arrays, window by window."""

import os
from typing import Annotated, Any

import numpy as np

from pyro_vble._arguments import BrokenRuleError, Rule, checked
from pyro_vble.scene.array_source import ArraySource
from pyro_vble.scene.raster_source import RasterSource
from pyro_vble.scene.source import Bands, NoData, Source, SourceError, WindowOf

__all__ = ["ArraySource", "RasterSource", "Source", "SourceError", "open_source"]


def _thing(value: Any) -> Any:
    named = any(kind.__name__ == "DataArray" for kind in type(value).__mro__)
    if not named and not isinstance(value, str | os.PathLike | np.ndarray):
        raise BrokenRuleError("type")
    return value


@checked
def open_source(
    thing: Annotated[Any, Rule("a path, an xarray.DataArray, or a NumPy array (C, H, W)", _thing)],
    bands: Bands = None,
    nodata: NoData | None = None,
    window: WindowOf = None,
) -> Source:
    """What a scene is read from: a file, an ``xarray.DataArray`` or a NumPy array (C, H, W) or (H, W).

    Args:
        thing: The scene.
        bands: Names of bands, or numbers counted from 1; all by default.
        nodata: Value of missing pixels, by default the scene's own; NaN always is.
        window: (column offset, row offset, width, height) in pixels: the scene is this part.

    Raises:
        As :class:`RasterSource` and :class:`ArraySource` do.

    Example:
        >>> import numpy as np
        >>> from pyro_vble.scene.sources import open_source
        >>> open_source(np.zeros((4, 20, 30), np.uint16), bands=[4, 1], window=(10, 0, 20, 5)).shape
        (2, 5, 20)
    """
    if isinstance(thing, str | os.PathLike):
        return RasterSource(thing, bands, nodata, window)
    if isinstance(thing, np.ndarray):
        import xarray

        if thing.ndim not in (2, 3):
            raise ValueError(
                f"A scene's array must be (C, H, W) or (H, W); received shape {thing.shape}; leave out the batch."
            )
        thing = xarray.DataArray(thing, dims=("band", "y", "x")[-thing.ndim :])
    return ArraySource(thing, bands, nodata, window)
