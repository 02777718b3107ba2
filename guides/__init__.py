"""The variational side: families q(z, h) and q(z, h) q(x|z) as Pyro guides, and the priors' own encoders."""

from pyro_vble.guides._mean_field import MeanFieldGuide
from pyro_vble.guides.gaussian_encoder import GaussianEncoder
from pyro_vble.guides.map_z import MAPz
from pyro_vble.guides.uniform_encoder import UniformEncoder
from pyro_vble.guides.vble import VBLE
from pyro_vble.guides.vble_xz import VBLExz

__all__ = ["VBLE", "GaussianEncoder", "MAPz", "MeanFieldGuide", "UniformEncoder", "VBLExz"]
