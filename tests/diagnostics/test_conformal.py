import dataclasses
import json
import re
import shutil

import pytest
import torch
from deepinv.physics import Denoising, GaussianNoise
from helpers import small_network

import pyro_vble as pv
from pyro_vble.diagnostics import Calibration, coverage_curve
from pyro_vble.guides import VBLExz
from pyro_vble.models import CAE
from pyro_vble.physics.problems import deblurring, gaussian_kernel, super_resolution
from pyro_vble.samples import Samples

SHAPE = (1, 3, 80, 70)


class Pretended(Samples):
    """Samples that say std where their errors are of another size, by a factor that grows with std."""

    def __init__(self, seed: int) -> None:
        super().__init__(SHAPE, seed=0)
        generator = torch.Generator().manual_seed(seed)
        self._std = 0.01 + 0.1 * torch.rand(SHAPE, generator=generator)
        true = self._std * (1 + 20 * self._std)
        self.truth = true * torch.randn(SHAPE, generator=generator)

    def chunks(self, num_samples, *, seed=None):
        raise NotImplementedError

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


@pytest.mark.filterwarnings("ignore:A calibration on")
def test_of_each_image_the_calibration_on_all_others_is_told():
    pretended, told = [Pretended(seed) for seed in range(3)], {}
    whole = Calibration.fit_pairs([(one, one.truth) for one in pretended], left_out=told.__setitem__)
    others = Calibration.fit(pretended[:1] + pretended[2:], [pretended[0].truth, pretended[2].truth])
    assert sorted(told) == [0, 1, 2]
    assert (told[1].edges, told[1].scores) == (others.edges, others.scores)
    assert len(whole.left_out_90) == 3
    alone: dict = {}
    Calibration.fit_pairs([(pretended[0], pretended[0].truth)], left_out=alone.__setitem__)
    assert not alone


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


WHOLE = {
    "format": "pyro-vble calibration 1",
    "edges": [0.1, 0.2],
    "scores": [[0.5, 1.0], [0.5, 1.5], [1.0, 2.0]],
    "num_images": 2,
    "num_pixels": 100,
    "left_out_90": [0.9, 0.8],
    "made_with": "VBLE, prior cae-bsd (), Denoising",
}


class TestFiles:
    def test_a_whole_one(self, tmp_path):
        (tmp_path / "c.json").write_text(json.dumps(WHOLE))
        assert Calibration.load(tmp_path / "c.json").as_dict() == Calibration.from_dict(WHOLE).as_dict()

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("edges", [0.2, 0.1]),
            ("edges", [0.1, 0.1]),
            ("edges", [0.1, float("nan")]),
            ("edges", [0.1, float("inf")]),
            ("edges", [-0.1, 0.1]),
            ("edges", [0.1]),
            ("edges", [0.1, 0.2, 0.3]),
            ("edges", "ab"),
            ("edges", [[0.1, 0.2]]),
            ("edges", [True, 2]),
            ("edges", None),
            ("edges", ["0.1", "0.2"]),
            ("scores", []),
            ("scores", [[], [1.0], [1.0]]),
            ("scores", [[1.0], [1.0]]),
            ("scores", [[2.0, 1.0], [1.0], [1.0]]),
            ("scores", [[-1.0], [1.0], [1.0]]),
            ("scores", [[1.0], [float("inf")], [1.0]]),
            ("scores", [[1.0], [float("nan")], [1.0]]),
            ("scores", [[1.0], [True], [1.0]]),
            ("scores", [[1.0], ["a"], [1.0]]),
            ("scores", [1.0, 1.0, 1.0]),
            ("scores", None),
            ("num_images", 0),
            ("num_images", 1.5),
            ("num_images", "2"),
            ("num_images", None),
            ("num_pixels", 0),
            ("num_pixels", float("nan")),
            ("left_out_90", [1.1, 0.9]),
            ("left_out_90", [0.9]),
            ("left_out_90", [float("nan"), 0.9]),
            ("left_out_90", 0.9),
            ("made_with", 3),
            ("made_with", None),
            ("unknown", 3),
        ],
    )
    def test_a_wrong_field_is_named_with_its_file(self, tmp_path, field, value):
        (tmp_path / "c.json").write_text(json.dumps(WHOLE | {field: value}))
        with pytest.raises(ValueError, match=rf"c\.json is not \(.*({field}|scores)") as caught:
            Calibration.load(tmp_path / "c.json")
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 1000

    @pytest.mark.parametrize("field", ["edges", "scores", "num_images", "num_pixels"])
    def test_a_missing_field(self, field):
        with pytest.raises(ValueError, match=f"this is not .{field}: Field required"):
            Calibration.from_dict({key: value for key, value in WHOLE.items() if key != field})

    @pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[" * 100_000, b"{'a': 1}", b"3", b"null"])
    def test_what_is_no_calibration(self, tmp_path, content):
        (tmp_path / "c.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"c\.json"):
            Calibration.load(tmp_path / "c.json")

    def test_one_made_by_hand_is_checked_too(self):
        with pytest.raises(ValueError, match=r"scores\.0 must be sorted"):
            Calibration((), ((2.0, 1.0),), 1, 2)
        with pytest.raises(TypeError, match="plain numbers"):
            Calibration((), ((torch.ones(()),),), 1, 2)


class TestArguments:
    @pytest.mark.parametrize(
        ("argument", "error"),
        [
            ({"bins": -1}, ValueError),
            ({"bins": 0}, ValueError),
            ({"bins": 1.5}, ValueError),
            ({"bins": "a"}, TypeError),
            ({"border": -1}, ValueError),
            ({"border": float("inf")}, ValueError),
            ({"border": 35}, ValueError),
            ({"border": None}, TypeError),
            ({"num_samples": 0}, ValueError),
            ({"num_samples": "20"}, TypeError),
        ],
    )
    def test_numbers(self, argument, error):
        pretended = Pretended(0)
        name = next(iter(argument))
        with pytest.raises(error, match=f"{name} must "):
            Calibration.fit([pretended], [pretended.truth], **argument)
        with pytest.raises(error, match=f"{name} must "):
            Calibration.fit_pairs([(pretended, pretended.truth)], **argument)

    def test_posteriors_and_truths(self):
        pretended = Pretended(0)
        with pytest.raises(TypeError, match="posteriors must be an iterable"):
            Calibration.fit(pretended, [pretended.truth])
        with pytest.raises(TypeError, match="Each posterior must be one"):
            Calibration.fit([3], [pretended.truth])
        with pytest.raises(TypeError, match="Each truth must be a tensor"):
            Calibration.fit([pretended], [None])
        with pytest.raises(TypeError, match="pair of posterior and truth"):
            Calibration.fit_pairs([pretended])
        with pytest.raises(ValueError, match="as many truths as posteriors"):
            Calibration.fit([pretended, pretended], [pretended.truth])

    @pytest.mark.parametrize(
        ("count", "probability", "rank"), [(9, 0.9, 9), (19, 0.9, 18), (19, 0.8, 16), (49, 0.7, 35)]
    )
    def test_ranks_are_those_of_whole_numbers(self, count, probability, rank):
        """The p-quantile of n scores is the one of rank p (n + 1), where rounding would make it the next, or none."""
        scores = tuple(float(k) for k in range(1, count + 1))
        calibration = Calibration((), (scores,), 9, 1000)
        assert float(calibration.half_width(torch.ones(1), probability)) == rank

    def test_intervals(self, calibration):
        with pytest.raises(TypeError, match="probability must be a finite number"):
            calibration.half_width(torch.ones(2), "a")
        with pytest.raises(TypeError, match="std must be"):
            calibration.half_width(1.0, 0.9)
        with pytest.raises(ValueError, match="probability must"):
            calibration.groups(float("nan"))


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

    def restored(self, cae, width):
        physics = deblurring(0.1, gaussian_kernel(width)[..., :7, :7])
        return pv.restore(torch.rand(1, 3, 64, 64), physics, cae, VBLExz, num_steps=2, seed=0, progress=False)

    def test_one_of_another_kernel_of_the_same_shape_warns(self, cae, recwarn):
        made = Calibration.fit([self.restored(cae, 1.5)], [torch.rand(1, 3, 64, 64)], num_samples=10)
        recwarn.clear()
        self.restored(cae, 1.5).calibrated(made)
        assert not recwarn
        with pytest.warns(UserWarning, match="was made with"):
            self.restored(cae, 1.4).calibrated(made)

    def test_one_from_before_arrays_were_told_by_their_values(self, cae, recwarn):
        posterior = self.restored(cae, 1.5)
        made = Calibration.fit([posterior], [torch.rand(1, 3, 64, 64)], num_samples=10)
        old = re.sub(" #[0-9a-f]{8}", "", made.made_with)
        assert old != made.made_with
        recwarn.clear()
        posterior.calibrated(dataclasses.replace(made, made_with=old))
        assert not recwarn
        with pytest.warns(UserWarning, match="was made with"):
            posterior.calibrated(dataclasses.replace(made, made_with=old.replace("0.1", "0.2")))

    def test_another_prior_of_ones_own_warns_and_a_moved_one_does_not(self, tmp_path, recwarn):
        from pyro_vble.io.prior_files import save_prior

        def restored(folder):
            prior = pv.load_prior(folder / "own.safetensors")
            y = torch.rand(1, 3, 64, 64)
            return pv.restore(y, self.PHYSICS, prior, VBLExz, num_steps=2, seed=0, progress=False)

        network = small_network()
        save_prior(CAE(network, 0.025), tmp_path / "a" / "own.safetensors")
        shutil.copytree(tmp_path / "a", tmp_path / "b")
        with torch.no_grad():
            next(network.g_s.parameters()).add_(0.1)
        save_prior(CAE(network, 0.025), tmp_path / "c" / "own.safetensors")
        made = Calibration.fit([restored(tmp_path / "a")], [torch.rand(1, 3, 64, 64)], num_samples=10)
        assert str(tmp_path) not in made.made_with
        recwarn.clear()
        restored(tmp_path / "b").calibrated(made)
        assert not recwarn
        with pytest.warns(UserWarning, match="was made with"):
            restored(tmp_path / "c").calibrated(made)

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
