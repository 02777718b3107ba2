"""Noise belongs to places."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pyro_vble.scene.grid import Window
from pyro_vble.scene.noise import noise_field


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 150), st.integers(1, 90), st.integers(0, 150), st.integers(1, 90), st.sampled_from([(), (3,)]))
def test_a_window_is_the_crop_of_the_whole(top, height, left, width, leading):
    whole = noise_field(3, 7, "z", leading, Window(0, 240, 0, 240))
    window = Window(top, top + height, left, left + width)
    assert (noise_field(3, 7, "z", leading, window) == whole[(..., *window.slices)]).all()


def test_it_is_standard_normal_and_white():
    field = noise_field(0, 0, "z", (4,), Window(0, 256, 0, 256)).astype(float)
    n = field.size
    assert abs(field.mean()) < 4 / n**0.5
    assert abs(field.var() - 1) < 4 * (2 / n) ** 0.5
    assert stats.kstest(field.ravel(), "norm").pvalue > 1e-3
    for shifted in (field[:, 1:] * field[:, :-1], field[..., 1:] * field[..., :-1], field[1:] * field[:-1]):
        assert abs(shifted.mean()) < 4 / shifted.size**0.5
    # Blocks are drawn one by one: places that are a block apart are as independent as any.
    apart = field[..., 64:] * field[..., :-64]
    assert abs(apart.mean()) < 4 / apart.size**0.5


@pytest.mark.parametrize("other", [(1, 0, "z"), (0, 1, "z"), (0, 0, "h"), (0, 64, "z"), (2**63, 0, "z")])
def test_fields_of_other_seeds_samples_and_sites_are_unrelated(other):
    window = Window(0, 128, 0, 128)
    a, b = noise_field(0, 0, "z", (2,), window), noise_field(*other, (2,), window)
    assert abs((a * b).mean()) < 4 / a.size**0.5


def test_the_stream_stays_what_it_is():
    """Stored scenes are sampled by later versions too: these bits must not change, with NumPy's either."""
    field = noise_field(42, 3, "z", (2,), Window(60, 70, 1000, 1008))
    assert hashlib.sha256(field.astype("<f4").tobytes()).hexdigest()[:16] == "ce9cb5c7fdbd589e"
    assert field[0, 0, :3].tolist() == pytest.approx([-1.303328, -1.962264, 2.479273], abs=1e-6)


def test_another_leading_shape_is_another_field_of_its_own():
    field = noise_field(0, 0, "z", (), Window(10, 12, 0, 3))
    assert field.shape == (2, 3)
    assert field.dtype == np.float32
