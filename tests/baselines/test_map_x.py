"""MAP with a total-variation or wavelet prior, against what the optimum must satisfy."""

import deepinv
import pytest
import torch

from pyro_vble.baselines import map_tv, map_wavelet
from pyro_vble.baselines.haar import haar, haar_adjoint
from pyro_vble.baselines.linear import LinearProblem
from pyro_vble.baselines.map_x import GRADIENT, Analysis, sparsest

NOISE = 0.1
WAVELETS = Analysis(lambda x: haar(x, 2), haar_adjoint, 1.0)


def blur(size):
    grid = torch.arange(-2, 3, dtype=torch.float64)
    k = torch.exp(-0.5 * (grid[:, None] ** 2 + grid[None, :] ** 2))
    return deepinv.physics.BlurFFT(
        (1, size, size), (k / k.sum())[None, None], noise_model=deepinv.physics.GaussianNoise(NOISE)
    ).double()


def step(height, size=16):
    x = torch.full((1, 1, size, size), 0.3, dtype=torch.float64)
    x[..., size // 2 :] += height
    return x


def test_total_variation_lowers_a_step_by_what_its_length_costs():
    # Between two halves of n columns the solution is a step again, each half moved by w σ² / n.
    physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(NOISE))
    x = map_tv(step(0.4), physics, weight=12.0, num_iterations=2000, device="cpu").mmse_x()
    expected = step(0.4 - 2 * 12.0 * NOISE**2 / 8) + 12.0 * NOISE**2 / 8
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-5)


def test_total_variation_flattens_what_costs_less_than_the_noise_says():
    physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(NOISE))
    y = step(0.2)
    x = map_tv(y, physics, weight=100.0, num_iterations=2000, device="cpu").mmse_x()
    torch.testing.assert_close(x, torch.full_like(x, float(y.mean())), rtol=0, atol=1e-5)


@pytest.mark.parametrize("analysis", [GRADIENT, WAVELETS])
def test_the_dual_variable_proves_the_optimum(analysis):
    generator = torch.Generator().manual_seed(0)
    physics = blur(12)
    y = step(0.4, 12) + NOISE * torch.randn(1, 1, 12, 12, generator=generator, dtype=torch.float64)
    y[0, 0, 3, 4] = torch.nan
    problem = LinearProblem.of(y, physics, device="cpu")
    x, u = sparsest(problem, analysis, 5.0, 1000)
    gradient = problem.physics.A_adjoint(problem.physics.A(x) - problem.y)
    torch.testing.assert_close(gradient, -analysis.adjoint(u), rtol=0, atol=2e-2)
    assert float(u.norm(dim=-1).max()) <= 5.0 + 1e-9
    # The prior's value is what u makes of Kx: all of it, where u is the right one.
    torch.testing.assert_close(
        (u * analysis.forward(x)).sum(), 5.0 * analysis.forward(x).norm(dim=-1).sum(), rtol=1e-4, atol=0
    )


def test_the_haar_transform_is_a_tight_frame_and_its_adjoint_one():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 2, 16, 8, generator=generator, dtype=torch.float64)
    details = haar(x, 3)
    mean = x
    for shift in (1, 2, 4):
        mean = (mean + mean.roll(-shift, -2)) / 2
        mean = (mean + mean.roll(-shift, -1)) / 2
    torch.testing.assert_close(details.square().sum() + mean.square().sum(), x.square().sum())
    v = torch.randn(details.shape, generator=generator, dtype=torch.float64)
    torch.testing.assert_close((details * v).sum(), (x * haar_adjoint(v)).sum())


def test_the_result_is_that_of_deepinv():
    # Proximal gradient steps with deepinv's own inner loop, on the same problem.
    generator = torch.Generator().manual_seed(0)
    physics = blur(16)
    y = step(0.4) + NOISE * torch.randn(1, 1, 16, 16, generator=generator, dtype=torch.float64)
    ours = map_tv(y, physics, weight=5.0, num_iterations=500, device="cpu").mmse_x()
    theirs = deepinv.optim.FISTA(
        data_fidelity=deepinv.optim.L2(sigma=NOISE),
        prior=deepinv.optim.TVPrior(n_it_max=50),
        lambda_reg=5.0,
        stepsize=NOISE**2,
        max_iter=100,
    )(y, physics)
    assert float((ours - theirs).abs().max()) < 5e-3


@pytest.mark.parametrize("method", [map_tv, map_wavelet])
def test_a_batch_is_its_images_and_devices_and_types_stay(method):
    physics = deepinv.physics.Blur(
        torch.ones(1, 1, 3, 3) / 9, padding="reflect", noise_model=deepinv.physics.GaussianNoise(NOISE)
    )
    y = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    both = method(y, physics, num_iterations=30).mmse_x()
    one = method(y[1:], physics, num_iterations=30).mmse_x()
    assert both.dtype == torch.float32
    torch.testing.assert_close(both[1:], one, rtol=0, atol=1e-4)


def test_missing_pixels_are_filled_and_constants_kept():
    y = torch.full((1, 3, 16, 16), 0.4)
    y[..., 4:8, 4:8] = torch.nan
    physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(NOISE))
    for method in (map_tv, map_wavelet):
        torch.testing.assert_close(
            method(y, physics, num_iterations=500).mmse_x(), torch.full_like(y, 0.4), rtol=0, atol=2e-3
        )


def test_wavelets_that_do_not_fit_are_told():
    physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(NOISE))
    with pytest.raises(ValueError, match="take at most 3"):
        map_wavelet(torch.rand(1, 1, 8, 16), physics, levels=4)
    with pytest.raises(ValueError, match="weight must be a positive"):
        map_tv(torch.rand(1, 1, 8, 16), physics, weight=0)
