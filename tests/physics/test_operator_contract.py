"""What every operator and every noise must keep."""

import deepinv
import pytest
import torch
from deepinv.physics import (
    Denoising,
    GammaNoise,
    GaussianNoise,
    LaplaceNoise,
    PoissonGaussianNoise,
    PoissonNoise,
    UniformNoise,
    ZeroNoise,
)

import pyro_vble as pv
from pyro_vble.models import RestorationModel
from pyro_vble.physics import (
    GaussianBlur,
    OpticalMTF,
    OpticalSensor,
    PhotonNoise,
    SignalDependentNoise,
    image_shape_of,
    initial_image,
    likelihood,
    point_spread_function,
)
from pyro_vble.physics.problems import deblurring, gaussian_kernel, inpainting, super_resolution

SHAPE = (3, 32, 32)
NOISE = GaussianNoise(0.1)
MTF = OpticalMTF(along=0.15, across=0.2)
OPERATORS = {
    "denoising": Denoising(NOISE),
    "blur": deblurring(0.1, gaussian_kernel(1.5)),
    "blur without padding": deepinv.physics.Blur(
        filter=torch.ones(1, 1, 5, 5) / 25, padding="valid", noise_model=NOISE
    ),
    "Gaussian blur": GaussianBlur(1.0, noise_model=NOISE),
    "sensor": OpticalSensor(point_spread_function(MTF), noise_model=NOISE),
    "sensor of half the resolution": OpticalSensor(
        point_spread_function(MTF, 2), scale=2, noise_model=SignalDependentNoise(0.1, 0.01), bits=8
    ),
    "sensor without padding": OpticalSensor(point_spread_function(MTF, 2), scale=2, padding="valid", noise_model=NOISE),
    "half the size": super_resolution(0.1, SHAPE, 2),
    "holes": inpainting(0.1, (torch.rand(SHAPE, generator=torch.Generator().manual_seed(0)) > 0.5).float()),
    "one band of three": deepinv.physics.Decolorize(noise_model=NOISE),
    "fewer numbers": deepinv.physics.CompressedSensing(m=500, img_size=SHAPE, noise_model=NOISE),
}
NOISES = {
    "Gaussian": GaussianNoise(0.1),
    "Poisson": PoissonNoise(0.02),
    "counts": PoissonNoise(0.02, normalize=False),
    "Poisson-Gaussian": PoissonGaussianNoise(gain=0.02, sigma=0.05),
    "signal-dependent": SignalDependentNoise(0.05, 0.02),
    "photons": PhotonNoise(0.05, 0.02),
    "Laplace": LaplaceNoise(0.1),
    "uniform": UniformNoise(0.1),
    "gamma": GammaNoise(50.0),
}


@pytest.fixture(params=OPERATORS)
def physics(request):
    return OPERATORS[request.param]


class TestOperators:
    def test_the_image_s_shape_is_found(self, physics):
        assert image_shape_of(physics, physics(torch.rand(1, *SHAPE)), SHAPE) == SHAPE

    def test_the_first_guess_is_an_image(self, physics):
        guess = initial_image(physics, physics(torch.rand(2, *SHAPE)), SHAPE)
        assert guess.shape == (2, *SHAPE)
        assert 0 <= float(guess.min()) <= float(guess.max()) <= 1

    def test_what_is_not_observed_carries_no_likelihood(self, physics, cae):
        y = physics(torch.rand(1, *SHAPE))
        model = RestorationModel(cae, physics, image_shape=SHAPE)
        spoilt = y.clone()
        spoilt.flatten()[:3] = torch.nan
        for measurement in (y, spoilt):
            posterior = pv.restore(
                measurement, physics, cae, image_shape=SHAPE, num_steps=2, seed=0, progress=False, precision="float32"
            )
            log_likelihood = next(posterior.draws(1)).log_likelihood
            assert log_likelihood.isfinite().all()
            assert bool((log_likelihood[0][measurement.isnan()] == 0).all())
        assert model.image_shape(y) == SHAPE

    def test_it_is_left_as_it_was(self, physics, cae):
        before = {name: value.clone() for name, value in physics.state_dict().items()}
        y = physics(torch.rand(1, *SHAPE))
        pv.restore(y, physics, cae, image_shape=SHAPE, num_steps=1, seed=0, progress=False)
        assert all(torch.equal(value, before[name]) for name, value in physics.state_dict().items())


@pytest.mark.parametrize("name", NOISES)
class TestNoises:
    def test_the_density_has_the_moments_of_deepinvs_samples(self, name):
        physics, x = Denoising(NOISES[name]), torch.full((1, 1, 300, 300), 0.6)
        y, p_y = physics(x), likelihood(physics, x)
        n = y.numel()
        assert float(y.mean()) == pytest.approx(float(p_y.mean.mean()), abs=5 * float(y.std()) / n**0.5)
        # The uniform's density is widened a little, so that it has a gradient.
        assert float(y.var()) == pytest.approx(float(p_y.variance.mean()), rel=0.05)

    def test_the_density_is_finite_on_samples_of_both(self, name):
        physics, x = Denoising(NOISES[name]), 0.2 + 0.6 * torch.rand(1, 3, 16, 16)
        p_y = likelihood(physics, x)
        for y in (physics(x), p_y.sample()):
            assert p_y.log_prob(y).isfinite().all()

    def test_it_restores(self, name, cae):
        physics = Denoising(NOISES[name])
        y = physics(0.2 + 0.6 * torch.rand(1, *SHAPE))
        posterior = pv.restore(y, physics, cae, num_steps=3, seed=0, progress=False)
        assert posterior.elbo.isfinite().all()
        assert posterior.predictive(2).shape == (2, 1, *SHAPE)


def test_without_noise_the_width_is_that_of_quantisation():
    assert float(likelihood(Denoising(ZeroNoise()), torch.zeros(1)).scale) == pytest.approx(1 / 255)
