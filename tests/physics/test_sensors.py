"""Sensors are recognised for what they do, or refused."""

import math

import deepinv
import pytest
import torch

import pyro_vble as pv
from pyro_vble.distributions import SensedNormal
from pyro_vble.guides import VBLExz
from pyro_vble.physics import likelihood
from pyro_vble.physics.sensors import Sensor, sensor_of

KNOWN = {
    "nothing": (lambda v: v, Sensor()),
    "black and white": (lambda v: v.clamp(0, 1), Sensor(0.0, 1.0)),
    "saturation at 0.4, in its own way": (lambda v: (2.5 * v).clamp(max=1.0) / 2.5, Sensor(high=0.4)),
    "no negative values": (torch.relu, Sensor(low=0.0)),
    "counts": (torch.round, Sensor(step=1.0)),
    "counts of 12 bits": (lambda v: v.round().clamp(0, 4095), Sensor(0.0, 4095.0, 1.0)),
    "8 bits": (lambda v: (255 * v.clamp(0, 1)).round() / 255, Sensor(0.0, 1.0, 1 / 255)),
    "8 bits, cut off": (lambda v: (255 * v.clamp(0, 1)).floor() / 255, Sensor(0.0, 1.0, 1 / 255, 0.5 / 255)),
    "16 bits": (lambda v: (65535 * v.clamp(0, 1)).round() / 65535, Sensor(0.0, 1.0, 1 / 65535)),
}
UNKNOWN = {
    "gamma": lambda v: v.clamp(0, 1) ** (1 / 2.2),
    "one bit": torch.sign,
    "gain": lambda v: 2 * v,
    "modulo": lambda v: v % 1,
    "noise": lambda v: v + torch.rand_like(v),
    "the mean": lambda v: v - v.mean(),
    "a dead zone": lambda v: torch.where(v.abs() < 0.1, 0.0, v),
    "images alone": lambda v: v[:, :1],
    "always zero": torch.zeros_like,
}


def operator(sensor_model, noise=None):
    noise = deepinv.physics.GaussianNoise(0.1) if noise is None else noise
    physics = deepinv.physics.Denoising(noise)
    physics.sensor_model = sensor_model
    return physics


@pytest.mark.parametrize("name", KNOWN)
def test_known(name):
    model, expected = KNOWN[name]
    found = sensor_of(operator(model))
    for field in ("low", "high", "step", "shift"):
        assert getattr(found, field) == pytest.approx(getattr(expected, field), rel=1e-6)


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown(name, cae):
    physics = operator(UNKNOWN[name])
    with pytest.raises(TypeError, match=r"physics.sensor_model must be a function whose likelihood is known"):
        pv.restore(torch.rand(1, 3, 32, 32), physics, cae, num_steps=1, progress=False)


def test_noise_that_is_not_gaussian_behind_a_sensor_is_refused():
    physics = operator(KNOWN["black and white"][0], deepinv.physics.LaplaceNoise(0.1))
    with pytest.raises(TypeError, match=r"noise must be Gaussian .* received LaplaceNoise"):
        likelihood(physics, torch.zeros(1, 3, 4, 4))


def test_the_likelihood_is_that_of_what_the_operator_measures():
    """By simulation with deepinv's own forward: share of saturated values, and the mean."""
    physics = operator(KNOWN["black and white"][0])
    x = torch.full((1, 1, 200, 200), 0.95)
    y = physics(x)
    p_y = likelihood(physics, x)
    assert isinstance(p_y, SensedNormal)
    share = float((y == 1).double().mean())
    assert float(p_y.log_prob(torch.ones_like(y)).exp().mean()) == pytest.approx(share, abs=5 * 0.5 / 200)
    assert float(p_y.mean.mean()) == pytest.approx(float(y.mean()), abs=5 * 0.1 / 200)


def test_without_noise_the_rounding_is_the_noise():
    physics = operator(KNOWN["8 bits"][0], deepinv.physics.ZeroNoise())
    p_y = likelihood(physics, torch.tensor([0.5, 0.5]))
    inside, outside = p_y.log_prob(torch.tensor([0.5, 0.5 + 2 / 255])).tolist()
    assert inside == pytest.approx(math.log(255), abs=0.01)
    assert outside < inside - 100


def test_saturated_pixels_are_no_longer_believed(bundled):
    """Values above the sensor's range cost nothing, where the Gaussian likelihood pulls them down to its end."""
    x = torch.full((1, 3, 64, 64), 0.25)
    x[..., 20:44, 20:44] = 0.75
    known, ignored = operator(lambda v: v.clamp(max=0.5)), operator(lambda v: v)
    y = known(x)
    restored = [
        pv.restore(y, physics, bundled, VBLExz, num_steps=40, seed=0, progress=False, precision="float32")
        for physics in (known, ignored)
    ]
    inside = [float(posterior.mmse_x(16)[..., 24:40, 24:40].mean()) for posterior in restored]
    assert inside[1] < 0.52
    assert inside[0] > inside[1] + 0.05
