"""Pareto-smoothed importance sampling: the guide's draws, weighted towards the model's posterior."""

import math
import warnings
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import biject_to, constraints

from pyro_vble._arguments import Seed, checked, whole_from
from pyro_vble._traces import nodes_of
from pyro_vble.diagnostics._source import OnePosterior
from pyro_vble.inference.draws import latents_of
from pyro_vble.io.inference_data import quiet_arviz
from pyro_vble.samples import Posterior


def k_hat_limit(num_samples: int) -> float:
    """The k-hat beyond which so many weighted draws cannot be trusted (Vehtari et al., 2024): 0.7, or less for few."""
    return min(1 - 1 / math.log10(num_samples), 0.7)


@dataclass(frozen=True)
class ImportanceSampling:
    """Weighted draws of a guide, n for each of B images.

    Attributes:
        k_hat: Shape of the weights' tail, (B,): below about 0.7 the weighting can be trusted, beyond it the guide is
            too far from the posterior for its draws to be corrected. Of a guide of bounded support it tells nothing.
        log_weights: Smoothed, normalised log weights, (n, B).
        elbo: Mean of the unsmoothed log weights, the ELBO, (B,), in nats.
        elbo_error: Its Monte Carlo standard error, (B,).
        mean: Weighted mean of the images, (B, C, H, W).
        std: Weighted standard deviation, (B, C, H, W).
        bounded: Sites whose factor of the guide has a bounded support, or is a point mass: the weights of such a guide
            cannot tell of what lies outside it.
    """

    k_hat: Tensor
    log_weights: Tensor
    elbo: Tensor
    elbo_error: Tensor
    mean: Tensor
    std: Tensor
    bounded: tuple[str, ...] = ()

    @property
    def effective_sample_size(self) -> Tensor:
        """1 / sum of squared weights, (B,)."""
        return 1 / self.log_weights.exp().square().sum(0)

    @property
    def trustworthy(self) -> Tensor:
        """Whether k-hat is below its limit, and the guide reaches wherever the posterior does, (B,)."""
        return (self.k_hat < k_hat_limit(len(self.log_weights))) & (not self.bounded)


@checked
def importance_sampling(
    posterior: OnePosterior,
    num_samples: Annotated[int, whole_from(25)] = 1000,
    *,
    seed: Seed | None = None,
) -> ImportanceSampling:
    r"""Weight a guide's draws towards the model's posterior, and tell whether that helps.

    .. math:: w_j \propto \frac{p(y, x_j, z_j, h_j)}{q(x_j, z_j, h_j)}, \qquad (x_j, z_j, h_j) \sim q

    with the largest weights smoothed by a generalised Pareto distribution of shape k-hat (``arviz.psislw``). A guide
    of many latents may be good for every pixel and yet have a k-hat above 0.7: the ratio of joint densities multiplies
    what is left in every dimension.

    Weights correct a guide only where it has draws. One of bounded support (the uniform family, a point mass) has
    bounded weights, and a small k-hat, however much of the posterior lies outside: it is never ``trustworthy``.

    References:
        | Pareto smoothed importance sampling (Vehtari et al., 2024)
        | https://arxiv.org/abs/1507.02646
        | Yes, but did it work? Evaluating variational inference (Yao et al., 2018)
        | https://arxiv.org/abs/1802.02538

    Args:
        posterior: The posterior, with its operator.
        num_samples: Number of draws.
        seed: Seed of the draws; that of the posterior by default.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If the posterior has no operator, as after loading without one, is a mixture of fits, or there are
            fewer than 25 draws, from which no tail can be told.

    Example:
        >>> import torch, deepinv
        >>> import pyro_vble as pv
        >>> from pyro_vble.diagnostics import importance_sampling
        >>> physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))
        >>> posterior = pv.restore(torch.rand(1, 3, 64, 64), physics, "cae-bsd", num_steps=2, seed=0, progress=False)
        >>> found = importance_sampling(posterior, 30)
        >>> found.log_weights.shape, bool(found.trustworthy)
        (torch.Size([30, 1]), False)
    """
    if not isinstance(posterior, Posterior):
        raise ValueError(
            f"posterior must be one fit, a mixture has no density; received {len(posterior.fits)} fits; weight each: "
            "posterior.fits[k]."
        )
    seed = posterior.lasting_seed(seed)
    raw = torch.cat([chunk.log_weights for chunk in posterior.draws(num_samples, seed=seed)]).double()
    smoothed, k_hat = smoothed_weights(raw)
    mean = square = smoothed.new_zeros(())
    start = 0
    for chunk in posterior.chunks(num_samples, seed=seed):
        weights = smoothed[start : start + len(chunk)].exp()[..., None, None, None]
        x = chunk.double()  # of squares less a squared mean little is left
        mean, square = mean + (weights * x).sum(0), square + (weights * x.square()).sum(0)
        start += len(chunk)
    dtype, device = chunk.dtype, posterior.output_device
    return ImportanceSampling(
        k_hat=k_hat.to(device),
        log_weights=smoothed.to(device),
        elbo=raw.mean(0).to(device),
        elbo_error=(raw.std(0) / num_samples**0.5).to(device),
        mean=mean.to(device, dtype),
        std=(square - mean.square()).clamp_min(0).sqrt().to(device, dtype),
        bounded=bounded_sites(posterior),
    )


# Draws behind a guide's spread, and how many standard deviations from a draw a bounded support has ended: that of a
# uniform distribution is 3.5 wide.
_FEW, _FAR = 16, 20.0


@torch.no_grad()
def bounded_sites(posterior: Posterior) -> tuple[str, ...]:
    """Latent sites whose distribution in the guide gives no density far from its draws, though the prior has some.

    It is asked for its density there, on the unconstrained scale of the prior's own support: whatever its class says.
    """
    trace = posterior.guide_trace(_FEW)
    priors = posterior.model.physics_priors
    auxiliary = any(site["infer"].get("is_auxiliary") for site in nodes_of(trace).values() if site["type"] == "sample")
    found = []
    for name, value in latents_of(trace).items():
        distribution, infer = nodes_of(trace)[name]["fn"], nodes_of(trace)[name]["infer"]
        if auxiliary and not infer.get("is_auxiliary") and bool((value != value[:1]).any()):
            continue  # a function of an auxiliary site, which stands for it
        transform = biject_to(priors[name].support if name in priors else constraints.real)
        free = transform.inv(value)
        width = free.std(0).clamp_min(1e-4 * (1 + free.abs().amax(0)))
        for sign in (-1, 1):
            if not _has_density(distribution, transform(free + sign * _FAR * width)):
                found.append(name)
                break
    return tuple(found)


def _has_density(distribution: dist.TorchDistribution, value: Tensor) -> bool:
    try:
        return bool(torch.isfinite(distribution.log_prob(value)).all())
    except ValueError:  # one that validates its values
        return False


def smoothed_weights(log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Pareto-smoothed, normalised log weights (n, B), and k-hat (B,), of log weights (n, B)."""
    with quiet_arviz():
        import arviz as az
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a large k-hat is returned, and told by those who asked for it
        found = [az.psislw(column) for column in log_weights.double().cpu().numpy().T]
    smoothed = torch.from_numpy(np.stack([np.asarray(weights) for weights, _ in found], axis=1))
    return smoothed.to(log_weights.device), torch.tensor([float(k) for _, k in found], device=log_weights.device)
