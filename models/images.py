"""The probabilistic program of observed images."""

import pyro
from pyro import poutine
from torch import Tensor, nn

from pyro_vble._tensors import shape_of_image
from pyro_vble.models.prior import Prior, check_prior


class ImageModel(nn.Module):
    r"""The generative model p(x|z) p(z|h) p(h) with its images observed: what training maximises the evidence of.

    .. math:: \log p(x) \ge E_{q(z,h|x)}\big[\log p(x|z) + \log p(z,h) - \log q(z,h|x)\big]

    Sites "h" and "z" (a VAE has only "z") and "x", in the plate "image" over the batch, dim -1. Together with the
    encoder as a guide, :class:`~pyro_vble.guides.UniformEncoder` or :class:`~pyro_vble.guides.GaussianEncoder`, any of
    Pyro's ELBOs is the training objective. The prior is held as it is, not copied: training changes it.

    References:
        | Auto-encoding variational Bayes (Kingma and Welling, 2014), eq. 3
        | https://arxiv.org/abs/1312.6114

    Args:
        prior: The generative model, :class:`CAE` or :class:`VAE`.

    Raises:
        TypeError: If the prior is no prior.

    Example:
        >>> import torch
        >>> from pyro.infer import Trace_ELBO
        >>> from pyro_vble import load_prior
        >>> from pyro_vble.guides import UniformEncoder
        >>> from pyro_vble.models import ImageModel
        >>> prior = load_prior("cae-bsd")
        >>> negative_elbo = Trace_ELBO()(ImageModel(prior), UniformEncoder(prior))
        >>> negative_elbo(torch.rand(2, 3, 64, 64)).backward()
    """

    def __init__(self, prior: Prior) -> None:
        check_prior(prior)
        super().__init__()
        self.prior = prior

    def forward(self, x: Tensor) -> Tensor:
        """The joint model of images (B, C, H, W); returns them."""
        with pyro.plate("image", len(x), dim=-1), poutine.condition(data={"x": x}):
            return self.prior(shape_of_image(x))
