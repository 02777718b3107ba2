"""Kernels, radii and priors that would be taken for something else."""

import deepinv
import pyro.distributions as dist
import pytest
import torch

import pyro_vble as pv
from pyro_vble.physics import GaussianBlur
from pyro_vble.physics.problems import deblurring

DENOISING = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))


@pytest.mark.parametrize("side", [3, 4, 5, 6])
def test_a_kernel_of_one_point_at_its_centre_moves_nothing(side):
    kernel = torch.zeros(side, side)
    kernel[side // 2, side // 2] = 1
    x = torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(deblurring(0.1, kernel).A(x), x)


def test_a_radius_is_whole():
    with pytest.raises(ValueError, match="radius must be a whole number"):
        GaussianBlur(1.0, radius=2.5)


def test_a_kernel_larger_than_the_image_is_named(cae):
    with pytest.raises(ValueError, match="kernel"):
        pv.restore(torch.rand(1, 3, 32, 32), deblurring(0.1, torch.ones(129, 129)), cae, num_steps=1, progress=False)


@pytest.mark.parametrize(
    "prior",
    [dist.Delta(torch.tensor(0.05)), dist.Poisson(torch.tensor(3.0)), dist.Bernoulli(torch.tensor(0.5)), 0.1],
    ids=["Delta", "Poisson", "Bernoulli", "a number"],
)
def test_priors_without_a_density_on_the_real_line_are_refused(cae, prior):
    y = torch.rand(1, 3, 32, 32)
    with pytest.raises((TypeError, ValueError), match="sigma"):
        pv.restore(y, DENOISING, cae, physics_priors={"sigma": prior}, num_steps=1, progress=False)
