"""Deprecated: :mod:`pyro_vble.samples`."""

from pyro_vble._deprecated import moved

__getattr__ = moved(__name__, {"Posterior": "pyro_vble.samples:Posterior"})
