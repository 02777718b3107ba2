"""Posterior draws larger than memory: streamed to Zarr, opened lazily."""

import os
import shutil
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from pyro_vble.io.draw_stream import DrawStream
from pyro_vble.io.inference_data import from_datasets

if TYPE_CHECKING:
    from arviz import InferenceData

    from pyro_vble.posterior import Posterior


def to_zarr(
    posterior: "Posterior",
    path: str | os.PathLike,
    num_samples: int = 1000,
    *,
    region: tuple[slice, slice] | None = None,
    include: Collection[str] | None = None,
    truth: Tensor | None = None,
    coords: Mapping[str, np.ndarray] | None = None,
    seed: int | None = None,
) -> None:
    """Stream the same groups to a Zarr store, chunk by chunk: memory does not grow with the number of draws.

    :func:`open_zarr` opens it lazily. The store appears under its name when it is whole.

    Args:
        posterior: The posterior.
        path: Folder of the store.
        num_samples: Number of draws, of all chains together.
        region: As for :func:`to_inference_data`, like the rest.
        include: Groups to write.
        truth: The true image.
        coords: Coordinates.
        seed: Seed of the draws.

    Raises:
        FileExistsError: If there is something at ``path``.
        ValueError: As :func:`to_inference_data` does.

    Example:
        >>> import tempfile, torch, deepinv
        >>> import pyro_vble as pv
        >>> physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))
        >>> posterior = pv.restore(torch.rand(1, 3, 64, 64), physics, "cae-bsd", num_steps=2, seed=0, progress=False)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     posterior.to_zarr(f"{folder}/draws.zarr", 10, include=["posterior"])
        ...     pv.open_zarr(f"{folder}/draws.zarr").posterior["image"].shape
        (1, 10, 1, 3, 64, 64)
    """
    import zarr

    path = Path(path)
    if path.exists():
        raise FileExistsError(f"A store is not overwritten; {path} exists; remove it or choose another path.")
    source = DrawStream(posterior, num_samples, region, include, truth, coords, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
    options: dict[str, Any] = {"store": str(temporary), "consolidated": False}
    try:
        for index, datasets in enumerate(source.streamed()):
            for group, dataset in datasets.items():
                how = {"append_dim": "draw"} if index and group not in ("prior", "prior_predictive") else {"mode": "a"}
                dataset.to_zarr(group=group, **how, **options)
        for group, dataset in source.fixed().items():
            dataset.to_zarr(group=group, mode="a", **options)
        zarr.open_group(str(temporary), mode="a").attrs.update(source.attrs)
        temporary.chmod(0o755)
        os.rename(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def open_zarr(path: str | os.PathLike) -> "InferenceData":
    """Open a store that :func:`to_zarr` wrote: values are read when they are asked for.

    Raises:
        FileNotFoundError: If there is no such store.
    """
    import xarray as xr

    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"No Zarr store at {path}; give the path that Posterior.to_zarr wrote.")
    groups = sorted(child.name for child in path.iterdir() if child.is_dir())
    open_group = {"engine": "zarr", "consolidated": False, "cache": False}
    datasets = {group: xr.open_dataset(path, group=group, **open_group) for group in groups}
    return from_datasets(datasets, dict(xr.open_dataset(path, **open_group).attrs))
