"""The variational side: families q(z, h) and q(z, h) q(x|z) as Pyro guides, and the priors' own encoders.

A guide of this library is one :class:`Factor` a site; a factor's call returns a distribution.
"""

from pyro_vble.guides.channels import ChannelFactor
from pyro_vble.guides.constrained import ConstrainedFactor
from pyro_vble.guides.default import ACCURATE_GUIDE, DEFAULT_GUIDE, default_guide
from pyro_vble.guides.factor import Factor, LocationScaleFactor
from pyro_vble.guides.gaussian import GaussianFactor
from pyro_vble.guides.gaussian_encoder import GaussianEncoder
from pyro_vble.guides.map_z import MAPz
from pyro_vble.guides.mean_field import LatentImageError, MeanFieldGuide
from pyro_vble.guides.point import PointFactor
from pyro_vble.guides.uniform import UniformFactor
from pyro_vble.guides.uniform_encoder import UniformEncoder
from pyro_vble.guides.vble import VBLE
from pyro_vble.guides.vble_xz import VBLExz

__all__ = [
    "ACCURATE_GUIDE",
    "DEFAULT_GUIDE",
    "VBLE",
    "ChannelFactor",
    "ConstrainedFactor",
    "Factor",
    "GaussianEncoder",
    "GaussianFactor",
    "LatentImageError",
    "LocationScaleFactor",
    "MAPz",
    "MeanFieldGuide",
    "PointFactor",
    "UniformEncoder",
    "UniformFactor",
    "VBLExz",
    "default_guide",
]
