"""Fitting a guide to a measurement: what is restored, Pyro's SVI, its ELBOs, and the draws of what was fitted."""

from pyro_vble._deprecated import moved
from pyro_vble.inference.adam import Pace, ScheduledAdam
from pyro_vble.inference.batches import fit_batch
from pyro_vble.inference.draws import Draws, DrawSource, draw
from pyro_vble.inference.elbo import DeviceELBO, DeviceTraceELBO, StickingTheLandingELBO
from pyro_vble.inference.evidence import elbo_by_image
from pyro_vble.inference.fitting import fit_guide, svi_of
from pyro_vble.inference.precision import resolve_device, resolve_precision
from pyro_vble.inference.problem import Problem
from pyro_vble.inference.rate_scale import RATE_SCALES, best_rate_scale
from pyro_vble.inference.result import Fit, FitDivergedError
from pyro_vble.inference.settings import FitSettings
from pyro_vble.inference.svi import FitSVI
from pyro_vble.inference.tempering import tempered

__getattr__ = moved(__name__, {"fit": "pyro_vble.fitting:fit"})

__all__ = [
    "RATE_SCALES",
    "DeviceELBO",
    "DeviceTraceELBO",
    "DrawSource",
    "Draws",
    "Fit",
    "FitDivergedError",
    "FitSVI",
    "FitSettings",
    "Pace",
    "Problem",
    "ScheduledAdam",
    "StickingTheLandingELBO",
    "best_rate_scale",
    "draw",
    "elbo_by_image",
    "fit_batch",
    "fit_guide",
    "resolve_device",
    "resolve_precision",
    "svi_of",
    "tempered",
]
