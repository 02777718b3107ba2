"""A scene's results as files that other programs read."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np

from pyro_vble._arguments import PathName, checked, instance_of
from pyro_vble.scene.posterior import ScenePosterior
from pyro_vble.scene.source import Source
from pyro_vble.scene.writing import write_cog

#: How files are called beside the restored one.
_SUFFIXES = {"mean": "", "std": "_std", "low": "_low", "high": "_high"}


def output_paths(path: Path, names: list[str]) -> dict[str, Path]:
    """Files of results, by result: the restored scene itself, the others with what they are in their names.

    Example:
        >>> from pathlib import Path
        >>> from pyro_vble.scene.outputs import output_paths
        >>> str(output_paths(Path("a.tif"), ["mean", "std", "sample_0"])["std"])
        'a_std.tif'
    """
    return {name: path.with_name(f"{path.stem}{_SUFFIXES.get(name, '_' + name)}{path.suffix}") for name in names}


@checked
def write_outputs(
    scene: ScenePosterior,
    path: PathName,
    source: Annotated[Any, instance_of("a Source, as open_source makes", Source)],
    *,
    names: list[str] | None = None,
    compress: str = "deflate",
) -> dict[str, Path]:
    """Write results as Cloud-Optimised GeoTIFFs, with what the input says of ground, bands and missing pixels.

    The restored scene and samples are in the input's type, deviations and interval bounds are float32, all in its
    numbers. Memory does not grow with the scene.

    Args:
        scene: The restored scene.
        path: The restored scene's file; the others stand beside it.
        source: What it was restored from, a :class:`~pyro_vble.scene.sources.Source`.
        names: Results to write; all by default.
        compress: How they are compressed.

    Returns:
        Paths by result.

    Raises:
        OSError: If the disk is full: files that are there are whole.
    """
    path = Path(path)
    names = names or sorted(scene.result_names, key=lambda name: (name != "mean", name))
    paths = output_paths(path, names)
    bands, rows, columns = scene.shape[1:]
    for name in names:
        exact = name == "mean" or name.startswith("sample_")
        raster = source.raster
        if raster is not None and name == "std":
            raster = raster.of_widths()
        dtype = source.dtype if exact else np.dtype(np.float32)
        # A bound or a deviation may well be the number that stands for a missing pixel.
        nodata = source.nodata if exact or source.dtype.kind == "f" else float("nan")
        write_cog(
            paths[name], scene.result(name), (bands, rows, columns), raster, dtype, nodata=nodata, compress=compress
        )
    return paths
