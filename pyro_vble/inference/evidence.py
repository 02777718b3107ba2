"""The ELBO of every image of a batch."""

from collections.abc import Callable

import torch
from torch import Tensor

from pyro_vble.inference.draws import draw


def elbo_by_image(
    model: Callable, guide: Callable, y: Tensor, *, num_draws: int = 4, precision: str = "float32"
) -> Tensor:
    r"""The ELBO of every image of a batch, a lower bound of log p(y), by sampling.

    .. math:: E_q[\log p(y|x)] + E_q\big[\log p(x, z, h) - \log q(x, z, h)\big]

    Args:
        model: The :class:`~pyro_vble.models.RestorationModel`.
        guide: Its guide.
        y: Measurement (B, ...).
        num_draws: Number of draws of the guide.
        precision: "float32", or "bfloat16" for the networks.

    Returns:
        The ELBOs (B,), in nats.

    Example:
        >>> import torch, deepinv
        >>> from pyro_vble import load_prior
        >>> from pyro_vble.guides import VBLE
        >>> from pyro_vble.inference import elbo_by_image
        >>> from pyro_vble.models import RestorationModel
        >>> physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))
        >>> y = torch.rand(2, 3, 64, 64)
        >>> model = RestorationModel(load_prior("cae-bsd"), physics)
        >>> elbo_by_image(model, VBLE(model, y), y).shape
        torch.Size([2])
    """
    # One at a time: memory does not grow with the number of draws.
    weights = [draw(model, guide, y, precision=precision).log_weights for _ in range(num_draws)]
    return torch.cat(weights).mean(0)
