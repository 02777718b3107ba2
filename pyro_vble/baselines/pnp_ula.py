"""PnP-ULA: Langevin chains that know images by a denoiser."""

import time
from typing import Annotated, Any

import torch
from torch import Tensor

from pyro_vble._arguments import BrokenRuleError, Count, CountOrZero, NotNegative, Positive, Rule, Seed, checked, real
from pyro_vble._one_at_a_time import one_at_a_time
from pyro_vble.baselines.denoisers import DenoiserLike, denoiser_on
from pyro_vble.baselines.linear import LinearProblem, WhiteMeasurement
from pyro_vble.inference.precision import Device
from pyro_vble.samples import ReferencePosterior
from pyro_vble.seeding import derived_seed, seeded

# Part of the largest stable step that is taken, as published.
_SAFE = 1 / 3


def _range(value: Any) -> tuple[float, float]:
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise BrokenRuleError("type")
    low, high = map(real, value)
    if low >= high:
        raise BrokenRuleError("value")
    return low, high


Range = Annotated[Any, Rule("two numbers (low, high), the first the smaller", _range)]


@one_at_a_time
@checked
def pnp_ula(
    y: Any,
    physics: Any,
    denoiser: DenoiserLike = None,
    *,
    num_samples: Count = 100,
    burn_in: CountOrZero = 1000,
    thinning: Count = 20,
    num_chains: Count = 2,
    level: Positive = 5 / 255,
    alpha: Positive = 1.0,
    step: Positive | None = None,
    scatter: NotNegative = 0.1,
    clip: Range = (-1.0, 2.0),
    noise: Positive | None = None,
    seed: Seed | None = None,
    device: Device = "auto",
) -> ReferencePosterior:
    r"""Sample p(x|y) by unadjusted Langevin chains, with the score of a denoiser; the algorithm is deepinv's.

    .. math:: x_{k+1} = \Pi\Big(x_k + \delta \nabla \log p(y|x_k) + \frac{\delta \alpha}{\varepsilon}
        \big(D_\varepsilon(x_k) - x_k\big) + \sqrt{2\delta}\, \epsilon\Big)

    with Π the projection onto a range of values. All chains of all images go through the denoiser in one batch. A
    chain's steps are far shorter than the posterior is wide: ``convergence()`` of what is returned tells R-hat and
    effective sample sizes, and whether ``burn_in`` and ``thinning`` were enough. They seldom are where much is open;
    the published chains take hours.

    Args:
        y: Measurement (B, C, H', W') of images in [0, 1]; NaN where unobserved.
        physics: A linear deepinv operator with its noise model; noise that is not white is taken as white.
        denoiser: As in :func:`~pyro_vble.baselines.dpir`; chains converge for those that are Lipschitz.
        num_samples: Draws of each chain that are kept.
        burn_in: Steps before the first that is kept.
        thinning: Steps from one that is kept to the next.
        num_chains: Number of chains, each started elsewhere.
        level: Square root of ε, the denoiser's level.
        alpha: α, the prior's weight.
        step: δ; by default a third of the largest that is stable, :math:`1 / (\lVert A \rVert^2 / \sigma^2
            + \alpha / \varepsilon)`, for the image with the least noise.
        scatter: Standard deviation of the noise by which chains start apart, about a first guess.
        clip: The range of values.
        noise: σ, in place of the noise model's.
        seed: Seed of the chains.
        device: "auto" (CUDA where there is one) or a torch device.

    Returns:
        Chains of images, (num_chains, num_samples, B, C, H, W).

    Raises:
        TypeError: If the operator is not linear, or an argument of a wrong kind.
        ValueError: If y does not fit the operator or its scale, or a denoiser's file is none.
        RuntimeError: If DRUNet cannot be downloaded.

    References:
        | Bayesian imaging using plug & play priors: when Langevin meets Tweedie (Laumont et al., 2022), algorithm 2
        | https://arxiv.org/abs/2103.04715

    Example:
        >>> import torch, deepinv
        >>> from pyro_vble.baselines import pnp_ula
        >>> physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))
        >>> settings = {"num_samples": 4, "burn_in": 2, "thinning": 1, "seed": 0}
        >>> pnp_ula(torch.rand(1, 3, 16, 16), physics, deepinv.models.MedianFilter(), **settings).image.shape
        torch.Size([2, 4, 1, 3, 16, 16])
    """
    from deepinv.optim import L2, ScorePrior
    from deepinv.sampling import ULAIterator

    begin = time.perf_counter()
    problem = LinearProblem.of(y, physics, noise=noise, device=device).repeated(num_chains)
    network = denoiser_on(denoiser, problem.start.shape[1], problem.y.device)
    if step is None:
        step = _SAFE / (squared_norm(problem.physics, problem.start) + alpha / level**2)
    langevin = ULAIterator({"step_size": step, "alpha": alpha, "sigma": level}, clip=clip)
    fidelity, prior = L2(), ScorePrior(network)
    kept = []
    with torch.no_grad(), seeded(derived_seed(seed, "pnp_ula")):
        state = {"x": problem.start + scatter * torch.randn_like(problem.start)}
        for k in range(1, burn_in + num_samples * thinning + 1):
            state = langevin(state, problem.y, problem.physics, fidelity, prior, k)
            if k > burn_in and (k - burn_in) % thinning == 0:
                kept.append(state["x"].unflatten(0, (num_chains, -1)).to(y.device))
    chains = ReferencePosterior(torch.stack(kept, 1), {}, y, physics=physics, seconds=time.perf_counter() - begin)
    chains.made_with = f"pnp_ula, denoiser {network.name}, level {level:.3g}, alpha {alpha:g}, step {step:.3g}"
    return chains


def squared_norm(physics: WhiteMeasurement, like: Tensor) -> float:
    """The largest eigenvalue of AᵀA, by powers of it on an image of noise."""
    with seeded(0):
        x = torch.randn_like(like)
    return float(physics.compute_sqnorm(x, tol=1e-2, verbose=False))
