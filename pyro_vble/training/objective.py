"""The training objective: the ELBO of observed images under the prior and its own encoder."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyro_vble.guides import GaussianEncoder, UniformEncoder
from pyro_vble.inference import DeviceELBO
from pyro_vble.models import CAE, ImageModel, Prior


def encoder_of(prior: Prior) -> nn.Module:
    """The prior's own encoder, as a guide."""
    return UniformEncoder(prior) if isinstance(prior, CAE) else GaussianEncoder(prior)


class NegativeELBO(nn.Module):
    r"""The negative ELBO of images, in bits per pixel.

    .. math:: -\frac{1}{BHW \ln 2}\, E_{q(z,h|x)}\big[\log p(x|z) + \log p(z,h) - \log q(z,h|x)\big]

    For a compressive autoencoder this is CompressAI's rate-distortion loss,
    :math:`\alpha\, 255^2\, \mathrm{MSE} + \mathrm{bits\ per\ pixel}`, plus the constant
    :math:`\tfrac{C}{2} \log_2 2\pi\gamma^2`.

    References:
        | Variational image compression with a scale hyperprior (Ballé et al., 2018), eq. 5
        | https://arxiv.org/abs/1802.01436

    Args:
        prior: The prior; its parameters that require gradients are trained.

    Example:
        >>> import torch
        >>> from pyro_vble import load_prior
        >>> from pyro_vble.training import NegativeELBO
        >>> NegativeELBO(load_prior("cae-bsd"))(torch.rand(2, 3, 64, 64)).shape
        torch.Size([])
    """

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self.prior = prior
        self.negative_elbo = DeviceELBO(max_plate_nesting=1)(ImageModel(prior), encoder_of(prior))

    def forward(self, x: Tensor) -> Tensor:
        """The negative ELBO of images (B, C, H, W), a scalar."""
        return self.negative_elbo(x) / (_pixels(x) * math.log(2))


@dataclass(frozen=True)
class Terms:
    """What the negative ELBO of a batch is made of; scalars on its device.

    Attributes:
        loss: Negative ELBO, bits per pixel.
        rate: KL(q(z,h|x) || p(z,h)), bits per pixel.
        mse: Mean squared error of D(z).
    """

    loss: Tensor
    rate: Tensor
    mse: Tensor


class SiteOfImages(Messenger):
    """Keeps p(x|z) and x as a run of the model meets them, to tell the terms of the ELBO apart."""

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] == "x" and msg["is_observed"]:
            self.p_x, self.x = msg["fn"], msg["value"]

    @torch.no_grad()
    def terms(self, loss: Tensor) -> Terms:
        """The terms of the negative ELBO whose value is ``loss``."""
        distortion = -self.p_x.log_prob(self.x).sum() / (_pixels(self.x) * math.log(2))
        mse = (self.p_x.mean - self.x).square().mean()
        return Terms(loss.detach(), loss.detach() - distortion, mse)


def _pixels(x: Tensor) -> int:
    return x.shape[0] * x.shape[-2] * x.shape[-1]
