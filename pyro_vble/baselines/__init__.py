"""The methods that VBLE is compared with, one call each: (y, physics, ...) -> Samples."""

from pyro_vble.baselines.diffpir import diffpir
from pyro_vble.baselines.dpir import dpir
from pyro_vble.baselines.map_x import map_tv, map_wavelet
from pyro_vble.baselines.pnp_ula import pnp_ula

__all__ = ["diffpir", "dpir", "map_tv", "map_wavelet", "pnp_ula"]
