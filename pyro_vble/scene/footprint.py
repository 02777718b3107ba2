"""Where on Earth a scene lies."""

from typing import Annotated, Any

import numpy as np

from pyro_vble._arguments import checked, instance_of
from pyro_vble._extras import extra
from pyro_vble.io.rasters import Raster
from pyro_vble.scene.source import is_gdals

_A_SIDE = 21  # points: straight lines of a projection are curves on the ground
_DIGITS = 9  # a tenth of a millimetre


@checked
def footprint(
    raster: Annotated[Any, instance_of("a pyro_vble.io.rasters.Raster", Raster)],
) -> tuple[dict[str, Any], list[float]] | None:
    """The outline of a raster in WGS 84, as GeoJSON (longitude, latitude), and its box (west, south, east, north).

    By its transform, rotated or not, or else its ground control points, or else its rational polynomials at their own
    mean height. Counter-clockwise; in two parts where it lies across the 180th meridian, and its west is then larger
    than its east, as GeoJSON (RFC 7946, sections 3.1.9 and 5.2) has it.

    Returns:
        Outline and box; None if the raster does not say where it lies.

    Raises:
        ImportError: If rasterio is not installed.

    Example:
        >>> import rasterio
        >>> from pyro_vble.io.rasters import Raster
        >>> from pyro_vble.scene.footprint import footprint
        >>> north_up = rasterio.Affine(0.5, 0.0, 10.0, 0.0, -0.5, 50.0)
        >>> footprint(Raster(4, 6, rasterio.CRS.from_epsg(4326), north_up))[1]
        [10.0, 48.0, 13.0, 50.0]
    """
    with extra("geo"):
        import rasterio.warp
    try:
        found = _ring(raster)
        if found is None or not np.isfinite(found[0]).all():
            return None
        points, crs = found
        outline = {"type": "Polygon", "coordinates": [points.tolist()]}
        outline = rasterio.warp.transform_geom(crs, "EPSG:4326", outline)
    except Exception as error:
        if not is_gdals(error):
            raise
        return None  # a system of no place on Earth, or a place outside the system
    parts = [outline["coordinates"]] if outline["type"] == "Polygon" else outline["coordinates"]
    rings = [_counter_clockwise(np.asarray(part[0], float)[:, :2]) for part in parts]
    if not rings or not all(np.isfinite(ring).all() for ring in rings):
        return None
    rings = [ring.round(_DIGITS) for ring in rings]
    everything = np.concatenate(rings)
    south, north = everything[:, 1].min(), everything[:, 1].max()
    west, east = everything[:, 0].min(), everything[:, 0].max()
    if len(rings) > 1 and west == -180 and east == 180:
        west = min(ring[:, 0].min() for ring in rings if ring[:, 0].max() == 180)
        east = max(ring[:, 0].max() for ring in rings if ring[:, 0].min() == -180)
    box = [float(number) for number in (west, south, east, north)]
    if len(rings) == 1:
        return {"type": "Polygon", "coordinates": [rings[0].tolist()]}, box
    return {"type": "MultiPolygon", "coordinates": [[ring.tolist()] for ring in rings]}, box


def _ring(raster: Raster) -> tuple[np.ndarray, Any] | None:
    """Points (n, 2) along a raster's edge, the first again at the end, and their coordinate reference system."""
    with extra("geo"):
        from rasterio.transform import GCPTransformer, RPCTransformer

    along = np.linspace(0, 1, _A_SIDE)[:-1]
    nought, one = np.zeros_like(along), np.ones_like(along)
    columns = raster.columns * np.concatenate((nought, along, one, 1 - along, [0]))
    rows = raster.rows * np.concatenate((along, one, 1 - along, nought, [0]))
    if raster.transform is not None and raster.crs is not None:
        t = raster.transform
        x, y = t.a * columns + t.b * rows + t.c, t.d * columns + t.e * rows + t.f
        return np.stack((x, y), -1), raster.crs
    if raster.gcps and raster.gcps_crs is not None:
        with GCPTransformer(list(raster.gcps)) as transformer:
            return np.stack(transformer.xy(rows, columns, offset="ul"), -1), raster.gcps_crs
    if raster.rpcs is not None:
        heights = np.full_like(rows, raster.rpcs.height_off)
        with RPCTransformer(raster.rpcs) as transformer:
            return np.stack(transformer.xy(rows, columns, heights, offset="ul"), -1), "EPSG:4326"
    return None


def _counter_clockwise(ring: np.ndarray) -> np.ndarray:
    x, y = (ring - ring[0]).T
    return ring if (x[:-1] * y[1:] - x[1:] * y[:-1]).sum() > 0 else ring[::-1]
