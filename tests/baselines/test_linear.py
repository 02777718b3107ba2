"""The common ground of the baselines: operators in units of their noise."""

import deepinv
import pytest
import torch

from pyro_vble.baselines.linear import LinearProblem
from pyro_vble.physics import OpticalSensor, SignalDependentNoise

SHAPE = (1, 6, 8)
NOISE = deepinv.physics.GaussianNoise(0.05)


def kernel():
    grid = torch.arange(-1, 2, dtype=torch.float64)
    k = torch.exp(-0.5 * grid[:, None] ** 2 - 0.3 * grid[None, :] ** 2 + 0.2 * grid[:, None] * grid[None, :])
    return (k / k.sum())[None, None]


def operators():
    mask = torch.ones(SHAPE, dtype=torch.float64)
    mask[:, ::2, ::3] = 0
    return {
        "denoising": deepinv.physics.Denoising(NOISE),
        "inpainting": deepinv.physics.Inpainting(SHAPE, mask=mask, noise_model=NOISE),
        "blur": deepinv.physics.Blur(kernel(), padding="reflect", noise_model=NOISE),
        "circular": deepinv.physics.BlurFFT(SHAPE, kernel(), noise_model=NOISE),
        "downsampling": deepinv.physics.Downsampling(
            SHAPE, filter=kernel(), factor=2, padding="circular", noise_model=NOISE
        ),
        "sensor": OpticalSensor(kernel()[0, 0].numpy(), noise_model=NOISE),
    }


@pytest.mark.parametrize("name", list(operators()))
@pytest.mark.parametrize("missing", [False, True])
def test_the_proximal_step_solves_its_normal_equations(name, missing):
    physics = operators()[name].double()
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, *SHAPE, generator=generator, dtype=torch.float64)
    y = physics.A(x) + 0.05 * torch.randn(physics.A(x).shape, generator=generator, dtype=torch.float64)
    if missing:
        y[:, :, 1, 1] = torch.nan
    problem = LinearProblem.of(y, physics, device="cpu")
    basis = torch.eye(x[0].numel(), dtype=torch.float64).reshape(-1, *SHAPE)
    for i in range(2):
        # A as a matrix, weighted by hand.
        observed = torch.isfinite(y[i]).flatten()
        matrix = physics.A(basis).flatten(1).T[observed] / 0.05
        data = y[i].flatten()[observed] / 0.05
        gamma = 1e-3 * (1 + i)
        lhs = gamma * matrix.T @ matrix + torch.eye(matrix.shape[1], dtype=torch.float64)
        expected = torch.linalg.solve(lhs, gamma * matrix.T @ data + x[i].flatten())
        one = problem.physics.prox_l2(x, problem.y, gamma=torch.tensor([1e-3, 2e-3]).double())[i]
        torch.testing.assert_close(one.flatten(), expected, rtol=0, atol=2e-5)
    # The same weight for all takes deepinv's closed form, where there is one.
    both = problem.physics.prox_l2(x, problem.y, gamma=1e-3)[0]
    one = problem.physics.prox_l2(x, problem.y, gamma=torch.tensor([1e-3, 2e-3]).double())[0]
    torch.testing.assert_close(both, one, rtol=0, atol=2e-5)


def test_an_even_noise_keeps_the_closed_form_and_a_missing_pixel_does_not():
    physics = operators()["circular"].double()
    y = torch.rand(1, *SHAPE, dtype=torch.float64)
    assert LinearProblem.of(y, physics, device="cpu").physics.has_closed_form
    y[0, 0, 0, 0] = torch.nan
    assert not LinearProblem.of(y, physics, device="cpu").physics.has_closed_form


def test_noise_that_grows_with_the_signal_is_white_of_the_mean_variance():
    y = torch.tensor([0.2, 0.6, torch.nan]).reshape(1, 1, 1, 3).double()
    physics = deepinv.physics.Denoising(SignalDependentNoise(0.1, 0.05))
    problem = LinearProblem.of(y, physics, device="cpu")
    torch.testing.assert_close(problem.noise, torch.tensor([0.03]).double().sqrt())


def test_what_is_not_linear_or_no_tensor_is_told():
    with pytest.raises(TypeError, match="linear operator"):
        LinearProblem.of(torch.rand(1, *SHAPE), deepinv.physics.SinglePixelCamera, device="cpu")
    with pytest.raises(TypeError, match="floating-point tensor"):
        LinearProblem.of([1.0], deepinv.physics.Denoising(NOISE), device="cpu")
    counts = deepinv.physics.Denoising(deepinv.physics.PoissonNoise(0.1, normalize=False))
    with pytest.raises(ValueError, match="in units of the image"):
        LinearProblem.of(torch.rand(1, *SHAPE).round(), counts, device="cpu")


def test_a_closed_form_that_is_wrong_is_not_taken():
    # deepinv's for a kernel of 15 pixels, larger than the image.
    physics = deepinv.physics.Downsampling(filter="gaussian", factor=2, padding="circular", noise_model=NOISE)
    y = torch.rand(1, 1, 6, 8, generator=torch.Generator().manual_seed(0))
    problem = LinearProblem.of(y, physics, device="cpu")
    x = problem.physics.prox_l2(problem.start, problem.y, gamma=1.0)
    gradient = problem.physics.A_adjoint(problem.physics.A(x) - problem.y) + (x - problem.start)
    assert float(gradient.abs().max()) < 1e-3 * float(problem.physics.A_adjoint(problem.y).abs().max())
