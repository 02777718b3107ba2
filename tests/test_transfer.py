"""The width of a blur, against the one that was made."""

import math

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image, ImageDraw

import pyro_vble as pv
from pyro_vble.physics import GaussianBlur

# Twelve squares, turned by any angle.
SIDE, FINER = 224, 8


@pytest.fixture(scope="module")
def scene():
    """Squares of any direction and grey, drawn eight times finer than their pixels: (1, 1, H, W)."""
    random = np.random.default_rng(0)
    image = Image.new("L", (SIDE * FINER, SIDE * FINER), 120)
    for _ in range(12):
        centre, angle, size = random.uniform(0, SIDE * FINER, 2), random.uniform(0, math.pi), 40 * FINER
        corners = [angle + k * math.pi / 2 for k in range(4)]
        points = [(centre[0] + size * math.cos(a), centre[1] + size * math.sin(a)) for a in corners]
        ImageDraw.Draw(image).polygon(points, fill=int(random.uniform(20, 235)))
    fine = torch.from_numpy(np.array(image, dtype=np.float32) / 255)[None, None]
    return torch.nn.functional.avg_pool2d(fine, FINER)


def blurred(scene, rows, columns):
    profiles = []
    for width in (rows, columns):
        t = torch.arange(-8.0, 9.0)
        profiles.append(torch.softmax(-0.5 * (t / width) ** 2, 0))
    padded = torch.nn.functional.pad(scene, (8, 8, 8, 8), mode="reflect")
    return torch.nn.functional.conv2d(padded, torch.outer(*profiles)[None, None])


@pytest.mark.slow
def test_edges_find_the_width_along_both_axes(scene):
    """That of the blur and of the pixel itself, whose variance is 1/12."""
    y = blurred(scene, 0.8, 1.3) + 0.005 * torch.randn(scene.shape)
    found = pv.calibrate_mtf(y, "edges")
    expected = [(width**2 + 1 / 12) ** 0.5 for width in (0.8, 1.3)]
    assert found.width == pytest.approx(expected, rel=0.05)
    assert found.mtf == pytest.approx([math.exp(-((math.pi * w) ** 2) / 2) for w in found.width])
    for width, error, true in zip(found.width, found.width_error, expected, strict=True):
        assert abs(width - true) < error
    assert found.count >= 20


def test_edges_of_several_images_are_taken_together(scene):
    parts = torch.cat([blurred(scene, 1.0, 1.0)[..., :160, :160], blurred(scene, 1.0, 1.0)[..., -160:, -160:]])
    parts[0, 0, :20] = torch.nan
    found = pv.calibrate_mtf(parts, "edges")
    assert found.width == pytest.approx([(1 + 1 / 12) ** 0.5] * 2, rel=0.05)


def test_an_image_without_edges_is_refused():
    with pytest.raises(ValueError, match="Too few straight edges"):
        pv.calibrate_mtf(torch.rand(1, 1, 64, 64), "edges")
    with pytest.raises(ValueError, match="without missing values"):
        pv.calibrate_mtf(torch.full((1, 3, 64, 64), torch.nan), noise=0.01)
    with pytest.raises(ValueError, match="method must be one of"):
        pv.calibrate_mtf(torch.rand(1, 1, 64, 64), "guess")


@pytest.mark.slow
def test_restoration_tells_narrow_from_wide(bundled):
    """In the right order, and to a third: what is sharp is for the prior to say."""
    x = torch.from_numpy(skimage.data.astronaut().copy()).permute(2, 0, 1)[None].float() / 255
    x = torch.nn.functional.avg_pool2d(x, 2)[..., :128, :]
    found = []
    for width in (0.7, 1.4):
        y = GaussianBlur(width).A(x) + 0.01 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        found.append(pv.calibrate_mtf(y, prior=bundled, noise=0.01, num_windows=2))
        assert found[-1].width[0] == pytest.approx(width, rel=0.33)
        assert found[-1].count == 2
    assert found[0].width[0] < found[1].width[0]
