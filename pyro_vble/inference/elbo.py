"""The ELBOs of a fit: Pyro's own, two without a word to the host, and one that sticks the landing."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import kl_divergence

from pyro_vble._traces import nodes_of
from pyro_vble.guides.abilities import suited_elbo
from pyro_vble.guides.parameters import StoredGuide
from pyro_vble.inference.settings import FitSettings


def elbo_for(guide: Callable, settings: FitSettings, *, reparameterised: bool, on_cuda: bool) -> Trace_ELBO:
    """The ELBO of a fit, by its name in the settings: one of Pyro's, or on CUDA its like that never waits."""
    name = suited_elbo(guide) if settings.elbo == "auto" else settings.elbo
    if name == "stl":
        kind = StickingTheLandingELBO
    elif name == "mean_field":
        kind = DeviceELBO if on_cuda and reparameterised else TraceMeanField_ELBO
    else:
        kind = DeviceTraceELBO if on_cuda and reparameterised else Trace_ELBO
    particles = settings.num_particles
    return kind(num_particles=particles, vectorize_particles=particles > 1, max_plate_nesting=1)


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
        traces = self._get_traces(model, guide, args, kwargs)
        return _mean((_negative_elbo(p, q) for p, q in traces), self.num_particles)


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
        return _mean((q.log_prob_sum() - p.log_prob_sum() for p, q in traces), self.num_particles)


class StickingTheLandingELBO(DeviceTraceELBO):
    r"""The ELBO whose gradient leaves out the score of the guide, for reparameterised guides.

    .. math:: \nabla_\phi\, \big[\log p(y, z_\phi(\varepsilon)) - \log q_{\bar\phi}(z_\phi(\varepsilon))\big],
        \qquad \bar\phi = \phi \text{ without gradient}

    The score's mean is zero, so that the gradient stays unbiased; its variance vanishes as q nears the posterior. For
    guides without KL terms in closed form (correlated ones) it is the quieter estimator at the optimum.

    References:
        | Sticking the landing: simple, lower-variance gradient estimators for variational inference (Roeder, Wu and
          Duvenaud, 2017), section 3
        | https://arxiv.org/abs/1703.09194

    Raises:
        ValueError: If the guide is a normalising flow, whose density at a value needs an inverse that is not there.

    Example:
        >>> import deepinv, torch
        >>> import pyro_vble as pv
        >>> from pyro.infer.autoguide import AutoLowRankMultivariateNormal
        >>> physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))
        >>> y = torch.rand(1, 3, 64, 64)
        >>> how = {"elbo": "stl", "num_steps": 2, "progress": False}
        >>> pv.restore(y, physics, "cae-bsd", guide=AutoLowRankMultivariateNormal, **how).elbo.shape
        torch.Size([2])
    """

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
        model_trace, guide_trace = super()._get_trace(model, guide, args, kwargs)
        _check_inverses(guide_trace)
        with _detached_parameters(guide):
            again = poutine.trace(poutine.replay(guide, trace=guide_trace)).get_trace(*args, **kwargs)
        again.compute_log_prob()
        return model_trace, again


@contextlib.contextmanager
def _detached_parameters(guide: Callable) -> Iterator[None]:
    """A scope in which a guide's parameters have no gradient: those of a module, and those of ``pyro.param``."""
    guide = _itself(guide)
    module = guide.function if isinstance(guide, StoredGuide) else guide
    held: list[dict[str, Any]] = (
        [part._parameters for part in module.modules()] if isinstance(module, nn.Module) else []
    )
    saved = [dict(parameters) for parameters in held]
    try:
        for parameters in held:
            parameters.update({name: p.detach() for name, p in parameters.items() if p is not None})
        # Hidden from whoever optimises what he sees.
        with poutine.block(hide_types=["param"]), _DetachedParameters():
            yield
    finally:
        for parameters, own in zip(held, saved, strict=True):
            parameters.update(own)


def _itself(guide: Any) -> Any:
    """A guide without what Pyro's handlers, as of particles or of a weight, have wrapped about it."""
    while True:
        if isinstance(guide, functools.partial):  # of a handler and the function that it handles
            guide = next((part for part in guide.args if not isinstance(part, Messenger)), guide.func)
        elif hasattr(guide, "__wrapped__"):
            guide = guide.__wrapped__
        else:
            return guide


class _DetachedParameters(Messenger):
    """Gives a program's parameters without their gradient."""

    def _pyro_post_param(self, msg: dict[str, Any]) -> None:
        msg["value"] = msg["value"].detach()


def _check_inverses(trace: Trace) -> None:
    """Raise ValueError if a density would come from what a transform remembers, without a gradient in the value."""
    for name, site in nodes_of(trace).items():
        if site["type"] == "sample" and any(map(_remembers, getattr(site["fn"], "transforms", ()))):
            raise ValueError(
                f"elbo='stl' needs densities that can be computed at any value; the transforms of {name!r} remember "
                "the values that they were sampled with, as normalising flows do; choose elbo='trace'."
            )


def _remembers(transform: Any) -> bool:
    return bool(getattr(transform, "_cache_size", 0)) or any(map(_remembers, getattr(transform, "parts", ())))


def _mean(losses: Iterable[Any], num_particles: int) -> Any:
    return sum(losses) / num_particles


def _negative_elbo(model_trace: Trace, guide_trace: Trace) -> Tensor:
    loss: Any = 0.0
    for name, site in nodes_of(model_trace).items():
        if site["type"] != "sample":
            continue
        if site["is_observed"]:
            loss = loss - site["log_prob_sum"]
            continue
        q = nodes_of(guide_trace)[name]
        try:
            loss = loss + scale_and_mask(kl_divergence(q["fn"], site["fn"]), scale=q["scale"], mask=q["mask"]).sum()
        except NotImplementedError:
            loss = loss + q["log_prob_sum"] - site["log_prob_sum"]
    return loss
