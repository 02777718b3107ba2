"""Deprecated: :mod:`pyro_vble.samples`."""

from pyro_vble._deprecated import moved

__getattr__ = moved(__name__, {"EnsemblePosterior": "pyro_vble.samples:Mixture"})
