"""The encoder of a compressive autoencoder, as a guide."""

import pyro
from torch import Tensor, nn

from pyro_vble.distributions import CentredUniform
from pyro_vble.models.prior import Prior


class UniformEncoder(nn.Module):
    r"""The amortised guide of a compressive autoencoder: its encoder, with uniform noise in place of rounding.

    .. math:: q(z, h|x) = \mathcal U\big(\bar z(x) \pm \tfrac12\big)\,\mathcal U\big(\bar h(x) \pm \tfrac12\big)

    Its density is 1, so that the negative ELBO per pixel is ln 2 times the rate-distortion loss
    :math:`\alpha\, 255^2\, \mathrm{MSE} + \mathrm{bits\ per\ pixel}` up to the Gaussian's constant
    :math:`\tfrac C2 \log 2\pi\gamma^2`.

    References:
        | Variational image compression with a scale hyperprior (Ballé et al., 2018), eq. 5
        | https://arxiv.org/abs/1802.01436

    Args:
        prior: A :class:`~pyro_vble.models.CAE`; its ``encode`` gives the centres, and its parameters are this guide's.

    Example:
        >>> import torch
        >>> from pyro_vble import load_prior
        >>> from pyro_vble.guides import UniformEncoder
        >>> sites = UniformEncoder(load_prior("cae-bsd"))(torch.rand(2, 3, 64, 64))
        >>> {name: tuple(value.shape) for name, value in sites.items()}
        {'h': (2, 64, 1, 1), 'z': (2, 128, 4, 4)}
    """

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Sample the latents of images (B, C, H, W); returns them by site."""
        with pyro.plate("image", len(x), dim=-1):
            return {
                site: pyro.sample(site, CentredUniform(centre, centre.new_ones(())).to_event(centre.dim() - 1))
                for site, centre in self.prior.encode(x).items()
            }
