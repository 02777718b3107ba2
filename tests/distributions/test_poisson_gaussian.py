"""Counts with Gaussian noise of reading, against sums in high precision."""

import math

import mpmath
import pytest
import torch

from pyro_vble.distributions import PoissonGaussian


def exact(y, rate, gain, sigma):
    """The sum over all counts that matter, in 40 digits."""
    with mpmath.workdps(40):
        mean = mpmath.mpf(rate) / gain
        total, widest = mpmath.mpf(0), max(mean, abs(y) / gain)
        for n in range(int(widest + 15 * math.sqrt(widest + 10) + 15 * sigma / gain)):
            poisson = mpmath.exp(-mean + n * mpmath.log(mean) - mpmath.loggamma(n + 1))
            total += poisson * mpmath.npdf(y, gain * n, sigma)
        return float(mpmath.log(total))


@pytest.mark.parametrize("gain", [1.0, 0.01])
@pytest.mark.parametrize("mean", [0.001, 0.5, 5.0, 22.0, 300.0])
@pytest.mark.parametrize("reading", [0.2, 1.0, 4.6, 60.0])
def test_log_prob(gain, mean, reading):
    """Where all counts are nodes, where nodes are further apart, and in between."""
    deviation = math.sqrt(mean + reading**2)
    y = [gain * (mean + z * deviation) for z in (-8, -2, 0.3, 2, 8)]
    numbers = [gain * mean, gain, gain * reading]
    p = PoissonGaussian(*(torch.tensor(v, dtype=torch.float64) for v in numbers))
    found = p.log_prob(torch.tensor(y, dtype=torch.float64))
    expected = torch.tensor([exact(v, *numbers) for v in y], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


def test_it_integrates_to_one():
    y = torch.linspace(-30, 90, 20_001, dtype=torch.float64)
    for mean, sigma in ((0.1, 0.3), (3.0, 1.0), (20.0, 4.0)):
        p = PoissonGaussian(torch.tensor(mean, dtype=torch.float64), 1.0, sigma)
        assert float(torch.trapezoid(p.log_prob(y).exp(), y)) == pytest.approx(1, abs=1e-6)


def test_gradients():
    rate, gain, sigma = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.7, 0.1, 0.05))
    y = torch.tensor([-0.1, 0.3, 0.72, 2.0], dtype=torch.float64, requires_grad=True)

    def log_prob(*numbers):
        return PoissonGaussian(*numbers[1:]).log_prob(numbers[0])

    assert torch.autograd.gradcheck(log_prob, (y, rate, gain, sigma))


def test_single_precision_and_extremes_are_finite():
    rate = torch.tensor([0.0, 1e-6, 1.0, 1e4], requires_grad=True)
    for gain, sigma in ((0.01, 0.001), (1.0, 3.0), (1e-5, 0.1)):
        for y in (-3.0, 0.0, 1.0, 1e4):
            log_prob = PoissonGaussian(rate, gain, sigma).log_prob(torch.tensor(y))
            assert log_prob.isfinite().all()
            assert torch.autograd.grad(log_prob.sum(), rate)[0].isfinite().all()


def test_sample_moments():
    p = PoissonGaussian(torch.tensor(3.0), 0.5, 0.8)
    torch.manual_seed(0)
    draws = p.sample((40_000,))
    assert float(draws.mean()) == pytest.approx(float(p.mean), abs=5 * (float(p.variance) / 40_000) ** 0.5)
    assert float(draws.var()) == pytest.approx(float(p.variance), rel=0.05)
    assert p.expand((2, 3)).sample().shape == (2, 3)


@pytest.mark.parametrize(
    ("mean", "reading", "cost"), [(1.0, 0.5, 0.048), (10.0, 1.0, 0.0065), (30.0, 2.0, 0.0019), (100.0, 5.0, 4.3e-4)]
)
def test_what_a_gaussian_costs_is_what_the_docstring_says(mean, reading, cost):
    deviation = math.sqrt(mean + reading**2)
    y = torch.linspace(-10 * reading, mean + 14 * deviation, 20_001, dtype=torch.float64)
    log_p = PoissonGaussian(torch.tensor(mean, dtype=torch.float64), 1.0, reading).log_prob(y)
    log_q = torch.distributions.Normal(torch.tensor(mean, dtype=torch.float64), deviation).log_prob(y)
    assert float(torch.trapezoid(log_p.exp() * (log_p - log_q), y)) == pytest.approx(cost, rel=0.05)


def test_numbers_out_of_range():
    with pytest.raises(ValueError, match="sigma"):
        PoissonGaussian(torch.tensor(1.0), 1.0, 0.0, validate_args=True)
