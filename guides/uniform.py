"""The uniform family, that of a compressive autoencoder's own encoder."""

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vble.distributions import CentredUniform
from pyro_vble.guides.factor import LocationScaleFactor

_WIDTH_PER_STD = 12**0.5


class UniformFactor(LocationScaleFactor):
    r"""A uniform distribution with a free centre and width for every value.

    .. math:: q(v) = \prod_k \mathcal U(\bar v_k \pm \tfrac{a_k}2), \qquad \mathrm{std}[v_k] = a_k / \sqrt{12}
    """

    bounds = (1.5e-5 / _WIDTH_PER_STD, 20.0 / _WIDTH_PER_STD)
    width_per_std = _WIDTH_PER_STD

    def forward(self) -> dist.TorchDistribution:
        """The distribution, its batch over the images."""
        return CentredUniform(self.loc, self.width).to_event(self.loc.dim() - 1)

    def at(self, noise: Tensor) -> Tensor:
        """v̄ + a·(Φ(noise) - 1/2)."""
        return self.loc + self.width * (torch.special.ndtr(noise) - 0.5)
