"""The published algorithm as a plain PyTorch loop, for ``benchmarks.speed`` and the tests to stand beside.

It knows neither Pyro nor this library's models: float32, contiguous tensors, 300 steps of Adam at a constant rate, the
last iterate kept, and 100 samples decoded four at a time (Biquard et al., 2025, https://arxiv.org/abs/2311.17744,
algorithm 1).
"""

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

Std = float | nn.Module


@dataclasses.dataclass
class PublishedFit:
    """What the loop learnt: centres and log-widths of the latents (and of the image), and its ELBO trace."""

    z: Tensor
    h: Tensor
    log_a_z: Tensor
    log_a_h: Tensor
    log_b: Tensor | None
    elbo: list[float]


def published_fit(
    network: nn.Module,
    forward_operator: Callable[[Tensor], Tensor],
    y: Tensor,
    sigma: float,
    x_init: Tensor,
    *,
    std: Std | None = None,
    num_steps: int = 300,
    lr: float = 0.1,
) -> PublishedFit:
    """VBLE with the uniform family, or VBLE-xz if the standard deviation of p(x|z), a number or a module, is given.

    ``network`` is a ``MeanScaleHyperprior`` or a ``JointAutoregressiveHierarchicalPriors``; sizes are multiples of 64.
    """
    with torch.no_grad():
        z = network.g_a(x_init)
        h = network.h_a(z)
    fit = PublishedFit(z, h, torch.zeros_like(z), torch.zeros_like(h), None, [])
    if std is not None:
        fit.log_b = torch.zeros_like(x_init)
    parameters = [p for p in (fit.z, fit.h, fit.log_a_z, fit.log_a_h, fit.log_b) if p is not None]
    for p in parameters:
        p.requires_grad_()
    optimiser = torch.optim.Adam(parameters, lr=lr)
    for _ in range(num_steps):
        optimiser.zero_grad()
        elbo = published_elbo(network, forward_operator, y, sigma, fit, std)
        loss = -elbo / x_init[0, 0].numel()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 20.0)
        optimiser.step()
        fit.elbo.append(float(elbo))
    return fit


def published_elbo(network, forward_operator, y, sigma, fit: PublishedFit, std: Std | None) -> Tensor:
    """One draw of the ELBO."""
    a_z, a_h = fit.log_a_z.exp(), fit.log_a_h.exp()
    z = fit.z + a_z * (torch.rand_like(a_z) - 0.5)
    h = fit.h + a_h * (torch.rand_like(a_h) - 0.5)
    x = network.g_s(z)
    image_kl = 0.0
    if fit.log_b is not None:
        b = fit.log_b.clamp(math.log(1e-4), math.log(3.0)).exp()
        x = x + _at(std, z) * b * torch.randn_like(b)
        image_kl = ((b**2 - 1) / 2 - b.log()).sum()
    residual = (y - forward_operator(x)) / sigma
    log_likelihood = -0.5 * (residual**2).sum() - y.numel() * (math.log(sigma) + 0.5 * math.log(2 * math.pi))
    parameters = network.h_s(h)
    if hasattr(network, "context_prediction"):
        parameters = network.entropy_parameters(torch.cat((parameters, network.context_prediction(z)), 1))
    scales, means = parameters.chunk(2, 1)
    p_z = network.gaussian_conditional._likelihood(z, scales, means)
    flat = h.transpose(0, 1).reshape(h.shape[1], 1, -1)
    p_h = network.entropy_bottleneck._likelihood(flat)[0]
    log_prior = p_z.clamp_min(1e-9).log().sum() + p_h.clamp_min(1e-9).log().sum()
    entropy = fit.log_a_z.sum() + fit.log_a_h.sum()
    return log_likelihood + log_prior + entropy - image_kl


@torch.no_grad()
def published_samples(network: nn.Module, fit: PublishedFit, std: Std | None, num_samples: int = 100) -> Tensor:
    """Posterior samples (n, 1, C, H, W), decoded four at a time."""
    samples = []
    for start in range(0, num_samples, 4):
        n = min(4, num_samples - start)
        z = fit.z + fit.log_a_z.exp() * (torch.rand(n, *fit.z.shape[1:], device=fit.z.device) - 0.5)
        x = network.g_s(z)
        if fit.log_b is not None:
            x = x + _at(std, z) * fit.log_b.clamp(math.log(1e-4), math.log(3.0)).exp() * torch.randn_like(x)
        samples.append(x)
    return torch.cat(samples).unsqueeze(1)


def _at(std: Std, z: Tensor) -> float | Tensor:
    return std(z) if isinstance(std, nn.Module) else std


def as_published(guide) -> PublishedFit:
    """What a guide of this library has learnt, as the loop would hold it."""
    log_b = guide.b.log() if guide.latent_image else None
    return PublishedFit(guide.loc["z"], guide.loc["h"], guide.width["z"].log(), guide.width["h"].log(), log_b, [])
