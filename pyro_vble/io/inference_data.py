"""Posteriors as ArviZ InferenceData."""

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyro_vble._version import __version__

if TYPE_CHECKING:
    from arviz import InferenceData

    from pyro_vble.posterior import Posterior

_IMAGE_DIMS = ("image_batch", "band", "row", "col")


def to_inference_data(
    posterior: "Posterior",
    num_samples: int = 200,
    *,
    region: tuple[slice, slice] | None = None,
    truth: Tensor | None = None,
    seed: int | None = None,
) -> "InferenceData":
    """Posterior samples as ArviZ ``InferenceData``.

    Groups: ``posterior`` (variable ``image``, dims chain, draw, image_batch, band, row, col), with an operator
    ``posterior_predictive`` (``y``), ``observed_data`` (``y``), and ``constant_data`` (``truth``) if a truth is given.
    Independent draws of one guide are one chain.

    Args:
        posterior: The posterior.
        num_samples: Number of draws.
        region: Rows and columns to keep; the ``row`` and ``col`` coordinates say which. Cuts the image, the truth
            and measurements of the image's size.
        truth: The true image (B, C, H, W).
        seed: Seed of the draws.

    Raises:
        ValueError: If the region is empty or the truth has another shape.

    Example:
        >>> import torch, deepinv
        >>> import pyro_vble as pv
        >>> physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))
        >>> posterior = pv.restore(torch.rand(1, 3, 64, 64), physics, "cae-bsd", num_steps=2, seed=0, progress=False)
        >>> idata = posterior.to_arviz(10, region=(slice(0, 8), slice(4, 8)))
        >>> dict(idata.posterior["image"].sizes)
        {'chain': 1, 'draw': 10, 'image_batch': 1, 'band': 3, 'row': 8, 'col': 4}
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # announces ArviZ 1.0, at import
        import arviz as az

    truth = None if truth is None else torch.as_tensor(truth)
    if truth is not None and tuple(truth.shape) != posterior.image_shape:
        raise ValueError(f"truth must have the image's shape {posterior.image_shape}; received {tuple(truth.shape)}.")
    rows, columns = region or (slice(None), slice(None))
    coords = {
        "row": np.arange(posterior.image_shape[2])[rows],
        "col": np.arange(posterior.image_shape[3])[columns],
    }
    if not (len(coords["row"]) and len(coords["col"])):
        raise ValueError(
            f"region must hold at least one pixel of the {posterior.image_shape[2]}x{posterior.image_shape[3]} image; "
            f"received {region}."
        )

    draws = np.concatenate([_array(chunk[..., rows, columns]) for chunk in posterior._chunks(num_samples, seed)])
    same_size = posterior.y.dim() == 4 and posterior.y.shape[-2:] == posterior.image_shape[-2:]
    y_cut = (..., rows, columns) if same_size else ...
    y_dims = _IMAGE_DIMS if same_size else tuple(f"y_dim_{i}" for i in range(posterior.y.dim()))
    groups: dict[str, Any] = {
        "posterior": {"image": draws[None]},
        "observed_data": {"y": _array(posterior.y[y_cut])},
    }
    if posterior.model.physics is not None:
        replicas = [_array(chunk[y_cut]) for chunk in posterior._predictive_chunks(num_samples, seed)]
        groups["posterior_predictive"] = {"y": np.concatenate(replicas)[None]}
    if truth is not None:
        groups["constant_data"] = {"truth": _array(truth[..., rows, columns])}
    return az.from_dict(
        **groups,
        coords=coords,
        dims={"image": list(_IMAGE_DIMS), "truth": list(_IMAGE_DIMS), "y": list(y_dims)},
        attrs={
            "inference_library": "pyro_vble",
            "inference_library_version": __version__,
            "guide": type(posterior.guide).__name__,
            "prior": str(posterior.model.prior.name),
            "seed": str(posterior.seed if seed is None else seed),
            "sample_dims": ["chain", "draw"],
        },
    )


def _array(value: Tensor) -> np.ndarray:
    return value.detach().cpu().numpy()
