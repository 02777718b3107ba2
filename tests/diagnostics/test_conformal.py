import json
from types import SimpleNamespace

import pytest
import torch
from deepinv.physics import Denoising, GaussianNoise

import pyro_vble as pv
from pyro_vble.diagnostics import Calibration, coverage_curve
from pyro_vble.guides import VBLExz
from pyro_vble.physics.problems import super_resolution

SHAPE = (1, 3, 80, 70)


class Pretended:
    """A posterior that says std where its errors are of another size, by a factor that grows with std."""

    image_shape, seed = SHAPE, 0
    guide = SimpleNamespace()
    model = SimpleNamespace(prior=SimpleNamespace(name="none"), physics=None)

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._std = 0.01 + 0.1 * torch.rand(SHAPE, generator=generator)
        true = self._std * (1 + 20 * self._std)
        self.truth = true * torch.randn(SHAPE, generator=generator)

    def std(self, num_samples, *, seed):
        return self._std

    def mmse_x(self, num_samples, *, seed):
        return torch.zeros(SHAPE)


@pytest.fixture(scope="module")
def calibration():
    pretended = [Pretended(seed) for seed in range(8)]
    return Calibration.fit(pretended, [p.truth for p in pretended])


@pytest.mark.parametrize("probability", [0.5, 0.9, 0.99])
def test_new_images_are_covered_overall_and_in_every_group(calibration, probability):
    new = Pretended(99)
    inside = new.truth.abs() <= calibration.half_width(new._std, probability)
    # 16,800 pixels here and 100,000 behind the calibration: 5 standard errors.
    bound = 5 * (probability * (1 - probability) * (1 / 16_800 + 1 / 100_000)) ** 0.5 + 0.002
    assert abs(float(inside.double().mean()) - probability) < bound
    for low, high, _ in calibration.groups(probability):
        group = inside[(new._std > low) & (new._std <= high)].double()
        assert abs(float(group.mean()) - probability) < 10**0.5 * bound


def test_raw_intervals_were_wrong():
    new = Pretended(99)
    assert float((new.truth.abs() <= 1.645 * new._std).double().mean()) < 0.7


def test_images_left_out_tell_how_images_differ(calibration):
    assert len(calibration.left_out_90) == 8
    assert all(0.88 < share < 0.92 for share in calibration.left_out_90)


def test_saved_and_loaded(calibration, tmp_path):
    calibration.save(tmp_path / "c.json")
    assert Calibration.load(tmp_path / "c.json") == calibration
    (tmp_path / "bad.json").write_text(json.dumps({"format": "other"}))
    with pytest.raises(ValueError, match="must have the format"):
        Calibration.load(tmp_path / "bad.json")
    (tmp_path / "worse.json").write_text("{")
    with pytest.raises(ValueError, match="must be a JSON file"):
        Calibration.load(tmp_path / "worse.json")
    with pytest.raises(FileNotFoundError, match="pyro-vble calibrate"):
        Calibration.load(tmp_path / "none.json")


class TestPosterior:
    PHYSICS = Denoising(GaussianNoise(0.1))

    @pytest.fixture
    def posterior(self, cae):
        return pv.restore(torch.rand(1, 3, 64, 64), self.PHYSICS, cae, VBLExz, num_steps=2, seed=0, progress=False)

    def test_intervals_and_error_quantiles_are_calibrated_and_the_rest_stays(self, posterior, calibration):
        calibrated = posterior.calibrated(calibration)
        low, high = calibrated.interval(0.9, 20)
        half = calibration.half_width(posterior.std(20), 0.9)
        torch.testing.assert_close(high - low, 2 * half)
        torch.testing.assert_close((high + low) / 2, posterior.mmse_x(20))
        torch.testing.assert_close(calibrated.error_quantile(0.9, 20), half)
        torch.testing.assert_close(calibrated.std(20), posterior.std(20))
        assert posterior.calibration is None
        assert not torch.allclose(posterior.interval(0.9, 20)[0], low)
        truth = torch.rand(1, 3, 64, 64)
        curve = coverage_curve(calibrated, truth, levels=[0.5, 0.9], num_samples=20)
        assert curve.observed[1] == pytest.approx(pv.metrics.coverage((low, high), truth))

    def test_it_is_saved_with_the_posterior(self, posterior, calibration, cae, tmp_path):
        posterior.calibrated(calibration).save(tmp_path / "fit.pvble")
        loaded = pv.load_posterior(tmp_path / "fit.pvble", prior=cae)
        assert loaded.calibration == calibration

    def test_one_of_another_operator_warns(self, posterior, cae):
        other = pv.restore(
            torch.rand(1, 3, 64, 64), Denoising(GaussianNoise(0.2)), cae, VBLExz, num_steps=2, seed=0, progress=False
        )
        with pytest.warns(UserWarning, match="knows little"):
            made = Calibration.fit([other], [torch.rand(1, 3, 64, 64)], num_samples=10)
        with pytest.warns(UserWarning, match="was made with"):
            posterior.calibrated(made)

    def test_one_of_several_scales_is_for_each_of_them(self, cae, recwarn):
        def restored(scale, noise=0.1):
            y, physics = torch.rand(1, 3, 64, 64), Denoising(GaussianNoise(noise))
            return pv.restore(y, physics, cae, VBLExz, rate_scale=scale, num_steps=2, seed=0, progress=False)

        fits = [restored(1.0), restored(0.5)]
        made = Calibration.fit(fits, [torch.rand(1, 3, 64, 64)] * 2, num_samples=10)
        recwarn.clear()
        for fit in fits:
            fit.calibrated(made)
        assert not recwarn
        with pytest.warns(UserWarning, match="was made with"):
            restored(0.5, noise=0.2).calibrated(made)

    def test_it_is_for_images_of_other_sizes(self, cae, recwarn):
        def restored(side):
            physics = super_resolution(0.05, (3, 2 * side, 2 * side), 2)
            return pv.restore(torch.rand(1, 3, side, side), physics, cae, num_steps=2, seed=0, progress=False)

        made = Calibration.fit([restored(32)], [torch.rand(1, 3, 64, 64)], num_samples=10)
        recwarn.clear()
        restored(40).calibrated(made)
        assert not recwarn


def test_errors(cae):
    with pytest.raises(ValueError, match="received none"):
        Calibration.fit([], [])
    with pytest.raises(ValueError, match=r"between 0 and 0.667, which is what 2 scores can tell"):
        Calibration((), ((1.0, 2.0),), 1, 2).half_width(torch.ones(2), 0.9)
    pretended = Pretended(0)
    with pytest.raises(ValueError, match="image's shape"):
        Calibration.fit([pretended], [pretended.truth[..., 1:]])
    pretended._std = torch.zeros(SHAPE)
    with pytest.raises(ValueError, match="without spread"):
        Calibration.fit([pretended], [pretended.truth])
