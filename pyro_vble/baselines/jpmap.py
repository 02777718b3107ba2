"""JPMAP: the most probable image and latent together."""

from typing import Any

import pyro
import torch
from deepinv.optim.linear import least_squares
from pyro import poutine
from torch import Tensor

from pyro_vble._arguments import Count, CountOrZero, Positive, checked
from pyro_vble._one_at_a_time import one_at_a_time
from pyro_vble.baselines.linear import EPS, LinearProblem
from pyro_vble.baselines.point import point
from pyro_vble.inference import resolve_device
from pyro_vble.inference.precision import Device
from pyro_vble.io.priors import load_prior
from pyro_vble.models import Prior
from pyro_vble.models.freezing import frozen
from pyro_vble.models.prior import check_prior
from pyro_vble.samples import StoredSamples

# Conjugate gradients, where p(x|z) is wider in some pixels than in others.
_TOLERANCE, _CG_STEPS = 1e-5, 50


@one_at_a_time
@checked
def jpmap(
    y: Any,
    physics: Any,
    prior: Any,
    *,
    num_iterations: Count = 30,
    num_latent_steps: CountOrZero = 10,
    lr: Positive = 0.1,
    noise: Positive | None = None,
    device: Device = "auto",
) -> StoredSamples:
    r"""Joint MAP of image and latent by alternating minimisation, with the encoder for the latent.

    .. math:: \hat x, \hat z = \arg\min\; \frac{\lVert M(Ax - y) \rVert^2}{2\sigma^2} - \log p(x|z) - \log p(z)

    Given the latent, the image is a least-squares problem, solved in closed form or by conjugate gradients. Given the
    image, the encoder proposes a latent, as it knows where p(z|x) is; it and the last one are both improved by some
    steps of Adam, and the best of all is kept, image by image: the objective never rises. Of an autoencoder with two
    latents, h goes with z. As a joint mode, the image may leave the decoder's range by what p(x|z) allows.

    Args:
        y: Measurement (B, C, H', W') of images in [0, 1]; NaN where unobserved.
        physics: A linear deepinv operator with its noise model; noise that is not white is taken as white.
        prior: A prior, or a name or path for :func:`pyro_vble.load_prior`.
        num_iterations: Turns of image and latent.
        num_latent_steps: Steps of Adam in each; 0 trusts the encoder.
        lr: Their rate, in the latent's units; it falls to zero over the iterations.
        noise: σ, in place of the noise model's.
        device: "auto" (CUDA where there is one) or a torch device.

    Returns:
        One image (1, B, C, H, W), as samples.

    Raises:
        TypeError: If the operator is not linear, or an argument of a wrong kind.
        ValueError: If y does not fit the operator, the prior or its scale.

    References:
        | Solving inverse problems by joint posterior maximization with autoencoding prior (Gonzalez et al., 2022),
        | algorithms 1 and 2
        | https://arxiv.org/abs/2103.01648

    Example:
        >>> import torch, deepinv
        >>> from pyro_vble.baselines import jpmap
        >>> physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))
        >>> jpmap(torch.rand(1, 1, 28, 28), physics, "vae-mnist", num_iterations=2).mmse_x().shape
        torch.Size([1, 1, 28, 28])
    """
    if not isinstance(prior, Prior):
        prior = load_prior(prior) if isinstance(prior, str) or hasattr(prior, "__fspath__") else prior
        check_prior(prior)
    prior = frozen(prior).to(resolve_device(device))
    dtype = prior.tensor_options()["dtype"]
    measured = y.to(dtype) if isinstance(y, Tensor) and y.is_floating_point() else y
    problem = LinearProblem.of(measured, physics, noise=noise, device=device)
    prior.validate_image_shape(problem.physics.image_shape)
    x = problem.start
    with torch.no_grad():
        latents = prior.encode(x)
    for k in range(num_iterations):
        rate = lr * (1 - k / num_iterations)
        with torch.no_grad():
            proposed = prior.encode(x)
        latents = _best(prior, x, [latents, proposed], num_latent_steps, rate)
        with torch.no_grad():
            mean, std = prior.decode(latents["z"], problem.physics.image_shape)
            x = nearest_image(problem, mean, std)
    return point(x.to(y.dtype), y, physics, f"jpmap, {num_iterations} iterations")


def nearest_image(problem: LinearProblem, mean: Tensor, std: Tensor) -> Tensor:
    """The image of highest density given data and p(x|z) = N(mean, std²).

    The standard deviation may differ from pixel to pixel: in units of it the prior is white.
    """
    white, levels = problem.physics, std.flatten(1)
    if bool((levels == levels[:, :1]).all()):
        return white.prox_l2(mean, problem.y, gamma=levels[:, 0] ** 2)
    zero = torch.zeros_like(mean)
    options: dict[str, Any] = {"parallel_dim": [0], "max_iter": _CG_STEPS, "tol": _TOLERANCE, "eps": EPS}
    away = least_squares(
        lambda e: white.A(std * e),
        lambda v: std * white.A_adjoint(v),
        problem.y - white.A(mean),
        z=zero,
        init=zero,
        gamma=torch.ones_like(levels[:, 0]),
        **options,
    )
    return mean + std * away


def log_density(prior: Prior, x: Tensor, latents: dict[str, Tensor]) -> Tensor:
    """log p(x|z) + log p(z) of every image, (B,), whatever the latent sites."""
    with pyro.validation_enabled(False):
        given = poutine.condition(prior, data={**latents, "x": x})
        with pyro.plate("image", len(x), dim=-1):
            trace = poutine.trace(given).get_trace(tuple(x.shape[1:]))
        trace.compute_log_prob()
    sites = {name: site for name, site in trace.nodes.items() if "log_prob" in site and name != "image"}
    return torch.stack([site["log_prob"].expand(len(x)) for site in sites.values()]).sum(0)


def _best(prior: Prior, x: Tensor, starts: list[dict[str, Tensor]], num_steps: int, rate: float) -> dict[str, Tensor]:
    """Of the latents on the way down from every start the best for each image."""
    best, most = {}, None
    with torch.inference_mode(False), torch.enable_grad():
        for start in starts:
            latents = {name: value.detach().clone().requires_grad_() for name, value in start.items()}
            adam = torch.optim.Adam(latents.values(), rate)
            for k in range(num_steps + 1):
                density = log_density(prior, x, latents)
                if most is None:
                    best, most = {name: value.detach().clone() for name, value in latents.items()}, density.detach()
                better = density.detach() > most
                most = torch.where(better, density.detach(), most)
                for name, value in latents.items():
                    best[name] = torch.where(better.reshape(-1, *[1] * (value.dim() - 1)), value.detach(), best[name])
                if k < num_steps:
                    adam.zero_grad()
                    (-density.sum()).backward()
                    adam.step()
    return best
