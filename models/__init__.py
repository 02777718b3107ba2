"""The generative side: p(x|z) p(z|h) p(h) of compressive autoencoders, p(x|z) p(z) of VAEs, and p(y|x)."""

from pyro_vble._deprecated import moved
from pyro_vble.models.cae import CAE
from pyro_vble.models.convolutional_vae import convolutional_vae
from pyro_vble.models.growing import grown
from pyro_vble.models.images import ImageModel
from pyro_vble.models.prior import Prior
from pyro_vble.models.restoration import RestorationModel
from pyro_vble.models.standard_deviation import DecoderStd, LearnedStandardDeviation
from pyro_vble.models.vae import VAE

__all__ = [
    "CAE",
    "VAE",
    "DecoderStd",
    "ImageModel",
    "LearnedStandardDeviation",
    "Prior",
    "RestorationModel",
    "convolutional_vae",
    "grown",
]

__getattr__ = moved(__name__, {"StandardDeviationDecoder": "pyro_vble.models:DecoderStd"})
