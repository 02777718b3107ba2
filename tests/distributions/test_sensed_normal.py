"""A Gaussian seen through a sensor: mass, moments and samples."""

import math

import pytest
import torch

from pyro_vble.distributions import SensedNormal

SENSORS = {
    "saturates": {"high": 1.0},
    "clips": {"low": 0.0, "high": 1.0},
    "rounds": {"step": 1 / 15},
    "rounds and clips": {"low": 0.0, "high": 1.0, "step": 1 / 15},
    "cuts off and clips": {"low": 0.0, "high": 1.0, "step": 1 / 15, "shift": 1 / 30},
}
LOC = torch.tensor([0.5, 0.02, 0.97, 1.1], dtype=torch.float64)
SCALE = torch.tensor(0.1, dtype=torch.float64)


def measure(options):
    """All values that the sensor may return, and the weight of each in a sum over its density."""
    step, width = options.get("step", 0.0), 4.0
    low, high = options.get("low", -width), options.get("high", width)
    count = round((high - low) / (step or 2e-4))
    values = low + (high - low) * torch.arange(count + 1, dtype=torch.float64) / count
    weights = torch.full_like(values, step or (high - low) / count)
    if not step:
        weights[0] = weights[-1] = weights[0] / 2
        inner = values[1:-1]
        values, weights = torch.cat((values[:1], inner, values[-1:])), weights
    ends = torch.zeros_like(weights)
    if "low" in options:
        ends[0] = 1.0
    if "high" in options:
        ends[-1] = 1.0
    return values[:, None], weights[:, None], ends[:, None]


@pytest.mark.parametrize("name", SENSORS)
def test_probabilities_at_the_ends_and_the_density_between_sum_to_one(name):
    p = SensedNormal(LOC, SCALE, **SENSORS[name])
    values, weights, ends = measure(SENSORS[name])
    inside = p.log_prob(values).exp()
    # Just within an end the density goes on as it was.
    nudged = p.log_prob(values + 3e-6 * (values.abs() < 1e-9) - 3e-6 * ((values - 1).abs() < 1e-9)).exp()
    total = torch.where(ends > 0, inside, 0.0).sum(0)
    if not SENSORS[name].get("step"):
        total = total + (nudged * weights).sum(0)
    else:
        total = total + torch.where(ends > 0, 0.0, inside * weights).sum(0)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", SENSORS)
def test_moments_are_those_of_samples(name):
    p = SensedNormal(LOC, SCALE, **SENSORS[name])
    n = 200_000
    samples = p.sample((n,))
    if not SENSORS[name].get("step"):
        error = 5 * samples.std(0) / n**0.5 + 1e-12
        assert bool(((samples.mean(0) - p.mean).abs() < error).all())
        torch.testing.assert_close(samples.var(0), p.variance, rtol=5 * (2 / n) ** 0.5 * 4, atol=0)
    else:  # rounding moves means of few steps by a part of one, and adds the variance of a uniform distribution
        assert float((samples.mean(0) - p.mean).abs().max()) < 0.05 / 15
        assert float((samples.var(0)[:2] / p.variance[:2] - 1).abs().max()) < 0.1


def test_the_probability_of_saturation_has_a_gradient_however_unlikely():
    loc = torch.tensor([0.0, -3.0], requires_grad=True)
    SensedNormal(loc, torch.tensor(0.01), high=1.0).log_prob(torch.ones(2)).sum().backward()
    # d/dmu log(1 - Phi(t)) is about t / sigma far out.
    torch.testing.assert_close(loc.grad, torch.tensor([1.0, 4.0]) / 0.01**2, rtol=1e-2, atol=0)


def test_values_stored_in_less_precision_are_still_at_the_end():
    p = SensedNormal(torch.tensor([0.9], dtype=torch.float64), SCALE, high=0.4)
    saturated = torch.tensor([0.4]).double()  # 0.4000000059604645
    expected = torch.special.log_ndtr((p.loc - 0.4) / SCALE)
    torch.testing.assert_close(p.log_prob(saturated), expected)


def test_expand():
    p = SensedNormal(torch.zeros(3), torch.tensor(1.0), low=0.0, step=0.5).expand((2, 3))
    assert p.sample().shape == p.log_prob(torch.zeros(2, 3)).shape == (2, 3)
    assert (p.low, p.step, p.high) == (0.0, 0.5, math.inf)


@pytest.mark.parametrize(("sigma", "step"), [(5e-4, 1 / 4095), (1e-4, 1 / 65535), (1e-4, 0.0)])
def test_moments_of_little_noise_survive_single_precision(sigma, step):
    """Inside the range, at its ends and beyond them."""
    loc = torch.cat((torch.linspace(0.1, 0.9, 50), 1 + sigma * torch.linspace(-4, 4, 50)))
    found = SensedNormal(loc, torch.tensor(sigma), low=0.0, high=1.0, step=step)
    exact = SensedNormal(loc.double(), torch.tensor(sigma).double(), low=0.0, high=1.0, step=step)
    torch.testing.assert_close(found.variance.double(), exact.variance, rtol=2e-3, atol=0)
    torch.testing.assert_close(found.mean.double(), exact.mean, rtol=0, atol=2e-7)
