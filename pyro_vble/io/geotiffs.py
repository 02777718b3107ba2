"""How a raster is said in a GeoTIFF."""

from typing import Any

import numpy as np

from pyro_vble._extras import extra
from pyro_vble.io.rasters import Raster


def geotiff_options(raster: Raster, shape: tuple[int, ...], dtype: np.dtype) -> dict[str, Any]:
    """What ``rasterio.open`` creates a GeoTIFF of this shape (C, H, W) with: all but compression, tiles and nodata.

    Three integer bands are RGB, unless the raster says something else of them; no band is transparency.
    """
    count, height, width = shape
    known = raster.count == count
    colour = count == 3 and dtype.kind in "ui" and (not known or raster.colours == ("red", "green", "blue"))
    options: dict[str, Any] = {
        "driver": "GTiff",
        "count": count,
        "height": height,
        "width": width,
        "dtype": dtype,
        "photometric": "rgb" if colour else "minisblack",
        "alpha": "unspecified",
        "BIGTIFF": "IF_SAFER",
    }
    if raster.transform is not None:
        options |= {"crs": raster.crs, "transform": raster.transform}
    return options


def describe(file: Any, raster: Raster, *, values: bool) -> None:
    """Write a raster's metadata to an open ``rasterio`` data set; what is said of values, if they are on its scale.

    What is said of bands is left out where the data set has another number of them.
    """
    with extra("rasters"):
        from rasterio.enums import ColorInterp

    if raster.gcps:
        file.gcps = (list(raster.gcps), raster.gcps_crs)
    elif raster.transform is None and raster.crs is not None:
        file.crs = raster.crs
    if raster.rpcs is not None:
        file.rpcs = raster.rpcs
    file.update_tags(**raster.tags)
    if raster.count != file.count:
        return
    file.descriptions = raster.descriptions
    for band, tags in enumerate(raster.band_tags, start=1):
        file.update_tags(band, **tags)
    # What GDAL declared as alpha without asking was read as a band.
    colours = [ColorInterp["undefined" if name == "alpha" else name] for name in raster.colours]
    if file.count > 1 and list(file.colorinterp) != colours:
        file.colorinterp = colours
    if values:
        file.scales, file.offsets = raster.scales, raster.offsets
        file.units = [unit or "" for unit in raster.units]
