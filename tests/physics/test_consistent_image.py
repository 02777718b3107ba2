"""The start of a fit: the first guess, drawn towards the measurement."""

import deepinv
import pytest
import torch

from pyro_vble.metrics import psnr
from pyro_vble.physics import consistent_image, initial_image
from pyro_vble.physics.initial import _TAU
from pyro_vble.physics.problems import deblurring, gaussian_kernel, super_resolution


class Matrix(deepinv.physics.LinearPhysics):
    """A linear operator whose system can be solved directly."""

    def __init__(self, matrix, sigma):
        super().__init__(noise_model=deepinv.physics.GaussianNoise(sigma))
        self.matrix = matrix

    def A(self, x, **kwargs):
        return (x.flatten(1) @ self.matrix.T).reshape(x.shape)

    def A_adjoint(self, y, **kwargs):
        return (y.flatten(1) @ self.matrix).reshape(y.shape)


def test_solves_the_system_it_states():
    """Well conditioned, ten steps of conjugate gradients reach their tolerance."""
    torch.manual_seed(0)
    a, sigma = torch.eye(48) + 0.1 * torch.randn(48, 48), 0.05
    y = 0.5 + 0.1 * torch.rand(2, 3, 4, 4)
    physics = Matrix(a, sigma)
    start = initial_image(physics, y, (3, 4, 4)).flatten(1)
    weight = (_TAU / sigma) ** 2
    exact = torch.linalg.solve(weight * a.T @ a + torch.eye(48), (weight * y.flatten(1) @ a + start).T).T
    found = consistent_image(physics, y, (3, 4, 4)).flatten(1)
    inside = (exact > 0) & (exact < 1)
    # No eigenvalue of the system is below one: the error is at most the residual, a hundredth of the right-hand side.
    right = weight * y.flatten(1) @ a + start
    assert float((found - exact)[inside].norm()) < 0.01 * float(right.norm())
    assert float((found - exact)[inside].norm()) < 0.05 * float((exact - start).norm())


@pytest.mark.parametrize("problem", ["blur", "x2"])
def test_explains_the_measurement_better_and_sharpens_a_blurred_photograph(problem):
    import skimage.data

    x = torch.from_numpy(skimage.data.coffee()[100:164, 200:264].copy()).permute(2, 0, 1)[None].float() / 255
    blur, downsampling = deblurring(0.01, gaussian_kernel(2.0)), super_resolution(0.01, (3, 64, 64), 2)
    physics = {"blur": blur, "x2": downsampling}[problem]
    y = physics(x)
    first, drawn = initial_image(physics, y, (3, 64, 64)), consistent_image(physics, y, (3, 64, 64))
    if problem == "blur":
        assert psnr(drawn, x) > psnr(first, x) + 0.5
    assert float((physics.A(drawn) - y).square().mean()) < float((physics.A(first) - y).square().mean())


def test_each_image_for_itself_and_the_operator_as_it_was():
    physics = deblurring(0.02, gaussian_kernel(1.0))
    y = torch.rand(3, 3, 32, 32)
    before = {name: value.clone() for name, value in physics.state_dict().items()}
    settings = (physics.max_iter, physics.tol)
    batch = consistent_image(physics, y, (3, 32, 32))
    single = torch.cat([consistent_image(physics, y[i : i + 1], (3, 32, 32)) for i in range(3)])
    torch.testing.assert_close(batch, single, atol=2e-3, rtol=0)  # the batch stops when its last image does
    assert (physics.max_iter, physics.tol) == settings
    assert all(torch.equal(value, before[name]) for name, value in physics.state_dict().items())


def test_missing_values_are_left_out():
    physics = deblurring(0.01, gaussian_kernel(1.5))
    x = torch.rand(1, 3, 8, 8).repeat_interleave(4, -1).repeat_interleave(4, -2)
    y = physics(x)
    y[..., 3:9, 3:9] = torch.nan
    first, drawn = initial_image(physics, y, (3, 32, 32)), consistent_image(physics, y, (3, 32, 32))
    observed = y.isfinite()
    misfit = [float((physics.A(guess) - y)[observed].square().mean()) for guess in (drawn, first)]
    assert misfit[0] < 0.5 * misfit[1]
    assert psnr(drawn, x) > psnr(first, x)


def test_without_adjoint_it_is_the_first_guess():
    class OnlyA:
        noise_model = deepinv.physics.GaussianNoise(0.1)

        def A(self, x):
            return 0.5 * x

    y = torch.rand(1, 3, 32, 32)
    assert torch.equal(consistent_image(OnlyA(), y, (3, 32, 32)), initial_image(OnlyA(), y, (3, 32, 32)))
