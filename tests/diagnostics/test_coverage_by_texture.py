"""Coverage by texture."""

import pytest
import torch

from pyro_vble.diagnostics import Calibration, coverage_by_texture, intervals_by_texture
from pyro_vble.samples import StoredSamples


def _half_textured(num_samples=99, size=96, seed=0):
    """Samples about an image whose right half is textured, and a truth that errs twice as much there as they tell."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.zeros(1, 1, size, size)
    centre[..., size // 2 :] = torch.rand(1, 1, size, size // 2, generator=generator)
    samples = centre + 0.01 * torch.randn(num_samples, 1, 1, size, size, generator=generator)
    wrong = torch.ones(size).index_fill(0, torch.arange(size // 2, size), 2.0)
    truth = centre + 0.01 * wrong * torch.randn(1, 1, size, size, generator=generator)
    return samples, truth


def test_textured_parts_are_told_from_flat_ones():
    samples, truth = _half_textured()
    found = coverage_by_texture(samples, truth, parts=2, radius=2, border=0)
    assert found.names == ("flat", "textured")
    assert found.texture[0] < found.texture[1]
    # Two standard deviations of 96 * 48 values, and the few columns at the border of the halves.
    assert found.observed[0] == pytest.approx(0.9, abs=0.02)
    assert found.observed[1] == pytest.approx(0.59, abs=0.03)  # 2 Phi(1.645 / 2) - 1
    # The flattest squares of the textured half change places with those across its border: a tenth of either part.
    assert 1.6 < found.rms_error[1] / found.rms_error[0] < 2.1
    assert sum(found.num_values) == 96 * 96


def test_unknown_values_belong_to_no_part():
    samples, truth = _half_textured(size=48)
    truth[..., :10, :] = torch.nan
    found = coverage_by_texture(samples, truth, border=0)
    assert sum(found.num_values) == 38 * 48
    with pytest.raises(ValueError, match="at least 3 known values"):
        coverage_by_texture(samples[..., :1, :2], truth[..., 20:21, :2], border=0)


def test_a_calibration_is_followed():
    samples, truth = _half_textured()
    calibration = Calibration.fit([StoredSamples(samples)], [truth], num_samples=99)
    calibrated = StoredSamples(samples).calibrated(calibration)
    before, after = (coverage_by_texture(one, truth, parts=2, border=0) for one in (StoredSamples(samples), calibrated))
    # One width for all, as all deviations are alike: the flat part is covered too often, the other still too seldom.
    assert after.observed[0] > before.observed[0]
    assert after.observed[1] > before.observed[1]
    assert sum(after.observed) / 2 == pytest.approx(0.9, abs=0.02)


def test_rows_are_a_table():
    rows = coverage_by_texture(*_half_textured(size=40)).rows()
    assert [row["part"] for row in rows] == ["flat", "middling", "textured"]
    assert all(0 <= row["coverage"] <= 1 for row in rows)


def test_intervals_that_were_made_already_are_the_same():
    samples, truth = _half_textured()
    stored = StoredSamples(samples)
    made = intervals_by_texture(stored.mmse_x(), *stored.interval(0.8), truth, probability=0.8)
    assert made == coverage_by_texture(stored, truth, probability=0.8, num_samples=99)
    with pytest.raises(ValueError, match="must be of one shape"):
        intervals_by_texture(samples[0], samples[0], samples[0, ..., 1:], truth)
    with pytest.raises(ValueError, match="border must leave some of every image; received 48"):
        intervals_by_texture(samples[0], samples[0], samples[0], truth, border=48)
