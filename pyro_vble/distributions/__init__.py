"""Probability distributions of compressive autoencoders, as Pyro distributions."""

from pyro_vble.distributions.autoregressive import AutoregressiveGaussianUniform
from pyro_vble.distributions.centred_uniform import CentredUniform
from pyro_vble.distributions.channel_gaussian import ChannelCorrelation, ChannelGaussian
from pyro_vble.distributions.factorized_entropy import FactorizedEntropy
from pyro_vble.distributions.gaussian_uniform import GaussianUniform
from pyro_vble.distributions.joined import Joined
from pyro_vble.distributions.poisson_gaussian import PoissonGaussian
from pyro_vble.distributions.scaled_poisson import ScaledPoisson
from pyro_vble.distributions.sensed_normal import SensedNormal

__all__ = [
    "AutoregressiveGaussianUniform",
    "CentredUniform",
    "ChannelCorrelation",
    "ChannelGaussian",
    "FactorizedEntropy",
    "GaussianUniform",
    "Joined",
    "PoissonGaussian",
    "ScaledPoisson",
    "SensedNormal",
]
