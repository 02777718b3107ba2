"""DiffPIR against the Gaussian process that a Gaussian denoiser makes of it, and against deepinv's own class."""

import itertools
import math

import deepinv
import pytest
import torch

from pyro_vble.baselines import diffpir
from pyro_vble.baselines.linear import LinearProblem
from pyro_vble.seeding import derived_seed, seeded

NOISE = 0.1


def physics(noise=NOISE):
    return deepinv.physics.Denoising(deepinv.physics.GaussianNoise(noise))


def test_its_samples_have_the_moments_of_the_published_steps(gaussian_denoiser):
    mean, variance, weight, zeta, steps = 0.5, 0.01, 7.0, 0.4, 20
    gaussian_denoiser.mean, gaussian_denoiser.variance = mean, variance
    y = torch.full((1, 1, 128, 128), 0.6)
    settings = {"num_evaluations": steps, "weight": weight, "zeta": zeta}
    found = diffpir(y, physics(), gaussian_denoiser, num_samples=2, seed=0, device="cpu", **settings).images

    # Every step is linear in x_t: what it does to mean and variance, on [-1, 1].
    bars = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    sequence = [min(int(math.sqrt(s)), 999) for s in torch.linspace(0, 1000**2, steps).tolist()]
    times = [999 - s for s in sequence]
    start = (1 - float(bars[times[0]])) / float(bars[times[0]]) - 4 * NOISE**2
    m, v = 0.2 * float(bars[-1].sqrt()), start * float(bars[-1])
    for t, after in itertools.pairwise(times):
        a, b = float(bars[t]), float(bars[after])
        sigma2 = (1 - a) / a
        shrink = 4 * variance / (4 * variance + sigma2)
        g = sigma2 / (weight * NOISE**2)
        slope, offset = shrink / math.sqrt(a) / (1 + g), (g * 0.2 + 0.0) / (1 + g)
        old = math.sqrt((1 - b) * (1 - zeta) / (1 - a))
        total = math.sqrt(b) * slope + old * (1 - math.sqrt(a) * slope)
        m = total * m + (math.sqrt(b) - old * math.sqrt(a)) * offset
        v = total**2 * v + (1 - b) * zeta
    n = found.numel()
    assert float(found.mean()) == pytest.approx(m / 2 + 0.5, abs=4 * math.sqrt(v) / 2 / math.sqrt(n))
    assert float(found.std()) == pytest.approx(math.sqrt(v) / 2, rel=4 / math.sqrt(2 * n))


def test_it_is_deepinvs_with_half_the_weight(gaussian_denoiser):
    y = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    start = LinearProblem.of(y, physics(), device="cpu").start
    ours = diffpir(y, physics(), gaussian_denoiser, num_evaluations=30, weight=8.0, zeta=0.3, seed=0).images[0]
    theirs = deepinv.sampling.DiffPIR(
        gaussian_denoiser, deepinv.optim.L2(), sigma=NOISE, max_iter=30, zeta=0.3, lambda_=4.0
    )
    with seeded(derived_seed(0, "diffpir", 0)):
        torch.testing.assert_close(ours, theirs(y, physics(), x_init=start), rtol=0, atol=1e-4)


def test_without_noise_the_measurement_comes_back(gaussian_denoiser):
    y = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = diffpir(y, physics(1e-3), gaussian_denoiser, num_evaluations=30, seed=0).mmse_x()
    # The noise that is left has standard deviation 0.005, and the data's step at the end weighs about as much.
    assert float((found - y).square().mean().sqrt()) < 0.008


def test_seeds_name_samples_and_missing_pixels_follow_the_prior(gaussian_denoiser):
    y = torch.full((2, 3, 16, 16), 0.8)
    y[1, :, :8] = torch.nan
    two = diffpir(y, physics(), gaussian_denoiser, num_samples=2, num_evaluations=20, seed=3)
    one = diffpir(y, physics(), gaussian_denoiser, num_evaluations=20, seed=3)
    other = diffpir(y, physics(), gaussian_denoiser, num_evaluations=20, seed=4)
    assert torch.equal(two.images[:1], one.images)
    assert float((one.images - other.images).abs().max()) > 1e-3
    assert one.images.dtype == torch.float32
    missing, seen = one.images[0, 1, :, :8], one.images[0, 1, :, 8:]
    assert abs(float(missing.mean()) - gaussian_denoiser.mean) < 0.1 < float(seen.mean()) - float(missing.mean())


def test_settings_out_of_range_are_told(gaussian_denoiser):
    with pytest.raises(ValueError, match="num_evaluations must be a whole number"):
        diffpir(torch.rand(1, 1, 8, 8), physics(), gaussian_denoiser, num_evaluations=1)
    with pytest.raises(ValueError, match="zeta must be a probability"):
        diffpir(torch.rand(1, 1, 8, 8), physics(), gaussian_denoiser, zeta=1.5)
