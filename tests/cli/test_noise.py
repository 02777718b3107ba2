"""The estimate of the noise level."""

import numpy as np
import pytest
import skimage.data
import torch

from pyro_vble.cli.noise import estimated_noise


@pytest.fixture(scope="module")
def photograph():
    return torch.from_numpy(skimage.data.astronaut()[:256, :256].copy()).permute(2, 0, 1)[None].float() / 255


def noisy(x, sigma):
    return x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))


def holes(kind, shape):
    missing = torch.zeros(shape, dtype=torch.bool)
    if kind == "collar":
        missing[..., : shape[-1] // 3] = True
        missing[..., : shape[-2] // 5, :] = True
    elif kind == "rows":
        missing[..., ::8, :] = True
    elif kind == "half of the pixels":
        missing[:] = torch.rand(shape[-2:], generator=torch.Generator().manual_seed(1)) < 0.5
    return missing


@pytest.mark.parametrize("kind", ["none", "collar", "rows", "half of the pixels"])
@pytest.mark.parametrize("sigma", [0.03, 0.1])
def test_noise_is_found_beside_missing_pixels(photograph, kind, sigma):
    y = noisy(photograph, sigma)
    y[holes(kind, y.shape)] = torch.nan
    assert estimated_noise(y).level == pytest.approx(sigma, rel=0.2)
    assert estimated_noise(y[:, :1]).level == pytest.approx(sigma, rel=0.2)


def test_what_is_missing_does_not_count(photograph):
    """The same pixels, whatever lies under the holes."""
    y = noisy(photograph, 0.05)
    missing = holes("collar", y.shape)
    other = torch.where(missing, torch.rand(y.shape), y)
    levels = {estimated_noise(torch.where(missing, torch.nan, value)).level for value in (y, other)}
    assert len(levels) == 1


def test_too_little_to_tell_is_refused(photograph):
    y = noisy(photograph, 0.05)
    y[..., ::2, :] = torch.nan
    with pytest.raises(ValueError, match="pass --noise"):
        estimated_noise(y)


@pytest.mark.parametrize("bands", [[0.0, 0.0, None], [1.0, None], [None, 0.5, None, 0.0]])
def test_bands_that_say_nothing_do_not_count(bands):
    rows = [noisy(torch.full((1, 1, 64, 96), 0.5), 0.04) if b is None else torch.full((1, 1, 64, 96), b) for b in bands]
    assert estimated_noise(torch.cat(rows, 1)).level == pytest.approx(0.04, rel=0.15)


def test_a_grey_photograph_in_colour_is_as_noisy_as_it_is(photograph):
    grey = noisy(photograph[:, :1], 0.05)
    assert estimated_noise(grey.expand(1, 3, -1, -1)).level == pytest.approx(estimated_noise(grey).level, rel=0.05)


def test_of_colour_the_texture_counts_less(photograph):
    """At little noise, one band's texture passes for noise; three bands tell them apart."""
    y = noisy(photograph, 0.01)
    assert abs(estimated_noise(y).level - 0.01) < abs(estimated_noise(y[:, :1]).level - 0.01)


@pytest.mark.parametrize("shape", [(1, 1, 64, 64), (1, 3, 40, 1), (1, 3, 64, 64)])
def test_the_files_rounding_is_the_floor(shape):
    found = estimated_noise(torch.zeros(shape) if shape[-1] > 1 else torch.zeros(1, 3, 16, 16), quantisation=0.0011)
    assert found.level == 0.0011
    assert "rounding of its pixel values" in found.floor
    jpeg = estimated_noise(torch.zeros(1, 3, 64, 64), quantisation=0.0011, jpeg=0.04)
    assert jpeg.level == 0.04
    assert "JPEG" in jpeg.floor
    above = estimated_noise(noisy(torch.full((1, 3, 64, 64), 0.5), 0.05), quantisation=0.0011, jpeg=0.01)
    assert above.level == pytest.approx(0.05, rel=0.1)
    assert not above.floor


def test_a_large_image_is_looked_at_in_strips():
    y = 0.5 + 0.05 * torch.from_numpy(np.random.default_rng(0).standard_normal((1, 1, 2100, 2000), dtype=np.float32))
    assert estimated_noise(y).level == pytest.approx(0.05, rel=0.02)
