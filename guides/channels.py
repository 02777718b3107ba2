"""The Gaussian family whose channels are correlated."""

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vble.distributions import ChannelCorrelation, ChannelGaussian
from pyro_vble.guides.factor import LocationScaleFactor


class ChannelFactor(LocationScaleFactor):
    r"""A Gaussian with a free centre and standard deviation for every value, its channels correlated where they are.

    .. math:: q(v) = \prod_p \mathcal N\big(\bar v_p,\; \mathrm{diag}(a_p)\, C_p\, \mathrm{diag}(a_p)\big)

    over positions p, (B, M, h, w) or with more dimensions before M. The correlation matrices C_p stay as they start:
    those of a decoder that is linear there. Learnt with the rest, they gained 7 nats an image of the one
    problem it was tried on.

    Args:
        loc: Initial centres (B, *event).
        std: Initial standard deviation of each.
        gain: What C is made of, (B, *event); see :class:`~pyro_vble.distributions.ChannelCorrelation`.
        factor: U, (B, ..., M, r).
        informed: Whether the standard deviation starts near its optimum.
    """

    gain: Tensor
    factor: Tensor

    def __init__(self, loc: Tensor, std: Tensor, gain: Tensor, factor: Tensor, *, informed: bool = False) -> None:
        super().__init__(loc, std, informed=informed)
        self.register_buffer("gain", gain.clone())
        self.register_buffer("factor", factor.clone())
        self._known: Any = None

    def forward(self) -> dist.TorchDistribution:
        """The distribution, its batch over the images."""
        return ChannelGaussian(self.loc, self.std, self.correlation, validate_args=False).to_event(self.loc.dim() - 4)

    def at(self, noise: Tensor) -> Tensor:
        """v̄ + a·(a root of C)·noise."""
        return self.loc + self.std * self.correlation.correlated(noise)

    @torch.no_grad()
    def quantile(self, probability: Tensor) -> Tensor:
        """Elementwise quantiles, which know no correlation."""
        return dist.Normal(self.loc, self.std).icdf(probability)

    @property
    def correlation(self) -> ChannelCorrelation:
        """C, worked out anew only where what it is made of has changed: it is no part of a step."""
        made_of = self.gain, self.factor
        version = [(id(value), value._version) for value in made_of]
        if self._known is None or self._known[0] != version:
            with torch.inference_mode(False), torch.no_grad():
                # With what it was made of, so that no other tensor can get its id.
                self._known = version, made_of, ChannelCorrelation(*made_of)
        return self._known[2]
