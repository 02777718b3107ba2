"""Fitting a guide to a measurement."""

from pyro_vble.inference.elbo import DeviceELBO
from pyro_vble.inference.fitting import FitDivergedError, fit
from pyro_vble.inference.precision import resolve_device, resolve_precision
from pyro_vble.inference.settings import FitSettings
from pyro_vble.inference.tempering import tempered

__all__ = ["DeviceELBO", "FitDivergedError", "FitSettings", "fit", "resolve_device", "resolve_precision", "tempered"]
