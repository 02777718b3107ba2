"""Small rasters of every kind, made where a test needs them."""

from pathlib import Path
from typing import Any

import numpy as np
import rasterio

NORTH_UP = rasterio.Affine(2.0, 0.0, 440000.0, 0.0, -2.0, 5000000.0)
TURNED = (
    rasterio.Affine.translation(440000, 5000000) @ rasterio.Affine.rotation(30) @ rasterio.Affine.scale(2, -3)
)  # fmt: skip


def values_of(dtype: Any, shape: tuple[int, int, int] = (1, 40, 50), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 120, shape).astype(dtype)


def save(path: Path, values: np.ndarray, *, mask: np.ndarray | None = None, **options: Any) -> Path:
    """A raster of values (C, H, W), as GTiff unless another driver is named."""
    options = {"driver": "GTiff", "crs": "EPSG:32631", "transform": NORTH_UP, **options}
    count, height, width = values.shape
    if options["driver"] == "GTiff":
        options.setdefault("photometric", "minisblack")
    inside = options.pop("internal_mask", True)
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=inside),
        rasterio.open(path, "w", count=count, height=height, width=width, dtype=values.dtype, **options) as file,
    ):
        file.write(values)
        if mask is not None:
            file.write_mask(mask)
    return path


def whole(source: Any) -> np.ndarray:
    return source.read(slice(0, source.shape[1]), slice(0, source.shape[2]))
