"""SatDPIR: its data term's optimum by brute force, and DPIR where the noise is white."""

import deepinv
import pytest
import torch

from pyro_vble.baselines import dpir, sat_dpir
from pyro_vble.baselines.linear import LinearProblem
from pyro_vble.baselines.sat_dpir import objective, scored, sensor_data, white_step
from pyro_vble.physics import OpticalMTF, OpticalSensor, SignalDependentNoise, point_spread_function

SIGMA0, GAIN = 0.02, 0.01


def sensor(scale=1, noise_model=None):
    psf = point_spread_function(OpticalMTF(along=0.2, across=0.2), scale)
    noise_model = SignalDependentNoise(SIGMA0, GAIN) if noise_model is None else noise_model
    return OpticalSensor(psf, scale=scale, padding="reflect", noise_model=noise_model)


def mean_psnr(x, truth):
    return float((-10 * (x - truth).square().flatten(1).mean(1).log10()).mean())


def test_the_proximal_step_is_the_one_that_a_search_finds():
    y = torch.tensor([0.02, 0.1, 0.5, 0.9, -0.01], dtype=torch.float64).reshape(1, 1, 1, 5)
    physics = deepinv.physics.Denoising(SignalDependentNoise(SIGMA0, GAIN))
    data = sensor_data(LinearProblem.of(y, physics, device="cpu"))
    z, mu = torch.full_like(y, 0.4), torch.tensor([300.0], dtype=torch.float64)
    found = scored(data, white_step(data, (1, 1, 5), z, 1 / mu), z, mu, 30)
    grid = torch.linspace(-0.3, 1.3, 160_001, dtype=torch.float64)
    for i in range(5):
        v = SIGMA0**2 + GAIN * grid.clamp_min(0)
        values = ((y[..., i].item() - grid) ** 2 / v + v.log()) / 2 + 300.0 * (grid - 0.4) ** 2 / 2
        assert float(found[..., i]) == pytest.approx(float(grid[values.argmin()]), abs=1e-4)


@pytest.mark.parametrize("scale", [1, 2])
def test_scoring_ends_where_the_gradient_vanishes(scale):
    physics = sensor(scale)
    generator = torch.Generator().manual_seed(0)
    z = 0.1 + 0.8 * torch.rand(2, 1, 16, 16, generator=generator)
    y = physics.A(z)
    y = y + (SIGMA0**2 + GAIN * y).sqrt() * torch.randn(y.shape, generator=generator)
    y[0, 0, 3, 3] = torch.nan
    data = sensor_data(LinearProblem.of(y.double(), physics, device="cpu"))
    z, mu = z.double(), torch.tensor([50.0, 400.0], dtype=torch.float64)
    start = white_step(data, (1, 16, 16), z, 1 / mu)
    gradients = []
    for x in (start, scored(data, start, z, mu, 3), scored(data, start, z, mu, 12)):
        x = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(objective(data, x, z, mu).sum(), x)
        gradients.append(float(gradient.abs().max()))
    assert gradients[1] < 0.05 * gradients[0]
    assert gradients[2] < 1e-3 * gradients[0]


def test_white_noise_makes_it_dpir(gaussian_denoiser):
    physics = sensor(2, deepinv.physics.GaussianNoise(0.05))
    y = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    theirs = dpir(y, physics, gaussian_denoiser, device="cpu").mmse_x()
    ours = sat_dpir(y, physics, gaussian_denoiser, device="cpu").mmse_x()
    assert ours.shape == (2, 3, 16, 16)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-3)


def test_a_variance_that_is_not_linear_is_told():
    physics = deepinv.physics.Denoising(deepinv.physics.GammaNoise(20.0))
    with pytest.raises(ValueError, match="must be linear in the signal"):
        sat_dpir(torch.rand(1, 1, 8, 8) + 0.1, physics, lambda x, s: x)


def test_knowing_the_noise_is_worth_something(ffdnet_path, photographs):
    # Photographs darkened to the left: where it is dark the noise is a third of what it is in the light.
    x = photographs[:2, :, :64, :64] * torch.linspace(0.05, 1, 64)
    physics = sensor(1, SignalDependentNoise(0.01, 0.02))
    generator = torch.Generator().manual_seed(0)
    y = physics.A(x)
    y = y + (0.01**2 + 0.02 * y).sqrt() * torch.randn(y.shape, generator=generator)
    ours = mean_psnr(sat_dpir(y, physics, ffdnet_path, device="cpu").mmse_x(), x)
    white = mean_psnr(dpir(y, physics, ffdnet_path, device="cpu").mmse_x(), x)
    assert ours > mean_psnr(y, x) + 3
    assert ours > white
