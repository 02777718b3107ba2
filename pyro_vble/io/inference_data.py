"""Posteriors as ArviZ InferenceData."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyro_vble._arguments import Count, Seed, checked
from pyro_vble._extras import extra
from pyro_vble.io.draw_arguments import Coords, Groups, Region, Source, Truth
from pyro_vble.io.draw_stream import DrawStream

if TYPE_CHECKING:
    import xarray
    from arviz import InferenceData


@checked
def to_inference_data(
    posterior: Source,
    num_samples: Count | None = None,
    *,
    region: Region | None = None,
    include: Groups | None = None,
    truth: Truth | None = None,
    coords: Coords | None = None,
    seed: Seed | None = None,
) -> "InferenceData":
    """Draw from a posterior into ArviZ ``InferenceData`` (a ``DataTree`` where ArviZ 1 is installed).

    Its groups and their variables, which have the dims (chain, draw) first where they are draws:

    - ``posterior``: ``image`` (image_batch, band, row, col); with "latents" also ``z``, ``h``, ``x_decentered``;
      parameters inferred with the image, (image_batch)
    - ``posterior_predictive``: ``y``
    - ``log_likelihood``: ``y``: log p(y_i|x), in nats
    - ``sample_stats``: ``log_p``: log p(y, x, z, h); ``log_q``: log q(x, z, h), in nats (image_batch)
    - ``prior``, ``prior_predictive``: ``image`` and ``y``, ancestral samples, at most 20; with the parameters' own
    - ``observed_data``: ``y``
    - ``constant_data``: ``operator``, its description; ``truth`` if given

    Where values of y are missing, ``y`` is the row of the observed ones, along ``y_observed``, whose coordinates are
    their places in the flattened measurement (of the region).

    Independent draws of one guide are one chain; the fits of ``restore(..., num_fits=4)`` are four.

    Args:
        posterior: The posterior.
        num_samples: Number of draws, of all chains together; by default 200, or all where they are stored.
        region: Rows and columns to keep; the ``row`` and ``col`` coordinates say which. Cuts images, the truth and
            measurements of the image's size.
        include: Groups to make, of ``draw_stream.GROUPS``; by default all but "latents", without those that need an
            operator if there is none.
        truth: The true image (B, C, H, W).
        coords: Coordinates of ``row`` and ``col`` (a raster's own, say) and of ``band`` for the whole image; by
            default pixels, counted from 0.
        seed: Seed of the draws.

    Raises:
        ImportError: If ArviZ is not installed.
        TypeError: If an argument is of a wrong type.
        ValueError: If the region is empty, a group is unknown or needs the operator that a loaded posterior lacks, or
            truth or coordinates have another shape.

    Example:
        >>> import torch, deepinv
        >>> import pyro_vble as pv
        >>> physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))
        >>> posterior = pv.restore(torch.rand(1, 3, 64, 64), physics, "cae-bsd", num_steps=2, seed=0, progress=False)
        >>> idata = posterior.to_arviz(10, region=(slice(0, 8), slice(4, 8)))
        >>> dict(idata.posterior["image"].sizes)
        {'chain': 1, 'draw': 10, 'image_batch': 1, 'band': 3, 'row': 8, 'col': 4}
    """
    arviz()  # before the draws, if it is missing
    source = DrawStream(posterior, num_samples, region, include, truth, coords, seed)
    return from_datasets(drawn(source), source.attrs)


def drawn(source: DrawStream) -> dict[str, "xarray.Dataset"]:
    """All that a stream gives, by group."""
    import xarray as xr

    parts: dict[str, list[xr.Dataset]] = {}
    for datasets in source.streamed():
        for group, dataset in datasets.items():
            parts.setdefault(group, []).append(dataset)
    joined = {group: xr.concat(many, "draw", data_vars="minimal") for group, many in parts.items()}
    return joined | source.fixed()


def from_datasets(groups: Mapping[str, "xarray.Dataset"], attrs: dict[str, Any]) -> Any:
    """Groups as what the installed ArviZ works on."""
    az = arviz()
    if hasattr(az, "InferenceData"):
        return az.InferenceData(**groups, attrs=attrs)
    import xarray as xr

    tree = xr.DataTree.from_dict(dict(groups))
    tree.attrs = attrs
    return tree


def arviz() -> Any:
    """The package.

    Raises:
        ImportError: If it is not installed.
    """
    with quiet_arviz():
        import arviz
    return arviz


def write_netcdf(path: Path, groups: Mapping[str, "xarray.Dataset"], attrs: dict[str, Any]) -> None:
    """Write groups as ArviZ does, and ``arviz.from_netcdf`` reads; it takes no ArviZ."""
    import xarray as xr

    xr.Dataset(attrs=attrs).to_netcdf(path, mode="w", engine="h5netcdf")
    for group, dataset in groups.items():
        numbers = [name for name, values in dataset.variables.items() if values.dtype.kind in "biuf"]
        encoding = {name: {"zlib": True} for name in numbers}
        dataset.to_netcdf(path, mode="a", group=group, engine="h5netcdf", encoding=encoding)


@contextmanager
def quiet_arviz() -> Iterator[None]:
    """A scope to import ArviZ in: at import it announces its version 1."""
    with warnings.catch_warnings(), extra("diagnostics"):
        warnings.simplefilter("ignore", FutureWarning)
        yield
