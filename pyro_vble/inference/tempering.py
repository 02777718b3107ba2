"""The KL weight, as an effect handler."""

from collections.abc import Callable
from typing import Any

from pyro.poutine.messenger import Messenger


class _LatentScale(Messenger):
    """Scales the log-probability of every site that is not observed."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if not msg["is_observed"]:
            msg["scale"] = self.scale * msg["scale"]


def tempered(program: Callable, kl_weight: float) -> Callable:
    r"""A model or guide whose latent sites count ``kl_weight`` times.

    With both sides tempered the ELBO becomes :math:`E_q[\log p(y|x)] + \lambda E_q[\log p(z,h) - \log q(z,h)]`. It is
    ``poutine.scale`` restricted to latent sites, and unlike it takes λ = 0.

    Example:
        >>> import pyro, pyro.distributions as dist, torch
        >>> from pyro_vble.inference import tempered
        >>> model = lambda: pyro.sample("z", dist.Normal(0.0, 1.0))
        >>> trace = pyro.poutine.trace(tempered(model, 0.5)).get_trace()
        >>> bool(trace.log_prob_sum() == 0.5 * dist.Normal(0.0, 1.0).log_prob(trace.nodes["z"]["value"]))
        True
    """
    if kl_weight == 1:
        return program
    return _LatentScale(kl_weight)(program)
