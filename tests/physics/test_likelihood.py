import deepinv
import pytest
import torch
from deepinv.physics import (
    GammaNoise,
    GaussianNoise,
    LaplaceNoise,
    PoissonGaussianNoise,
    PoissonNoise,
    SaltPepperNoise,
    UniformNoise,
    ZeroNoise,
)

from pyro_vble.physics import PhotonNoise, SignalDependentNoise, likelihood, noise_distribution

NOISES = {
    "gaussian": GaussianNoise(0.2),
    "poisson-gaussian": PoissonGaussianNoise(gain=0.02, sigma=0.1),
    "signal-dependent": SignalDependentNoise(0.1, 0.02),
    "photons": PhotonNoise(0.1, 0.02),
    "poisson": PoissonNoise(gain=0.05),
    "poisson, counts": PoissonNoise(gain=0.05, normalize=False),
    "laplace": LaplaceNoise(0.1),
    "uniform": UniformNoise(0.3),
    "gamma": GammaNoise(5.0),
}


def physics_with(noise):
    return deepinv.physics.Denoising(noise)


@pytest.mark.parametrize("name", NOISES)
def test_density_has_the_moments_of_deepinvs_sampler(name):
    """The density is ours, the sampler deepinv's: mean and variance must agree within Monte Carlo error."""
    signal = torch.full((1, 1, 500, 500), 0.6)
    y = NOISES[name](signal)
    p = likelihood(physics_with(NOISES[name]), signal[:1, :1, :1, :1])
    error = float((p.variance / y.numel()).sqrt())
    assert float(y.mean()) == pytest.approx(float(p.mean), abs=5 * error)
    assert float(y.var()) == pytest.approx(float(p.variance), rel=0.03)


@pytest.mark.parametrize("name", NOISES)
def test_finite_with_a_gradient_everywhere(name):
    signal = torch.linspace(-0.5, 2, 50).reshape(1, 1, 5, 10).requires_grad_()
    y = torch.full_like(signal, 0.5).detach()
    log_p = likelihood(physics_with(NOISES[name]), signal).log_prob(y)
    log_p.sum().backward()
    assert torch.isfinite(log_p).all()
    assert torch.isfinite(signal.grad).all()


def test_noise_free_gets_the_width_of_its_quantisation():
    for physics in (physics_with(ZeroNoise()), object()):
        assert float(likelihood(physics, torch.zeros(1)).scale) == pytest.approx(1 / 255)


def test_noise_levels_by_image_and_by_pixel():
    signal = torch.zeros(2, 3, 4, 5)
    by_image = likelihood(physics_with(GaussianNoise(torch.tensor([0.1, 0.2]))), signal)
    torch.testing.assert_close(by_image.scale[:, 0, 0, 0], torch.tensor([0.1, 0.2]))
    with_particles = likelihood(physics_with(GaussianNoise(torch.tensor([0.1, 0.2]))), signal.expand(7, 2, 3, 4, 5))
    torch.testing.assert_close(with_particles.scale[3, :, 0, 0, 0], torch.tensor([0.1, 0.2]))
    by_pixel = torch.rand(3, 4, 5) + 0.1
    torch.testing.assert_close(likelihood(physics_with(GaussianNoise(by_pixel)), signal).scale[1], by_pixel)


@pytest.mark.parametrize("kind", [SignalDependentNoise, PhotonNoise])
def test_noise_levels_by_band(kind):
    """Also of as many bands as images, and with particles before the batch."""
    sigma0, gain = torch.tensor([0.1, 0.2, 0.3]).reshape(3, 1, 1), torch.tensor([0.01, 0.02, 0.04]).reshape(3, 1, 1)
    noise, signal = kind(sigma0, gain), torch.full((7, 3, 3, 4, 5), 0.5)
    expected = (sigma0**2 + gain * 0.5).expand(signal.shape)
    torch.testing.assert_close(likelihood(physics_with(noise), signal, event_dim=3).variance, expected)
    torch.manual_seed(0)
    y = noise(torch.full((3, 3, 100, 100), 0.5))
    torch.testing.assert_close(y.var((0, 2, 3)), expected[0, 0, :, 0, 0], rtol=6 / 30_000**0.5, atol=0)


@pytest.mark.parametrize("kind", [SignalDependentNoise, PhotonNoise])
def test_noise_levels_of_photons_by_image(kind):
    noise = kind(torch.tensor([0.1, 0.2]), torch.tensor([0.01, 0.02]))
    p = likelihood(physics_with(noise), torch.full((2, 3, 4, 5), 0.5), event_dim=3)
    torch.testing.assert_close(p.variance[:, 0, 0, 0], torch.tensor([0.015, 0.05]))
    torch.manual_seed(0)
    y = noise(torch.full((2, 1, 200, 200), 0.5))
    torch.testing.assert_close(y.var((1, 2, 3)), torch.tensor([0.015, 0.05]), rtol=6 / 40_000**0.5, atol=0)


@pytest.mark.parametrize(("kind", "sigma0", "gain"), [(SignalDependentNoise, 0, 0.1), (SignalDependentNoise, 0.1, -1),
                                                      (PhotonNoise, 0.1, 0), (PhotonNoise, -0.1, 0.1)])  # fmt: skip
def test_noise_levels_of_photons_must_be_levels(kind, sigma0, gain):
    with pytest.raises(ValueError, match=r"(sigma0|gain) must be .*finite.*; received"):
        kind(sigma0, gain)


def test_both_models_of_photons_agree_where_there_are_many():
    """Per value by less than the divergence's square root, here about 0.02."""
    signal = torch.full((1, 1, 1, 2000), 0.5, dtype=torch.float64)
    gaussian, exact = (
        likelihood(physics_with(kind(0.01, 5e-4)), signal) for kind in (SignalDependentNoise, PhotonNoise)
    )
    torch.manual_seed(0)
    y = exact.sample()
    difference = (exact.log_prob(y) - gaussian.log_prob(y)).mean()
    assert abs(float(difference)) < 0.005


@pytest.mark.parametrize("event", [(5,), (3, 5), (3, 4, 5), (2, 3, 4, 5)])
@pytest.mark.parametrize("particles", [(), (1,), (2,), (7,)])
def test_noise_levels_by_image_whatever_a_measurement_is(event, particles):
    """Told how many dimensions a measurement has, the batch is not mistaken for particles before it."""
    sigma = torch.tensor([0.1, 0.2])
    p = likelihood(physics_with(GaussianNoise(sigma)), torch.zeros(*particles, 2, *event), event_dim=len(event))
    assert p.batch_shape == (*particles, 2, *event)
    expected = sigma.reshape(2, *[1] * len(event)).expand(p.batch_shape)
    torch.testing.assert_close(p.scale, expected)


@pytest.mark.parametrize("name", ["poisson", "gamma"])
def test_dark_pixels_can_still_brighten(name):
    signal = torch.tensor([-0.02, 0.0, 0.001], requires_grad=True)
    likelihood(physics_with(NOISES[name]), signal).log_prob(torch.full((3,), 0.3)).sum().backward()
    assert (signal.grad > 0).all()


@pytest.mark.parametrize("sigma", [0.0, -0.1, float("nan")])
def test_sigma_must_be_positive(sigma):
    with pytest.raises(ValueError, match=r"sigma of GaussianNoise must be finite and positive; received .*ZeroNoise"):
        likelihood(physics_with(GaussianNoise(sigma)), torch.zeros(1))


def test_a_shape_that_fits_nothing():
    with pytest.raises(
        ValueError, match=r"broadcastable to the measurement \(2, 3, 4, 5\); received shape \(7, 1, 1, 1\)"
    ):
        likelihood(physics_with(GaussianNoise(torch.ones(7))), torch.zeros(2, 3, 4, 5))


def test_unknown_noise_is_refused_and_can_be_registered():
    physics = physics_with(SaltPepperNoise())
    with pytest.raises(TypeError, match=r"received SaltPepperNoise; register"):
        likelihood(physics, torch.zeros(1))

    class StudentNoise(deepinv.physics.NoiseModel):
        pass

    @noise_distribution.register
    def _(noise_model: StudentNoise, signal):
        return torch.distributions.StudentT(4.0, signal)

    assert likelihood(physics_with(StudentNoise()), torch.zeros(2)).df[0] == 4
