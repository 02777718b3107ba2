"""The ELBO of every image of a batch."""

from collections.abc import Callable

import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_vble.guides._parameters import parameter_scope
from pyro_vble.inference.precision import network_precision
from pyro_vble.inference.tempering import tempered


@torch.no_grad()
def elbo_by_image(
    model: Callable,
    guide: Callable,
    y: Tensor,
    *,
    num_draws: int = 4,
    kl_weight: float = 1.0,
    precision: str = "float32",
) -> Tensor:
    r"""The ELBO of every image of a batch, at λ = 1 a lower bound of log p(y), by sampling.

    .. math:: E_q[\log p(y|x)] + \lambda\, E_q\big[\log p(x, z, h) - \log q(x, z, h)\big]

    Args:
        model: The model, a Pyro program of y with the images in a plate at dim -1.
        guide: Its guide.
        y: Measurement (B, ...).
        num_draws: Number of draws of the guide.
        kl_weight: λ.
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
    total = torch.zeros(len(y), device=y.device)
    with network_precision(precision, y.device), parameter_scope(guide):
        for _ in range(num_draws):
            guide_trace = poutine.trace(tempered(guide, kl_weight)).get_trace(y)
            replayed = poutine.replay(tempered(model, kl_weight), trace=guide_trace)
            model_trace = poutine.trace(replayed).get_trace(y)
            total = total + _log_prob(model_trace) - _log_prob(guide_trace)
    return total / num_draws


def _log_prob(trace: poutine.Trace) -> Tensor:
    trace.compute_log_prob(site_filter=lambda name, site: not site_is_subsample(site))
    sites = (site for site in trace.nodes.values() if site["type"] == "sample" and not site_is_subsample(site))
    return sum(site["log_prob"] for site in sites)
