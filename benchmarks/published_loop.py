"""The published algorithm as a plain PyTorch loop, and the library beside it in the same run.

``python -m benchmarks.published_loop`` prints time, ELBO and PSNR of both, and their ratio. The loop knows neither Pyro
nor this library's models: float32, contiguous tensors, 300 steps of Adam at a constant rate, the last iterate kept, and
100 samples decoded four at a time (Biquard et al., 2025, https://arxiv.org/abs/2311.17744, algorithm 1).
"""

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn


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
    gamma: float | None = None,
    num_steps: int = 300,
    lr: float = 0.1,
) -> PublishedFit:
    """VBLE with the uniform family, or VBLE-xz if ``gamma`` (the standard deviation of p(x|z)) is given.

    ``network`` is a ``MeanScaleHyperprior``; sizes are multiples of 64.
    """
    with torch.no_grad():
        z = network.g_a(x_init)
        h = network.h_a(z)
    fit = PublishedFit(z, h, torch.zeros_like(z), torch.zeros_like(h), None, [])
    if gamma is not None:
        fit.log_b = torch.zeros_like(x_init)
    parameters = [p for p in (fit.z, fit.h, fit.log_a_z, fit.log_a_h, fit.log_b) if p is not None]
    for p in parameters:
        p.requires_grad_()
    optimiser = torch.optim.Adam(parameters, lr=lr)
    for _ in range(num_steps):
        optimiser.zero_grad()
        elbo = _elbo(network, forward_operator, y, sigma, fit, gamma)
        loss = -elbo / x_init[0, 0].numel()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 20.0)
        optimiser.step()
        fit.elbo.append(float(elbo))
    return fit


def _elbo(network, forward_operator, y, sigma, fit: PublishedFit, gamma: float | None) -> Tensor:
    """One draw of the ELBO."""
    a_z, a_h = fit.log_a_z.exp(), fit.log_a_h.exp()
    z = fit.z + a_z * (torch.rand_like(a_z) - 0.5)
    h = fit.h + a_h * (torch.rand_like(a_h) - 0.5)
    x = network.g_s(z)
    image_kl = 0.0
    if fit.log_b is not None:
        b = fit.log_b.clamp(math.log(1e-4), math.log(3.0)).exp()
        x = x + gamma * b * torch.randn_like(b)
        image_kl = ((b**2 - 1) / 2 - b.log()).sum()
    residual = (y - forward_operator(x)) / sigma
    log_likelihood = -0.5 * (residual**2).sum() - y.numel() * (math.log(sigma) + 0.5 * math.log(2 * math.pi))
    scales, means = network.h_s(h).chunk(2, 1)
    p_z = network.gaussian_conditional._likelihood(z, scales, means)
    flat = h.transpose(0, 1).reshape(h.shape[1], 1, -1)
    p_h = network.entropy_bottleneck._likelihood(flat)[0]
    log_prior = p_z.clamp_min(1e-9).log().sum() + p_h.clamp_min(1e-9).log().sum()
    entropy = fit.log_a_z.sum() + fit.log_a_h.sum()
    return log_likelihood + log_prior + entropy - image_kl


@torch.no_grad()
def published_samples(network: nn.Module, fit: PublishedFit, gamma: float | None, num_samples: int = 100) -> Tensor:
    """Posterior samples (n, 1, C, H, W), decoded four at a time."""
    samples = []
    for start in range(0, num_samples, 4):
        n = min(4, num_samples - start)
        z = fit.z + fit.log_a_z.exp() * (torch.rand(n, *fit.z.shape[1:]) - 0.5)
        x = network.g_s(z)
        if fit.log_b is not None:
            x = x + gamma * fit.log_b.clamp(math.log(1e-4), math.log(3.0)).exp() * torch.randn_like(x)
        samples.append(x)
    return torch.cat(samples).unsqueeze(1)


def compare(image: str, guide_name: str, seed: int = 0) -> dict:
    """Both on one problem: deblurring (Gaussian of 1 pixel, noise 7.65/255) of a 256x256 photograph."""
    import deepinv
    import skimage.data

    import pyro_vble as pv
    from pyro_vble.guides import VBLE, VBLExz
    from pyro_vble.metrics import psnr
    from pyro_vble.models import CAE
    from pyro_vble.physics import initial_image
    from pyro_vble.physics.problems import deblurring, gaussian_kernel

    sigma = 7.65 / 255
    photograph = torch.from_numpy(getattr(skimage.data, image)()[..., :3].copy())
    top, left = ((side - 256) // 2 for side in photograph.shape[:2])
    truth = photograph[top : top + 256, left : left + 256].permute(2, 0, 1)[None].float() / 255
    physics: deepinv.physics.Physics = deblurring(sigma, gaussian_kernel(1.0))
    torch.manual_seed(seed)
    y = physics(truth)
    bundled = pv.load_prior("cae-bsd")
    prior = CAE(bundled.network, bundled.alpha)  # the loop knows one standard deviation for all pixels
    guide = {"vble": VBLE, "vble-xz": VBLExz}[guide_name]
    gamma = prior.gamma if guide is VBLExz else None
    # Threads and allocators warm up once, for both.
    pv.restore(y, physics, prior, guide=guide, num_steps=3, progress=False).mmse_x(4)
    network = prior.network.requires_grad_(False)
    published_fit(network, physics.A, y, sigma, truth, gamma=gamma, num_steps=2)

    torch.manual_seed(seed)
    start = time.perf_counter()
    fit = published_fit(network, physics.A, y, sigma, initial_image(physics, y, tuple(truth.shape[1:])), gamma=gamma)
    loop_fit = time.perf_counter() - start
    loop_mean = published_samples(network, fit, gamma).mean(0)
    loop_total = time.perf_counter() - start

    start = time.perf_counter()
    posterior = pv.restore(y, physics, prior, guide=guide, seed=seed, progress=False)
    our_fit = time.perf_counter() - start
    our_mean = posterior.mmse_x(100)
    our_total = time.perf_counter() - start

    with torch.no_grad():  # both final states under the loop's own estimator of the ELBO, in float32
        loop_elbo = [float(_elbo(network, physics.A, y, sigma, fit, gamma)) for _ in range(32)]
        ours = _as_published(posterior.guide, gamma)
        our_elbo = [float(_elbo(network, physics.A, y, sigma, ours, gamma)) for _ in range(32)]
    return {
        "image": image,
        "guide": guide_name,
        "loop": _row(loop_fit, loop_total, loop_elbo, psnr(loop_mean, truth)),
        "restore": _row(our_fit, our_total, our_elbo, psnr(our_mean, truth)),
        "total_ratio": loop_total / our_total,
        "elbo_gain": (sum(our_elbo) - sum(loop_elbo)) / 32,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def _as_published(guide, gamma: float | None) -> PublishedFit:
    log_b = guide.b.log() if gamma is not None else None
    return PublishedFit(guide.loc["z"], guide.loc["h"], guide.width["z"].log(), guide.width["h"].log(), log_b, [])


def _row(fit_seconds: float, total_seconds: float, elbo: list[float], decibels: float) -> dict:
    mean = sum(elbo) / len(elbo)
    error = (sum((e - mean) ** 2 for e in elbo) / (len(elbo) - 1) / len(elbo)) ** 0.5
    return {
        "fit_seconds": fit_seconds,
        "total_seconds": total_seconds,
        "elbo": mean,
        "elbo_standard_error": error,
        "psnr": decibels,
    }


def main() -> None:
    """Compare on one image and print (and write) the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image", default="cat", help="photograph of scikit-image")
    parser.add_argument("--guide", choices=("vble", "vble-xz", "both"), default="both")
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    options = parser.parse_args()
    guides = ("vble", "vble-xz") if options.guide == "both" else (options.guide,)
    results = [compare(options.image, guide) for guide in guides]
    for r in results:
        print(f"{r['guide']} on {r['image']}, 256x256, 100 samples, {r['threads']} threads, torch {r['torch']}")
        for name in ("loop", "restore"):
            row = r[name]
            print(
                f"  {name:8s} fit {row['fit_seconds']:6.1f} s   with samples {row['total_seconds']:6.1f} s   "
                f"ELBO {row['elbo']:,.0f} ± {row['elbo_standard_error']:.0f}   MMSE-x {row['psnr']:.2f} dB"
            )
        print(f"  the loop takes {r['total_ratio']:.1f} times as long; ELBO gain {r['elbo_gain']:+,.0f} nats")
    if options.output:
        from pyro_vble.io.atomic import atomic_path

        with atomic_path(options.output) as temporary:
            temporary.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
