import deepinv
import pyro.distributions as dist
import pytest
import torch
from deepinv.physics import Denoising, Downsampling, GaussianNoise, PoissonGaussianNoise
from helpers import MatrixPhysics

from pyro_vble.models import RestorationModel
from pyro_vble.physics import (
    GaussianBlur,
    check_physics_priors,
    describe,
    initial_value,
    likelihood,
    measure,
    operator_on,
)
from pyro_vble.physics.problems import deblurring, gaussian_kernel


class TestGaussianBlur:
    def test_it_is_the_blur_of_its_kernel(self):
        x = torch.rand(2, 3, 40, 32)
        torch.testing.assert_close(GaussianBlur(1.5).A(x), deblurring(0.1, gaussian_kernel(1.5)).A(x))

    def test_one_width_an_image(self):
        x, physics = torch.rand(2, 3, 32, 32), GaussianBlur(1.0, radius=8)
        both = physics.A(x, width=torch.tensor([0.8, 2.0]))
        torch.testing.assert_close(both[:1], physics.A(x[:1], width=0.8))
        torch.testing.assert_close(both[1:], physics.A(x[1:], width=torch.tensor(2.0)))
        torch.testing.assert_close(physics.A(x), physics.A(x, width=1.0))

    def test_the_adjoint_is_one(self):
        physics = GaussianBlur(1.3).double()
        x, y = torch.rand(2, 1, 1, 24, 24, dtype=torch.float64)
        torch.testing.assert_close((physics.A(x) * y).sum(), (x * physics.A_adjoint(y)).sum())

    def test_the_derivative_by_the_width(self):
        x, physics = torch.rand(1, 1, 20, 20, dtype=torch.float64), GaussianBlur(1.0, radius=6).double()
        width = torch.tensor([1.2], dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda w: physics.A(x, width=w), (width,))

    def test_widths_are_positive(self):
        with pytest.raises(ValueError, match="width must be a positive, finite number"):
            GaussianBlur(0.0)


class TestNoiseParameters:
    def test_one_value_an_image_replaces_the_models_own_which_stays(self):
        noise = GaussianNoise(0.5)
        physics, signal = Denoising(noise), torch.zeros(2, 3, 4, 4)
        p = likelihood(physics, signal, {"sigma": torch.tensor([0.1, 0.2])})
        torch.testing.assert_close(p.scale[:, 0, 0, 0], torch.tensor([0.1, 0.2]))
        assert float(noise.sigma) == 0.5

    def test_under_particles_and_for_measurements_that_are_no_images(self):
        sigma = torch.rand(5, 2) + 0.1
        p = likelihood(Denoising(GaussianNoise(0.5)), torch.zeros(5, 2, 3, 4, 4), {"sigma": sigma})
        torch.testing.assert_close(p.scale[..., 1, 2, 3], sigma)
        p = likelihood(Denoising(GaussianNoise(0.5)), torch.zeros(5, 2, 7), {"sigma": sigma})
        torch.testing.assert_close(p.scale[..., 3], sigma)

    def test_two_of_them(self):
        physics = Denoising(PoissonGaussianNoise(gain=0.1, sigma=0.1))
        values = {"gain": torch.tensor([0.2]), "sigma": torch.tensor([0.3])}
        p = likelihood(physics, torch.full((1, 1, 2, 2), 0.5), values)
        torch.testing.assert_close(p.scale, torch.full((1, 1, 2, 2), (0.2 * 0.5 + 0.09) ** 0.5))

    def test_operators_get_their_arguments_particle_by_particle(self):
        x, width = torch.rand(3, 2, 1, 16, 16), torch.rand(3, 2) + 0.5
        physics = GaussianBlur(1.0, radius=6)
        y = measure(physics, x, {"width": width})
        torch.testing.assert_close(y[1], physics.A(x[1], width=width[1]))


class TestChecks:
    PHYSICS = Denoising(GaussianNoise(0.1))

    def test_arguments_of_operators_one_after_another(self):
        composed = Downsampling(img_size=(3, 16, 16), factor=2, noise_model=GaussianNoise(0.1)) * GaussianBlur(1.5)
        check_physics_priors(composed, {"width": dist.HalfNormal(1.0)})
        assert float(initial_value(composed, "width", dist.HalfNormal(1.0))) == 1.5

    def test_a_start_without_icdf_leaves_the_generator_alone(self):
        random = torch.get_rng_state()
        assert 0.5 < float(initial_value(object(), "gain", dist.Gamma(2.0, 2.0))) < 1.5
        assert torch.equal(torch.get_rng_state(), random)

    def test_names(self):
        with pytest.raises(ValueError, match="parameters of the noise model or arguments"):
            check_physics_priors(self.PHYSICS, {"sigmma": dist.HalfNormal(0.1)})
        with pytest.raises(ValueError, match="model's own names"):
            check_physics_priors(self.PHYSICS, {"z": dist.HalfNormal(0.1)})

    def test_priors(self):
        with pytest.raises(TypeError, match="distribution of one real number"):
            check_physics_priors(self.PHYSICS, {"sigma": 0.1})
        with pytest.raises(TypeError, match="distribution of one real number"):
            check_physics_priors(self.PHYSICS, {"sigma": dist.HalfNormal(torch.ones(2))})

    def test_the_search_starts_at_the_operators_own_value_or_in_the_priors_middle(self, cae):
        y = torch.rand(2, 3, 64, 64)
        model = RestorationModel(cae, self.PHYSICS, physics_priors={"sigma": dist.HalfNormal(0.3)})
        torch.testing.assert_close(model.initial_parameters(y)["sigma"], torch.tensor([0.1, 0.1]))
        model = RestorationModel(cae, self.PHYSICS, physics_priors={"sigma": dist.Uniform(0.2, 0.4)})
        torch.testing.assert_close(model.initial_parameters(y)["sigma"], torch.tensor([0.3, 0.3]))


def test_descriptions():
    assert describe(None) == "no operator"
    physics = deepinv.physics.Blur(torch.ones(1, 1, 3, 3), noise_model=GaussianNoise(0.25))
    assert describe(physics) == "Blur(filter 1x1x3x3 #53591828) + GaussianNoise(sigma=0.25)"


def test_arrays_of_one_shape_are_told_apart():
    blurs = [deblurring(0.1, kernel) for kernel in (gaussian_kernel(1.5), gaussian_kernel(1.4))]
    blurs[1].filter.resize_(blurs[0].filter.shape)
    assert len({describe(blur) for blur in blurs}) == 2
    assert describe(blurs[0]) == describe(operator_on(blurs[0], torch.device("cpu"), torch.float64))
    assert describe(blurs[0]) == describe(deblurring(0.1, gaussian_kernel(1.5).double().float()))
    # Attributes that are no buffers, operators that are no modules, and operators one after another.
    matrices = [MatrixPhysics(torch.full((2, 3), value), GaussianNoise(0.1)) for value in (1.0, 2.0)]
    assert len({describe(physics) for physics in matrices}) == 2
    halves = Downsampling(img_size=(3, 32, 32), factor=2, filter=None)
    assert len({describe(halves * blur) for blur in blurs}) == 2
    assert describe(MatrixPhysics(torch.tensor([0.0, 1.0]), None)) == describe(
        MatrixPhysics(torch.tensor([-0.0, 1.0], dtype=torch.float64), None)
    )
