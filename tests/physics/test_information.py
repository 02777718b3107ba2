"""Fisher information of a measurement: formulas against simulated scores."""

import deepinv
import pyro.distributions as dist
import pytest
import torch
from deepinv.physics import (
    GammaNoise,
    GaussianNoise,
    LaplaceNoise,
    PoissonGaussianNoise,
    PoissonNoise,
    UniformNoise,
    ZeroNoise,
)

from pyro_vble.physics import PhotonNoise, SignalDependentNoise, fisher_information, likelihood, noise_distribution
from pyro_vble.physics.information import score

NOISES = {
    "gaussian": GaussianNoise(0.2),
    "poisson-gaussian": PoissonGaussianNoise(gain=0.02, sigma=0.05),
    "signal-dependent": SignalDependentNoise(0.05, 0.02),
    "photons": PhotonNoise(0.05, 0.02),
    "poisson": PoissonNoise(gain=0.05),
    "poisson, counts": PoissonNoise(gain=0.05, normalize=False),
    "laplace": LaplaceNoise(0.1),
    "uniform": UniformNoise(0.3),
    "gamma": GammaNoise(5.0),
    "quantisation": ZeroNoise(),
}
SIGNALS = (0.1, 0.5, 0.9)


def distribution(noise, signal, sensor=None):
    physics = deepinv.physics.Denoising(noise)
    if sensor is not None:
        physics.sensor_model = sensor
    return likelihood(physics, signal)


@pytest.mark.parametrize("name", NOISES)
def test_it_is_the_mean_of_squared_scores(name):
    """Within five standard errors of a simulation; of two, where the information is one as well."""
    signal = torch.tensor(SIGNALS).repeat(3, 1).requires_grad_()
    found = fisher_information(distribution(NOISES[name], signal), signal)
    many = torch.tensor(SIGNALS).expand(20_000, 3).clone().requires_grad_()
    p_y = distribution(NOISES[name], many)
    with torch.no_grad():
        y = p_y.sample()
    squares = score(p_y, many, y).double().square()
    error = squares.std(0) * (1 / 20_000 + (1 / 64 if name in ("uniform", "photons") else 0)) ** 0.5
    assert bool(((found.double() - squares.mean(0)).abs() < 5 * error + 1e-5 * squares.mean(0)).all())


def test_formulas():
    signal = torch.tensor(SIGNALS, requires_grad=True)
    gaussian = fisher_information(distribution(NOISES["gaussian"], signal), signal)
    torch.testing.assert_close(gaussian, torch.full((3,), 25.0))
    variance = 0.02 * signal.detach() + 0.05**2
    both = fisher_information(distribution(NOISES["poisson-gaussian"], signal), signal)
    torch.testing.assert_close(both, 1 / variance + 0.5 * (0.02 / variance) ** 2)
    quantised = fisher_information(distribution(ZeroNoise(), signal), signal)
    torch.testing.assert_close(quantised, torch.full((3,), 255.0**2))


def test_a_saturated_value_says_less():
    signal = torch.tensor([0.5, 1.3], requires_grad=True)
    clipped = distribution(GaussianNoise(0.1), signal, lambda x: x.clamp(0, 1))
    middle, saturated = fisher_information(clipped, signal)
    assert float(middle) == pytest.approx(100, rel=0.9)
    assert float(saturated) < 5


def test_a_noise_of_ones_own_needs_no_formula():
    class StudentNoise(deepinv.physics.NoiseModel):
        pass

    @noise_distribution.register
    def _(noise_model: StudentNoise, signal):
        return dist.StudentT(4.0, signal, 0.1)

    signal = torch.zeros(40, 50).requires_grad_()
    found = fisher_information(distribution(StudentNoise(), signal), signal)
    assert float(found.mean()) == pytest.approx((4 + 1) / (4 + 3) / 0.01, rel=0.02)


def test_random_numbers_are_left_alone():
    signal = torch.zeros(3, requires_grad=True)
    before = torch.get_rng_state()
    fisher_information(distribution(NOISES["uniform"], signal), signal)
    assert torch.equal(torch.get_rng_state(), before)
