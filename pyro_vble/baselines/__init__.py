"""The methods that VBLE is compared with, one call each: (y, physics, ...) -> Samples."""

from pyro_vble.baselines.bay_if import bay_if
from pyro_vble.baselines.diffpir import diffpir
from pyro_vble.baselines.direct import direct, load_direct, train_direct
from pyro_vble.baselines.dpir import dpir
from pyro_vble.baselines.jpmap import jpmap
from pyro_vble.baselines.latent import csgm, map_z
from pyro_vble.baselines.map_x import map_tv, map_wavelet
from pyro_vble.baselines.pnp_ula import pnp_ula
from pyro_vble.baselines.sat_dpir import sat_dpir

__all__ = [
    "bay_if",
    "csgm",
    "diffpir",
    "direct",
    "dpir",
    "jpmap",
    "load_direct",
    "map_tv",
    "map_wavelet",
    "map_z",
    "pnp_ula",
    "sat_dpir",
    "train_direct",
]
