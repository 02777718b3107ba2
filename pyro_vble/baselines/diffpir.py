"""DiffPIR: a diffusion drawn towards the data, by a denoiser."""

from typing import Annotated, Any

import torch

from pyro_vble._arguments import Count, Positive, Probability, Seed, checked, whole_from
from pyro_vble._one_at_a_time import one_at_a_time
from pyro_vble.baselines.denoisers import DenoiserLike, denoiser_on
from pyro_vble.baselines.linear import LinearProblem
from pyro_vble.baselines.point import stored
from pyro_vble.inference.precision import Device
from pyro_vble.samples import StoredSamples
from pyro_vble.seeding import derived_seed, seeded

Evaluations = Annotated[int, whole_from(2, 1000)]


@one_at_a_time
@checked
def diffpir(
    y: Any,
    physics: Any,
    denoiser: DenoiserLike = None,
    *,
    num_samples: Count = 1,
    num_evaluations: Evaluations = 100,
    weight: Positive = 7.0,
    zeta: Probability = 0.3,
    noise: Positive | None = None,
    seed: Seed | None = None,
    device: Device = "auto",
) -> StoredSamples:
    r"""Diffusion plug-and-play restoration, repeated for samples; the algorithm is deepinv's.

    .. math:: \hat x_0 = D\Big(\frac{x_t}{\sqrt{\bar\alpha_t}}, \bar\sigma_t\Big), \qquad
        x_0 = \arg\min_x\; \frac{\lVert M(Ax - y)\rVert^2}{\sigma^2} + \frac{\lambda}{\bar\sigma_t^2}
        \lVert x - \hat x_0 \rVert^2, \\
        x_{t'} = \sqrt{\bar\alpha_{t'}}\, x_0 + \sqrt{1 - \bar\alpha_{t'}} \big(\sqrt{1 - \zeta}\,\hat\epsilon
        + \sqrt{\zeta}\,\epsilon\big)

    with images on [-1, 1] in the diffusion and :math:`\bar\sigma_t = \sqrt{(1 - \bar\alpha_t)/\bar\alpha_t}`. Its
    samples differ by the noise of its steps; they are not draws from p(x|y), and tell little of its width. What
    deepinv's class, used alone, does otherwise: its λ weighs twice as much, it takes one noise level for a whole batch,
    and starts at :math:`A^T y`. As in the authors' code, what is returned has noise of 0.005 left.

    Args:
        y: Measurement (B, C, H', W') of images in [0, 1]; NaN where unobserved.
        physics: A linear deepinv operator with its noise model; noise that is not white is taken as white.
        denoiser: As in :func:`~pyro_vble.baselines.dpir`; deepinv's ``DiffUNet`` is the published one. Levels go from
            80 to 0.005: beyond what it was trained for, a denoiser must still return something near the mean.
        num_samples: How often the diffusion is run.
        num_evaluations: Evaluations of the denoiser in each.
        weight: λ.
        zeta: ζ, the part of each step's noise that is new.
        noise: σ, in place of the noise model's.
        seed: Seed of the samples: the first n of two calls that differ in their number alone are the same.
        device: "auto" (CUDA where there is one) or a torch device.

    Returns:
        Samples (num_samples, B, C, H, W).

    Raises:
        TypeError: If the operator is not linear, or an argument of a wrong kind.
        ValueError: If y does not fit the operator or its scale, or a denoiser's file is none.
        RuntimeError: If DRUNet cannot be downloaded.

    References:
        | Denoising diffusion models for plug-and-play image restoration (Zhu et al., 2023), algorithm 1
        | https://arxiv.org/abs/2305.08995

    Example:
        >>> import torch, deepinv
        >>> from pyro_vble.baselines import diffpir
        >>> physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))
        >>> y = torch.rand(1, 3, 16, 16)
        >>> diffpir(y, physics, deepinv.models.MedianFilter(), num_samples=2, num_evaluations=3, seed=0)
        StoredSamples(2 samples of (1, 3, 16, 16))
    """
    from deepinv.optim import L2
    from deepinv.sampling import DiffPIR

    problem = LinearProblem.of(y, physics, noise=noise, device=device)
    network = denoiser_on(denoiser, problem.start.shape[1], problem.y.device)
    settings = {"max_iter": num_evaluations, "zeta": zeta, "device": str(problem.y.device)}
    # In units of its noise the operator's is 1; deepinv's prox has 1 / (2 rho) where the paper has 1 / rho.
    diffusion = DiffPIR(network, L2(), sigma=float(problem.noise.mean()), lambda_=weight / 2, **settings)
    images = []
    for k in range(num_samples):
        with torch.no_grad(), seeded(derived_seed(seed, "diffpir", k)):
            images.append(diffusion(problem.y, problem.physics, x_init=problem.start).to(y.device))
    made_with = f"diffpir, denoiser {network.name}, {num_evaluations} evaluations"
    return stored(torch.stack(images), y, physics, made_with)
