"""Fitting a guide to a measurement."""

from pyro_vble.inference.batches import fit_batch
from pyro_vble.inference.draws import Draws, draw
from pyro_vble.inference.elbo import DeviceELBO
from pyro_vble.inference.evidence import elbo_by_image
from pyro_vble.inference.fitting import FitDivergedError, fit
from pyro_vble.inference.precision import resolve_device, resolve_precision
from pyro_vble.inference.rate_scale import RATE_SCALES, best_rate_scale
from pyro_vble.inference.settings import FitSettings
from pyro_vble.inference.tempering import tempered

__all__ = [
    "RATE_SCALES",
    "DeviceELBO",
    "Draws",
    "FitDivergedError",
    "FitSettings",
    "best_rate_scale",
    "draw",
    "elbo_by_image",
    "fit",
    "fit_batch",
    "resolve_device",
    "resolve_precision",
    "tempered",
]
