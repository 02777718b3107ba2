"""The Gaussian family."""

import pyro.distributions as dist
from torch import Tensor

from pyro_vble.guides.factor import LocationScaleFactor


class GaussianFactor(LocationScaleFactor):
    r"""A Gaussian with a free centre and standard deviation for every value.

    .. math:: q(v) = \prod_k \mathcal N(\bar v_k, a_k^2)
    """

    def forward(self) -> dist.TorchDistribution:
        """The distribution, its batch over the images."""
        return dist.Normal(self.loc, self.std).to_event(self.loc.dim() - 1)

    def at(self, noise: Tensor) -> Tensor:
        """v̄ + a·noise."""
        return self.loc + self.std * noise
