"""Posterior draws larger than memory: streamed to Zarr, opened lazily."""

from pathlib import Path
from typing import Any

from pyro_vble._arguments import Count, PathName, Seed, brief, checked
from pyro_vble._extras import extra
from pyro_vble.io.atomic import atomic_folder
from pyro_vble.io.draw_arguments import Coords, Groups, Region, Source, Truth
from pyro_vble.io.draw_stream import DrawStream
from pyro_vble.io.inference_data import arviz, from_datasets

# Draws where nobody says how many, and as many as one likes can be had.
_NUM_SAMPLES = 1000


@checked
def to_zarr(
    posterior: Source,
    path: PathName,
    num_samples: Count | None = None,
    *,
    region: Region | None = None,
    include: Groups | None = None,
    truth: Truth | None = None,
    coords: Coords | None = None,
    seed: Seed | None = None,
) -> None:
    """Stream the same groups to a Zarr store, chunk by chunk: memory does not grow with the number of draws.

    :func:`open_zarr` opens it lazily. The store appears under its name when it is whole.

    Args:
        posterior: The posterior.
        path: Folder of the store.
        num_samples: Number of draws, of all chains together; by default 1000, or all where they are stored.
        region: As for :func:`to_inference_data`, like the rest.
        include: Groups to write.
        truth: The true image.
        coords: Coordinates.
        seed: Seed of the draws.

    Raises:
        FileExistsError: If there is something at ``path``.
        ImportError: If Zarr is not installed.
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
    with extra("zarr"):
        import zarr
    with atomic_folder(path) as temporary:
        options: dict[str, Any] = {"store": str(temporary), "consolidated": False}
        num_samples = num_samples or posterior.stored or _NUM_SAMPLES
        source = DrawStream(posterior, num_samples, region, include, truth, coords, seed)
        for index, datasets in enumerate(source.streamed()):
            for group, dataset in datasets.items():
                how = {"append_dim": "draw"} if index and group not in ("prior", "prior_predictive") else {"mode": "a"}
                dataset.to_zarr(group=group, **how, **options)
        for group, dataset in source.fixed().items():
            dataset.to_zarr(group=group, mode="a", **options)
        zarr.open_group(str(temporary), mode="a").attrs.update(source.attrs)


@checked
def open_zarr(path: PathName) -> Any:
    """Open a store that :func:`to_zarr` wrote, as ArviZ's InferenceData: values are read when they are asked for.

    Raises:
        FileNotFoundError: If there is no such folder.
        ImportError: If Zarr or ArviZ is not installed.
        ValueError: If it is no whole store.
    """
    import xarray as xr

    with extra("zarr"):
        import zarr  # noqa: F401, xarray's engine
    arviz()
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"No Zarr store at {path}; give the path that Posterior.to_zarr wrote.")
    groups = sorted(child.name for child in path.iterdir() if child.is_dir())
    open_group = {"engine": "zarr", "consolidated": False, "cache": False}
    try:
        datasets = {group: xr.open_dataset(path, group=group, **open_group) for group in groups}
        return from_datasets(datasets, dict(xr.open_dataset(path, **open_group).attrs))
    except Exception as error:  # Zarr raises anything, by what is missing or damaged
        raise ValueError(
            f"A Zarr store must be a whole folder that Posterior.to_zarr wrote; {path} is not "
            f"({type(error).__name__}: {brief(str(error))}); write it anew, or copy it again."
        ) from error
