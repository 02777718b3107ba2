"""The Gaussian family whose channels are correlated."""

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vble.distributions import ChannelGaussian
from pyro_vble.guides.factor import LocationScaleFactor


class ChannelFactor(LocationScaleFactor):
    r"""A Gaussian with a free centre and standard deviation for every value, its channels correlated where they are.

    .. math:: q(v) = \prod_p \mathcal N\big(\bar v_p,\; \mathrm{diag}(a_p)\, C_p\, \mathrm{diag}(a_p)\big)

    over positions p, (B, M, h, w) or with more dimensions before M. The correlation matrices C_p stay as they start:
    those of a decoder that is linear there.

    Args:
        loc: Initial centres (B, *event).
        std: Initial standard deviation of each.
        gain: What C_p is made of besides U, (B, *event); see :class:`~pyro_vble.distributions.ChannelGaussian`.
        factor: U, (B, ..., M, r).
        informed: Whether the standard deviation starts near its optimum.
    """

    gain: Tensor
    factor: Tensor

    def __init__(self, loc: Tensor, std: Tensor, gain: Tensor, factor: Tensor, *, informed: bool = False) -> None:
        super().__init__(loc, std, informed=informed)
        self.register_buffer("gain", gain.clone())
        self.register_buffer("factor", factor.clone())

    def forward(self) -> dist.TorchDistribution:
        """The distribution, its batch over the images."""
        return self._channels().to_event(self.loc.dim() - 4)

    def at(self, noise: Tensor) -> Tensor:
        """v̄ + a·(a root of C)·noise."""
        return self._channels().at(noise)

    @torch.no_grad()
    def quantile(self, probability: Tensor) -> Tensor:
        """Elementwise quantiles, which know no correlation."""
        return dist.Normal(self.loc, self.std).icdf(probability)

    def _channels(self) -> ChannelGaussian:
        return ChannelGaussian(self.loc, self.std, self.gain, self.factor, validate_args=False)
