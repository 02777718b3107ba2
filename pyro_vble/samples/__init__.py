"""Samples of an image, and every statistic of them: of a fitted guide, of several, of Markov chains."""

from pyro_vble.samples.fitted import Fitted
from pyro_vble.samples.linearised import LinearisedPosterior
from pyro_vble.samples.mixture import Mixture
from pyro_vble.samples.posterior import Posterior
from pyro_vble.samples.reference import ReferencePosterior
from pyro_vble.samples.samples import Samples
from pyro_vble.samples.stored import StoredSamples

__all__ = [
    "Fitted",
    "LinearisedPosterior",
    "Mixture",
    "Posterior",
    "ReferencePosterior",
    "Samples",
    "StoredSamples",
]
