"""PnP-ULA against the Gaussian that its chains sample with a Gaussian denoiser."""

import math

import deepinv
import pytest
import torch

from pyro_vble.baselines import pnp_ula
from pyro_vble.baselines.linear import LinearProblem
from pyro_vble.baselines.pnp_ula import squared_norm
from pyro_vble.seeding import derived_seed, seeded

NOISE, LEVEL = 0.1, 0.05


def physics(noise=NOISE):
    return deepinv.physics.Denoising(deepinv.physics.GaussianNoise(noise))


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_chains_sample_the_gaussian_that_is_known(gaussian_denoiser, alpha):
    # x' = x + δ (b - h x) + √(2δ) n is an AR(1) process: mean b / h, variance 1 / (h (1 - δ h / 2)).
    y = torch.full((1, 1, 32, 32), 0.7, dtype=torch.float64)
    y[..., 16:] = torch.nan
    step, thinning, draws = 1.5e-3, 10, 40
    settings = {"num_samples": draws, "burn_in": 400, "thinning": thinning, "level": LEVEL, "alpha": alpha}
    chains = pnp_ula(y, physics(), gaussian_denoiser, step=step, seed=0, device="cpu", **settings)
    assert chains.image.shape == (2, draws, 1, 1, 32, 32)
    prior = alpha / (gaussian_denoiser.variance + LEVEL**2)
    for columns, data in ((slice(0, 16), 1 / NOISE**2), (slice(16, 32), 0.0)):
        h = data + prior
        mean, variance = (data * 0.7 + prior * gaussian_denoiser.mean) / h, 1 / (h * (1 - step * h / 2))
        found = chains.images[..., columns]
        memory = (1 - step * h) ** thinning
        effective = found.numel() * (1 - memory) / (1 + memory)
        assert float(found.mean()) == pytest.approx(mean, abs=4 * math.sqrt(variance / effective))
        effective = found.numel() * (1 - memory**2) / (1 + memory**2)
        assert float(found.var()) == pytest.approx(variance, rel=4 * math.sqrt(2 / effective))


def test_its_mean_through_a_blur_is_the_wiener_filters(gaussian_denoiser):
    kernel = torch.tensor([[0.25, 0.5, 0.25]], dtype=torch.float64)[None, None]
    blur = deepinv.physics.BlurFFT((1, 8, 16), kernel, noise_model=deepinv.physics.GaussianNoise(NOISE))
    generator = torch.Generator().manual_seed(0)
    y = 0.4 + 0.2 * torch.randn(1, 1, 8, 16, generator=generator, dtype=torch.float64)
    draws, chains, thinning, step = 80, 16, 5, 6e-4
    settings = {"num_samples": draws, "burn_in": 300, "thinning": thinning, "num_chains": chains, "level": LEVEL}
    found = pnp_ula(y, blur, gaussian_denoiser, step=step, seed=0, device="cpu", **settings).mmse_x()
    transfer = torch.fft.fft2(blur.A(torch.eye(128, dtype=y.dtype)[:1].reshape(1, 1, 8, 16)))
    precision = 1 / (gaussian_denoiser.variance + LEVEL**2)
    h = transfer.abs() ** 2 / NOISE**2 + precision
    wiener = 0.4 + torch.fft.ifft2(transfer.conj() * torch.fft.fft2(y - 0.4) / NOISE**2 / h).real
    # Each frequency is an AR(1) process of its own: how far the mean of its draws is from the Wiener filter's.
    memory = (1 - step * h) ** thinning
    expected = ((1 + memory) / (1 - memory) / (h * (1 - step * h / 2))).mean() / (draws * chains)
    assert float((found - wiener).square().mean()) < float(expected) * (1 + 4 * math.sqrt(2 / 64))


def test_chains_that_have_converged_say_so_and_others_do_not(gaussian_denoiser):
    y = torch.full((1, 1, 16, 16), 0.6)
    settings = {"num_samples": 60, "num_chains": 4, "scatter": 0.5, "seed": 0}
    good = pnp_ula(y, physics(), gaussian_denoiser, burn_in=100, thinning=10, level=LEVEL, step=1.5e-3, **settings)
    bad = pnp_ula(y, physics(), gaussian_denoiser, burn_in=0, thinning=1, step=1e-6, **settings)
    assert good.convergence()["r_hat"] < 1.1
    assert bad.convergence()["r_hat"] > 1.5
    assert good.to_arviz().posterior["image"].dims[:2] == ("chain", "draw")


def test_it_takes_deepinvs_steps(gaussian_denoiser):
    y = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    problem = LinearProblem.of(y, physics(), device="cpu")
    settings = {"num_samples": 3, "burn_in": 0, "thinning": 1, "num_chains": 1, "scatter": 0.0, "level": LEVEL}
    ours = pnp_ula(y, physics(), gaussian_denoiser, step=1e-3, seed=5, **settings)
    theirs = deepinv.sampling.BaseSampling(
        deepinv.sampling.ULAIterator({"step_size": 1e-3, "alpha": 1.0, "sigma": LEVEL}, clip=(-1.0, 2.0)),
        deepinv.optim.L2(sigma=NOISE),
        deepinv.optim.ScorePrior(gaussian_denoiser),
        max_iter=3,
        burnin_ratio=0.0,
        thinning=1,
        history_size=True,
    )
    with seeded(derived_seed(5, "pnp_ula")):
        torch.randn_like(problem.start)
        theirs.sample(y, physics(), x_init=problem.start)
    found = torch.stack([state["x"] for state in theirs.get_chain()[1:]])
    torch.testing.assert_close(ours.images, found, rtol=0, atol=1e-5)


def test_the_norm_is_the_largest_of_the_transfer():
    kernel = torch.tensor([[0.25, 0.5, 0.25]])[None, None]
    blur = deepinv.physics.BlurFFT((1, 8, 16), kernel, noise_model=deepinv.physics.GaussianNoise(NOISE))
    problem = LinearProblem.of(torch.rand(1, 1, 8, 16), blur, device="cpu")
    assert squared_norm(problem.physics, problem.start) == pytest.approx(1 / NOISE**2, rel=0.05)


def test_seeds_name_chains_and_ranges_are_checked(gaussian_denoiser):
    y = torch.rand(2, 3, 8, 8)
    settings = {"num_samples": 2, "burn_in": 3, "thinning": 2}
    runs = [pnp_ula(y, physics(), gaussian_denoiser, seed=seed, **settings).images for seed in (0, 0, 1)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    with pytest.raises(ValueError, match="the first the smaller"):
        pnp_ula(y, physics(), gaussian_denoiser, clip=(1.0, 0.0))
