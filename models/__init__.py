"""The generative side: p(x|z) p(z|h) p(h) of compressive autoencoders, p(x|z) p(z) of VAEs, and p(y|x)."""

from pyro_vble.models.cae import CAE
from pyro_vble.models.convolutional_vae import convolutional_vae
from pyro_vble.models.images import ImageModel
from pyro_vble.models.prior import Prior
from pyro_vble.models.restoration import RestorationModel
from pyro_vble.models.standard_deviation import LearnedStandardDeviation, StandardDeviationDecoder
from pyro_vble.models.vae import VAE

__all__ = [
    "CAE",
    "VAE",
    "ImageModel",
    "LearnedStandardDeviation",
    "Prior",
    "RestorationModel",
    "StandardDeviationDecoder",
    "convolutional_vae",
]
