"""The encoder of a variational autoencoder, as a guide."""

from typing import Any

import pyro
import pyro.distributions as dist
from torch import Tensor, nn


class GaussianEncoder(nn.Module):
    r"""The amortised guide of a variational autoencoder: its encoder.

    .. math:: q(z|x) = \mathcal N\big(\mu(x), \mathrm{diag}\,\sigma(x)^2\big)

    References:
        | Auto-encoding variational Bayes (Kingma and Welling, 2014), eq. 9
        | https://arxiv.org/abs/1312.6114

    Args:
        prior: A :class:`~pyro_vble.models.VAE`; its ``encoder`` gives mean and standard deviation, and its parameters
            are this guide's.

    Example:
        >>> import torch
        >>> from pyro_vble.guides import GaussianEncoder
        >>> from pyro_vble.models import convolutional_vae
        >>> prior = convolutional_vae((1, 28, 28), num_latents=8, channels=(4, 8))
        >>> GaussianEncoder(prior)(torch.rand(5, 1, 28, 28))["z"].shape
        torch.Size([5, 8])
    """

    def __init__(self, prior: nn.Module) -> None:
        super().__init__()
        self.prior: Any = prior

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Sample the latents of images (B, C, H, W); returns them by site."""
        mean, std = self.prior.encoder(x)
        with pyro.plate("image", len(x), dim=-1):
            return {"z": pyro.sample("z", dist.Normal(mean, std).to_event(mean.dim() - 1))}
