"""Bayesian image restoration with generative priors, as Pyro programs.

>>> import deepinv, torch
>>> import pyro_vble as pv
>>> from pyro_vble.guides import VBLExz
>>> prior = pv.load_prior("cae-bsd")
>>> physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))
>>> y = torch.rand(1, 3, 64, 64)
>>> posterior = pv.restore(y, physics, prior, guide=VBLExz, num_steps=3, seed=0, progress=False)
>>> posterior.mmse_x(10).shape
torch.Size([1, 3, 64, 64])
"""

import importlib
from typing import TYPE_CHECKING, Any

from pyro_vble._version import __version__

if TYPE_CHECKING:
    from pyro_vble._allocator import keep_freed_memory
    from pyro_vble._one_at_a_time import program_lock
    from pyro_vble.diagnostics.comparison import compare_guides
    from pyro_vble.diagnostics.reference import reference_posterior
    from pyro_vble.fitting import fit
    from pyro_vble.inference import FitDivergedError
    from pyro_vble.io.cards import load_card
    from pyro_vble.io.priors import available_priors, load_prior
    from pyro_vble.io.zarr_store import open_zarr
    from pyro_vble.loading import load_posterior
    from pyro_vble.physics import calibrate_noise
    from pyro_vble.restoration import restore
    from pyro_vble.samples import Posterior
    from pyro_vble.scene import ScenePosterior, open_scene, restore_scene
    from pyro_vble.transfer import calibrate_mtf

__all__ = [
    "FitDivergedError",
    "Posterior",
    "ScenePosterior",
    "__version__",
    "available_priors",
    "calibrate_mtf",
    "calibrate_noise",
    "compare_guides",
    "fit",
    "keep_freed_memory",
    "load_card",
    "load_posterior",
    "load_prior",
    "open_scene",
    "open_zarr",
    "program_lock",
    "reference_posterior",
    "restore",
    "restore_scene",
]

# Where each public name lives. Resolved on first use: torch, pyro and deepinv take seconds to import.
_HOMES = {
    "FitDivergedError": "pyro_vble.inference",
    "Posterior": "pyro_vble.samples",
    "ScenePosterior": "pyro_vble.scene",
    "available_priors": "pyro_vble.io.priors",
    "calibrate_mtf": "pyro_vble.transfer",
    "calibrate_noise": "pyro_vble.physics",
    "compare_guides": "pyro_vble.diagnostics.comparison",
    "fit": "pyro_vble.fitting",
    "keep_freed_memory": "pyro_vble._allocator",
    "load_card": "pyro_vble.io.cards",
    "load_posterior": "pyro_vble.loading",
    "load_prior": "pyro_vble.io.priors",
    "open_scene": "pyro_vble.scene",
    "open_zarr": "pyro_vble.io.zarr_store",
    "program_lock": "pyro_vble._one_at_a_time",
    "reference_posterior": "pyro_vble.diagnostics.reference",
    "restore": "pyro_vble.restoration",
    "restore_scene": "pyro_vble.scene",
}
_SUBPACKAGES = (
    "baselines",
    "benchmark",
    "deepinv",
    "diagnostics",
    "distributions",
    "figures",
    "guides",
    "inference",
    "io",
    "metrics",
    "models",
    "page",
    "physics",
    "samples",
    "scene",
    "sensors",
    "training",
)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _SUBPACKAGES:
        return importlib.import_module(f"pyro_vble.{name}")
    raise AttributeError(f"module 'pyro_vble' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_SUBPACKAGES])
