"""Noise and gain read off an image, against those that were added."""

import deepinv
import numpy as np
import pytest
import skimage.data
import torch

from pyro_vble.physics import calibrate_noise, likelihood

SIGMA0, GAIN = 0.01, 0.001


def noisy(image, seed, sigma0=SIGMA0, gain=GAIN, bits=None):
    white = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
    y = image + (sigma0**2 + gain * image).sqrt() * white
    return y if bits is None else (y * (2**bits - 1)).round() / (2**bits - 1)


def ramp(rows=128):
    return torch.linspace(0.1, 0.9, 256).expand(1, 1, rows, 256)


def photograph(name, mean_of=2):
    """Of its own noise little is left where pixels are averaged."""
    array = np.atleast_3d(getattr(skimage.data, name)())[..., :3]
    x = torch.from_numpy(array.copy()).permute(2, 0, 1)[None].float() / 255
    return torch.nn.functional.avg_pool2d(x, mean_of)


@pytest.mark.slow
def test_intervals_hold_what_they_claim():
    """Of two standard errors, 95 % of them: of 30 seeds, fewer than 25 would be 1 case in 300."""
    found = [calibrate_noise(noisy(ramp(), seed)) for seed in range(30)]
    held = [
        (abs(one.sigma0 - SIGMA0) < 2 * one.sigma0_error, abs(one.gain - GAIN) < 2 * one.gain_error) for one in found
    ]
    assert sum(one for one, _ in held) >= 25
    assert sum(one for _, one in held) >= 25
    # And they are no wider than they must be: the errors' own size tells.
    off = np.array([one.gain - GAIN for one in found])
    assert np.mean([one.gain_error for one in found]) < 2 * off.std()
    assert abs(off.mean()) < 3 * off.std() / len(off) ** 0.5 + 0.02 * GAIN


@pytest.mark.parametrize("name", ["astronaut", "coffee", "cat"])
@pytest.mark.parametrize("bits", [None, 12])
def test_of_photographs_the_noise_is_that_which_was_added(name, bits):
    """To a tenth: fine texture is taken for noise, and little of it is left."""
    image = photograph(name)
    found = calibrate_noise(noisy(image, 0, bits=bits))
    for signal in (found.darkest, (found.darkest + found.brightest) / 2):
        assert found.std(signal) == pytest.approx((SIGMA0**2 + GAIN * signal) ** 0.5, rel=0.1)
    assert abs(found.gain - GAIN) < 3 * found.gain_error


def test_of_a_blurred_image_as_a_sensor_has_it():
    kernel = torch.tensor([0.15, 0.7, 0.15])
    image = photograph("coffee", 1)
    image = deepinv.physics.functional.conv2d(image, torch.outer(kernel, kernel)[None, None], padding="reflect")
    found = calibrate_noise(noisy(image, 0))
    assert found.std(0.4) == pytest.approx((SIGMA0**2 + 0.4 * GAIN) ** 0.5, rel=0.05)


def test_every_band_has_its_own():
    image = ramp().expand(1, 2, -1, -1)
    y = torch.cat([noisy(image[:, :1], 0), noisy(image[:, 1:], 1, 0.02, 0.004)], 1)
    first, second = calibrate_noise(y, per_band=True)
    assert first.gain == pytest.approx(GAIN, abs=4 * first.gain_error)
    assert second.gain == pytest.approx(0.004, abs=4 * second.gain_error)
    joint = calibrate_noise(noisy(image, 0))
    assert joint.patches > 1.5 * first.patches
    assert joint.gain == pytest.approx(GAIN, abs=4 * joint.gain_error)


def test_missing_values_are_left_out():
    y = noisy(ramp(), 0)
    holes = torch.rand(y.shape, generator=torch.Generator().manual_seed(1)) < 0.002
    y[holes] = torch.nan
    y[..., :16, :] = torch.nan
    found = calibrate_noise(y)
    assert found.gain == pytest.approx(GAIN, abs=4 * found.gain_error)


def test_saturated_values_are_left_out():
    found = calibrate_noise(noisy(ramp(), 0).clamp(0.2, 0.6))
    assert found.gain == pytest.approx(GAIN, abs=4 * found.gain_error)
    assert 0.2 < found.darkest < found.brightest < 0.6


def test_rounding_alone_is_told():
    """Of an image that was resampled the noise is gone from the highest frequencies, its rounding is not."""
    y = torch.nn.functional.interpolate(noisy(ramp(64), 0), scale_factor=2, mode="bicubic")
    assert calibrate_noise((y * 255).round() / 255).only_rounding
    assert not calibrate_noise(noisy(ramp(), 0, bits=8)).only_rounding


def test_it_is_a_noise_model():
    found = calibrate_noise(noisy(ramp(), 0))
    p_y = likelihood(deepinv.physics.Denoising(found.noise_model()), torch.tensor([[0.2, 0.8]]))
    for signal, scale in zip((0.2, 0.8), p_y.scale[0], strict=True):
        assert float(scale) == pytest.approx(found.std(signal), rel=1e-3)


def test_the_same_image_gives_the_same():
    y = noisy(ramp(), 0)
    assert calibrate_noise(y) == calibrate_noise(y) != calibrate_noise(y, seed=1)


def test_what_tells_nothing_is_refused():
    with pytest.raises(ValueError, match="At least 30 flat patches"):
        calibrate_noise(torch.rand(1, 1, 16, 16))
    with pytest.raises(ValueError, match="At least 30 flat patches"):
        calibrate_noise(torch.full((1, 1, 128, 128), 0.5))
    with pytest.raises(ValueError, match="At least 30 flat patches"):
        calibrate_noise(torch.full((1, 1, 128, 128), torch.nan))
    with pytest.raises(TypeError, match="floating-point"):
        calibrate_noise((255 * torch.rand(1, 1, 64, 64)).byte())
