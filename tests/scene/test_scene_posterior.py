"""The posterior of a scene: a window of it, however it is asked for, is the crop of the whole."""

import json
import subprocess
import sys
import tracemalloc
from functools import partial

import numpy as np
import pytest
import torch
from scene.scenes import measured, random_window, restored

from pyro_vble.diagnostics import Calibration
from pyro_vble.guides import VBLE, VBLExz
from pyro_vble.samples import StoredSamples
from pyro_vble.scene import ScenePosterior, open_scene
from pyro_vble.scene.store import LAYOUT, Store

SIZE = 150, 100


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Six cells, of which the last row and column are narrower; three bands."""
    return restored(tmp_path_factory.mktemp("scene") / "a.scene", measured(3, *SIZE))


def whole_samples(scene, n, seed=None):
    return torch.stack([scene.draw(number, seed=seed) for number in range(n)])[:, None]


@pytest.mark.parametrize(
    "guide", [VBLE, partial(VBLE, family="gaussian"), VBLExz, partial(VBLExz, free_mean=True, family="uniform")]
)
def test_a_window_of_a_sample_is_the_crop_of_the_whole_sample(tmp_path, guide):
    scene = restored(tmp_path / "a.scene", guide=guide)
    rng = np.random.default_rng(0)
    for number in (0, 1000):
        sample = scene.draw(number)
        assert sample.shape == (1, *SIZE)
        for _ in range(2):
            window = random_window(rng, *SIZE)
            crop = sample[:, window[0], window[1]]
            assert torch.equal(scene.draw(number, window), crop)
            assert torch.equal(scene.sample(window, number), crop)
            assert torch.equal(scene[window].draw(number), crop)
    assert not torch.equal(scene.draw(0), scene.draw(1))
    assert not torch.equal(scene.draw(0), scene.draw(0, seed=1))


def test_a_window_of_a_window_counts_within_it(scene):
    outer = scene[20:140, 30:]
    inner = outer[-70:-10, 5:50]
    assert inner.shape == (1, 3, 60, 45)
    assert torch.equal(inner.draw(2), scene.draw(2)[:, 70:130, 35:80])
    assert torch.equal(outer[5:10, 5:10].draw(1, np.s_[1:3, :]), scene.draw(1)[:, 26:28, 35:40])


@pytest.mark.parametrize("n", [2, 5])
def test_statistics_of_a_window_are_the_crop_of_those_of_the_whole(scene, n):
    window = np.s_[50:80, 40:90]
    part, crop = scene[window], (..., *window)
    assert torch.equal(part.mmse_x(n), scene.mmse_x(n)[crop])
    assert torch.equal(scene.mean(window, n), scene.mmse_x(n)[crop])
    assert torch.equal(part.std(n), scene.std(n)[crop])
    assert torch.equal(part.quantile(0.8, n), scene.quantile(0.8, n)[crop])
    assert torch.equal(part.error_quantile(0.9, n), scene.error_quantile(0.9, n)[crop])
    for a, b in zip(part.interval(0.5, n), scene.interval(0.5, n), strict=True):
        assert torch.equal(a, b[crop])


def test_quantiles_of_more_samples_than_are_sorted_are_the_crop_too(scene):
    part = scene[60:70, 10:20]
    assert torch.equal(part[:6, :].quantile(0.9, 130), part.quantile(0.9, 130)[..., :6, :])


def test_statistics_agree_with_those_of_the_same_draws(scene):
    drawn = StoredSamples(whole_samples(scene, 5))
    same = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-6)
    same(scene.mmse_x(5), drawn.mmse_x())
    same(scene.std(5), drawn.std())
    same(scene.quantile(0.3, 5), drawn.quantile(0.3))
    same(scene.error_quantile(0.9, 5), drawn.error_quantile(0.9))
    for a, b in zip(scene.interval(0.7, 5), drawn.interval(0.7), strict=True):
        same(a, b)
    assert torch.equal(scene.sample(5), whole_samples(scene, 5))
    assert torch.equal(scene.sample(3, seed=5), whole_samples(scene, 3, seed=5))


def test_statistics_of_a_window_by_the_short_way(scene):
    window = np.s_[10:20, 90:100]
    part = scene[window]
    assert torch.equal(scene.std(window), part.std())
    assert torch.equal(scene.quantile(0.2, window), part.quantile(0.2))


@pytest.mark.parametrize(
    ("statistic", "arguments"),
    [("mmse_x", (4,)), ("std", (4,)), ("quantile", (0.9, 4)), ("error_quantile", (0.9, 4)), ("draw", (3,))],
)
def test_lazy_is_eager(scene, statistic, arguments):
    part = scene[30:140, 10:95]
    eager = getattr(part, statistic)(*arguments).reshape(3, 110, 85).numpy()
    lazy = part.lazy(statistic, *arguments)
    assert lazy.shape == eager.shape
    assert len(lazy.chunks[1]) == 3
    assert np.array_equal(lazy.compute(scheduler="synchronous"), eager)
    assert np.array_equal(lazy[:, 35:50, 60:].compute(scheduler="threads", num_workers=2), eager[:, 35:50, 60:])


def test_lazy_knows_but_statistics(scene):
    with pytest.raises(ValueError, match=r"statistic must be mmse_x.*received 'save'"):
        scene.lazy("save")


def test_arviz_of_a_region_is_of_its_samples(scene):
    data = scene.to_arviz(5, region=np.s_[60:70, 60:68])
    image = data.posterior["image"].values
    assert image.shape == (1, 5, 1, 3, 10, 8)
    assert np.array_equal(image[0, :, 0], whole_samples(scene, 5)[:, 0, :, 60:70, 60:68].numpy())


def test_a_calibration_goes_into_windows_and_lazy_arrays(scene):
    class _Double(Calibration):
        def __init__(self):
            pass

        def half_width(self, std, probability):
            return 2 * std

    calibrated = scene.calibrated(_Double())
    low, high = calibrated[10:30, 10:30].interval(0.9, 5)
    torch.testing.assert_close(high - low, 4 * scene[10:30, 10:30].std(5))
    assert torch.equal(calibrated.interval(0.9, 5)[0][..., 10:30, 10:30], low)
    lazy = calibrated.lazy("error_quantile", 0.9, 5)[:, 10:30, 10:30].compute()
    assert np.array_equal(lazy, calibrated[10:30, 10:30].error_quantile(0.9, 5)[0].numpy())


def test_what_was_drawn_is_what_the_posterior_says(scene):
    results = scene.results
    torch.testing.assert_close(torch.from_numpy(results["mean"].values), scene.mmse_x(4)[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.from_numpy(results["std"].values), scene.std(4)[0], rtol=1e-4, atol=1e-6)
    low, high = scene.interval(0.9, 4)
    torch.testing.assert_close(torch.from_numpy(results["low"].values), low[0])
    torch.testing.assert_close(torch.from_numpy(results["high"].values), high[0])
    part = scene[100:150, 20:60].results
    assert np.array_equal(part["mean"].values, results["mean"].values[:, 100:150, 20:60])


@pytest.mark.slow
def test_another_process_draws_the_same_bits(scene, tmp_path):
    code = """
import json, sys, torch
torch.set_num_threads(1)
from pyro_vble.scene import open_scene
torch.save(open_scene(sys.argv[1]).draw(11, (slice(40, 90), slice(3, 97))), sys.argv[2])
print(json.dumps(sorted(sys.modules)))
"""
    path = tmp_path / "drawn.pt"
    told = subprocess.run(
        [sys.executable, "-c", code, scene._store.path, path], capture_output=True, text=True, check=True
    )
    assert torch.equal(torch.load(path), scene.draw(11)[:, 40:90, 3:97])
    # A reader of a scene needs neither Dask's workers nor GDAL.
    assert not {"distributed", "rasterio"} & set(json.loads(told.stdout.splitlines()[-1]))


def test_the_memory_of_a_window_does_not_need_the_whole(scene):
    """A store whose mosaic says that it is 2,000 times as large is sampled as before."""
    store = Store(scene._store.path)
    about = store.about

    class _Large(Store):
        @property
        def about(self):
            return about | {"grid": about["grid"] | {"height": 64 * 4000, "width": 64 * 4000}}

    large = ScenePosterior(_Large(store.path), device="cpu")
    scene[70:80, 10:20].std(4)  # loads the prior
    tracemalloc.start()
    large[10:20, 10:20].std(4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6


def test_opening_says_what_is_wrong(scene, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No scene at .*\.scene"):
        open_scene(tmp_path / "nothing.scene")
    unfinished = Store(tmp_path / "unfinished.scene")
    unfinished.describe({key: value for key, value in scene._store.about.items() if key != "finished"})
    with pytest.raises(ValueError, match=r"must be finished.*--resume.*resume=True"):
        open_scene(unfinished.path)
    other = Store(tmp_path / "other.scene")
    other.describe({})
    other.path.joinpath("scene.json").write_text(json.dumps({**scene._store.about, "layout": 99}))
    with pytest.raises(ValueError, match=rf"of layout {LAYOUT};.*is of 99; restore it anew"):
        open_scene(other.path)


def test_windows_are_checked(scene):
    with pytest.raises(TypeError, match=r"scene\[0:512, 0:512\]"):
        scene[3]
    with pytest.raises(TypeError, match="pair of slices"):
        scene[0:3]
    with pytest.raises(IndexError, match="no step"):
        scene[0:20:2, 0:5]
    with pytest.raises(IndexError, match="must hold a pixel of the 150x100"):
        scene[150:160, 0:5]
    with pytest.raises(TypeError):
        scene.draw(0, (3, 4))
    with pytest.raises(ValueError, match="number"):
        scene.draw(-1)
    with pytest.raises(ValueError, match="probability"):
        scene.quantile(1.5, 4)
    assert scene[:, :].shape == scene.shape


def test_it_says_what_it_is(scene):
    assert "(3, 150, 100)" in repr(scene)
    opened = open_scene(scene._store.path, seed=9)
    assert opened.seed == 9
    assert torch.equal(opened.draw(2), scene.draw(2, seed=9))
    assert opened.failed == {}
