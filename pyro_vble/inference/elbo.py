"""The ELBO without a word to the host."""

from typing import Any

from pyro.distributions.util import scale_and_mask
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import kl_divergence


class DeviceELBO(TraceMeanField_ELBO):
    r"""Pyro's ``TraceMeanField_ELBO`` whose loss stays on its device.

    .. math:: E_q[\log p(x|z)] - \mathrm{KL}(q \| p)

    with KL terms in closed form where there is one and else by sampling, for reparameterised guides. Pyro's own turns
    the loss into a Python number and looks for NaN at every step, for which the host waits until the GPU is done; this
    one leaves both to the caller, so that the GPU is never waited for.

    Example:
        >>> import torch
        >>> from pyro_vble import load_prior
        >>> from pyro_vble.guides import UniformEncoder
        >>> from pyro_vble.inference import DeviceELBO
        >>> from pyro_vble.models import ImageModel
        >>> prior = load_prior("cae-bsd")
        >>> loss = DeviceELBO()(ImageModel(prior), UniformEncoder(prior))
        >>> loss(torch.rand(2, 3, 64, 64)).shape
        torch.Size([])
    """

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """The negative ELBO, a scalar tensor to be differentiated."""
        losses = [_negative_elbo(*traces) for traces in self._get_traces(model, guide, args, kwargs)]
        return sum(losses) / self.num_particles


class DeviceTraceELBO(Trace_ELBO):
    r"""Pyro's ``Trace_ELBO`` whose loss stays on its device.

    .. math:: E_q[\log p(y, x, z, h) - \log q(x, z, h)]

    by sampling, for reparameterised guides; see :class:`DeviceELBO`.

    Example:
        >>> import torch
        >>> from pyro_vble import load_prior
        >>> from pyro_vble.guides import UniformEncoder
        >>> from pyro_vble.inference.elbo import DeviceTraceELBO
        >>> from pyro_vble.models import ImageModel
        >>> prior = load_prior("cae-bsd")
        >>> DeviceTraceELBO()(ImageModel(prior), UniformEncoder(prior))(torch.rand(1, 3, 64, 64)).shape
        torch.Size([])
    """

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """The negative ELBO, a scalar tensor to be differentiated."""
        traces = self._get_traces(model, guide, args, kwargs)
        return sum(q.log_prob_sum() - p.log_prob_sum() for p, q in traces) / self.num_particles


def _negative_elbo(model_trace: Trace, guide_trace: Trace) -> Tensor:
    loss: Any = 0.0
    for name, site in model_trace.nodes.items():
        if site["type"] != "sample":
            continue
        if site["is_observed"]:
            loss = loss - site["log_prob_sum"]
            continue
        q = guide_trace.nodes[name]
        try:
            loss = loss + scale_and_mask(kl_divergence(q["fn"], site["fn"]), scale=q["scale"], mask=q["mask"]).sum()
        except NotImplementedError:
            loss = loss + q["log_prob_sum"] - site["log_prob_sum"]
    return loss
