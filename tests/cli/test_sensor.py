"""Optical sensors as a problem of the commands, and their calibration in scenes."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from typer.testing import CliRunner

import pyro_vble as pv
from pyro_vble.cli.app import app
from pyro_vble.cli.problems import PROBLEMS
from pyro_vble.diagnostics import Calibration
from pyro_vble.sensors import load_sensor

rasterio = pytest.importorskip("rasterio")
pytest.importorskip("yaml")

PLEIADES, SENTINEL = ["--sensor", "pleiades-like"], ["--sensor", "sentinel2-like"]
QUICK = ["--steps", 2, "--samples", 4]
RESTORE = [*QUICK, "--draws", 0]
ALIKE = ["--prior", "cae-bsd", *QUICK]


def run(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return " ".join(result.output.split())


def write(path, numbers, names=()):
    """A GeoTIFF of pixels of half a metre, its bands named."""
    place = rasterio.transform.from_origin(5e5, 4.8e6, 0.5, 0.5)
    bands, height, width = numbers.shape
    form = {"count": bands, "height": height, "width": width, "dtype": numbers.dtype, "crs": "EPSG:32631"}
    with rasterio.open(path, "w", driver="GTiff", transform=place, **form) as file:
        file.write(numbers)
        for index, name in enumerate(names):
            file.set_band_description(index + 1, name)
    return path


def photograph(bands, left=80, side=64):
    crop = skimage.data.cat()[60 : 60 + side, left : left + side, :bands]
    return torch.from_numpy(crop.copy()).permute(2, 0, 1)[None].float() / 255


@pytest.fixture
def pan(tmp_path):
    """A file of the panchromatic sensor's numbers."""
    settings = load_sensor("pleiades-like")
    y = settings.physics()(photograph(1))
    return write(tmp_path / "pan.tif", settings.radiometry.from_unit(y)[0].numpy())


@pytest.fixture
def colour(tmp_path):
    """A file of two bands of a sensor whose numbers have an offset, not in the sensor's own order."""
    settings, names = load_sensor("sentinel2-like"), ["B04", "B02"]
    y = settings.physics(bands=names)(0.3 * photograph(2))
    return write(tmp_path / "s2.tif", settings.radiometry_of(names).from_unit(y)[0].numpy(), names)


@pytest.fixture(scope="module")
def sharp(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharp")
    for i in range(3):
        Image.fromarray(skimage.data.cat()[60:124, 80 * i : 80 * i + 64]).save(folder / f"{i}.png")
    return folder


@pytest.mark.parametrize(("name", "file"), [("pleiades-like", "pan"), ("sentinel2-like", "colour")])
def test_values_are_those_that_a_scene_restores(name, file, request):
    from pyro_vble.cli.forward import Forward, radiometry_and_physics
    from pyro_vble.physics import describe
    from pyro_vble.scene.sources import open_source

    path = request.getfixturevalue(file)
    scene = open_source(path, None, None, None)
    radiometry, physics = radiometry_and_physics(Forward(sensor=Path(name), scale=2), scene, set())
    expected = np.asarray(radiometry.to_unit(scene.read(slice(0, 64), slice(0, 64))), np.float32)
    problem, image = PROBLEMS["sensor"].having(sensor=Path(name), enlarge=2).read(path, None)
    np.testing.assert_array_equal(image.values[0], expected)
    assert describe(problem.build(image.values, None)) == describe(physics)
    measured = problem.measured(image, image.values, None, None)
    assert measured.missing.shape[-2:] == (128, 128)


def test_numbers_come_back_through_a_restoration(colour, tmp_path):
    out = tmp_path / "out"
    run("restore", colour, "--output", out, "--problem", "sensor", *SENTINEL, "--enlarge", 2, *RESTORE)
    radiometry = load_sensor("sentinel2-like").radiometry_of(["B04", "B02"])
    expected = radiometry.from_unit(pv.load_posterior(out / "fit.pvble").mmse_x(4))[0].numpy()
    with rasterio.open(out / "restored.tif") as file:
        assert file.dtypes == ("uint16", "uint16")
        assert file.descriptions == ("B04", "B02")
        assert file.transform.a == 0.25
        np.testing.assert_array_equal(file.read(), expected)
    about = json.loads((out / "metrics.json").read_text())
    assert about["noise"] is None
    assert about["problem_options"] == {"sensor": "sentinel2-like", "enlarge": 2, "sensor_bands": ["B04", "B02"]}


@pytest.mark.slow
def test_numbers_come_back_tile_by_tile(colour, tmp_path):
    out = tmp_path / "out"
    common = ("restore", colour, "--output", out, "--problem", "sensor", *SENTINEL, *RESTORE, "--seed", 3)
    run(*common, "--tile", 64)
    tiled = pv.open_scene(out / "fit.scene")
    radiometry = load_sensor("sentinel2-like").radiometry_of(["B04", "B02"])
    expected = radiometry.from_unit(torch.from_numpy(tiled.result("mean")(slice(0, 64), slice(0, 64))))
    with rasterio.open(out / "restored.tif") as file:
        np.testing.assert_array_equal(file.read(), expected.reshape(2, 64, 64).numpy())


def test_white_may_be_told(pan):
    problem = PROBLEMS["sensor"].having(sensor=Path("pleiades-like"))
    by_sensor, told = (problem.read(pan, scale)[1].values for scale in (None, 1000.0))
    torch.testing.assert_close(told, by_sensor * 4.095)


def test_bands_without_names_are_told(tmp_path):
    numbers = np.full((2, 64, 64), 3000, np.uint16)
    numbers[:, ::2] = 3300
    path = write(tmp_path / "bare.tif", numbers)
    common = ("restore", path, "--output", tmp_path / "out", "--problem", "sensor", *SENTINEL, *RESTORE)
    with pytest.raises(ValueError, match="received 2 bands without these names; name them in the file, or with"):
        run(*common)
    with pytest.raises(ValueError, match="--sensor-bands must name as many bands as the image has, 2"):
        run(*common, "--sensor-bands", "B04,B03,B02")
    with pytest.raises(ValueError, match=r"has the bands B01.*--sensor-bands says B04, red"):
        run(*common, "--sensor-bands", "B04,red")
    run(*common, "--sensor-bands", "B04,B03")
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["problem_options"]["sensor_bands"] == [
        "B04",
        "B03",
    ]


def test_what_a_sensor_says_is_not_said_twice(pan, sharp, tmp_path):
    says = "says itself what the noise is; received --noise 0.1 too"
    for command in (
        ("restore", pan, "--output", tmp_path / "o"),
        ("calibrate", sharp, "--output", tmp_path / "c.json"),
    ):
        with pytest.raises(ValueError, match=says):
            run(*command, "--problem", "sensor", *PLEIADES, "--noise", 0.1)
    with pytest.raises(ValueError, match=says):
        run("demo", "--output", tmp_path / "d", "--problem", "sensor", "--noise", 0.1)
    with pytest.raises(ValueError, match="--problem denoise does not say what the noise is; received no --noise"):
        run("calibrate", sharp, "--output", tmp_path / "c.json", "--problem", "denoise")
    with pytest.raises(ValueError, match="needs the sensor; pass --sensor"):
        run("restore", pan, "--output", tmp_path / "o", "--problem", "sensor")
    with pytest.raises(ValueError, match="--sensor belongs to --problem sensor; received it with denoise"):
        run("restore", pan, "--output", tmp_path / "o", "--problem", "denoise", *PLEIADES)


def test_numbers_that_are_not_the_sensors_are_told(tmp_path):
    Image.fromarray(skimage.data.cat()[60:124, 80:144]).save(tmp_path / "a.png")
    said = run("restore", tmp_path / "a.png", "--output", tmp_path / "o", "--problem", "sensor", *PLEIADES, *RESTORE)
    assert "numbers of uint8 do not reach half of what is white for --sensor pleiades-like" in said
    write(tmp_path / "unit.tif", np.full((1, 64, 64), 0.5, np.float32))
    with pytest.raises(ValueError, match=r"radiometry of --sensor leaves the brightest value at 0\.00012"):
        run("restore", tmp_path / "unit.tif", "--output", tmp_path / "o", "--problem", "sensor", *PLEIADES, *RESTORE)


def test_a_sensor_is_demonstrated(tmp_path):
    said = run("demo", "--output", tmp_path, "--size", 64, "--problem", "sensor", *QUICK)
    assert "Sensor pleiades-like, pixels 1 times as fine of scikit-image's 'cat'" in said


@pytest.mark.filterwarnings("ignore:A calibration on")
class TestCalibration:
    @pytest.fixture(scope="class")
    def calibrated(self, sharp, tmp_path_factory):
        """A calibration, and what was said of it."""
        file = tmp_path_factory.mktemp("calibration") / "sensor.json"
        return file, run("calibrate", sharp, "--output", file, "--problem", "sensor", *PLEIADES, "--crop", 64, *ALIKE)

    def test_truths_of_eight_bits_have_their_own_white(self, sharp):
        problem = PROBLEMS["sensor"].having(sensor=Path("pleiades-like"))
        _, truth = problem.read_truth(sharp / "0.png", None)
        torch.testing.assert_close(truth.values, photograph(3, left=0))
        assert (truth.scale, truth.radiometry) == (255.0, None)

    def test_coverage_by_land_is_told_before_and_after(self, calibrated, sharp, tmp_path):
        calibration, told = calibrated
        before, after = told.split("What 90 % intervals covered before")[1].split(
            "What they cover calibrated, by the calibration on all other images"
        )
        held = [[float(share) for share in re.findall(r"([\d.]+)%", part)[:3]] for part in (before, after)]
        left_out = np.mean(Calibration.load(calibration).left_out_90)
        # Thirds of equally many values: their mean is that of the whole, but for three roundings.
        assert np.mean(held[1]) == pytest.approx(100 * left_out, abs=0.06)
        assert np.mean(held[0]) != pytest.approx(100 * left_out, abs=0.06)
        said = run(
            "calibrate", sharp, "--output", tmp_path / "one.json", "--problem", "sensor", *PLEIADES,
            "--crop", 64, "--images", 1, *ALIKE,
        )  # fmt: skip
        assert "calibrated, by the calibration on this very image" in said

    def test_a_scene_is_calibrated(self, calibrated, pan, tmp_path, recwarn):
        calibration, _ = calibrated
        out = tmp_path / "out.tif"
        common = (*PLEIADES, "--tile", 64, "--workers", 0, *ALIKE)
        run("scene", pan, out, *common, "--calibration", calibration)
        assert not [w for w in recwarn if "The calibration was made with" in str(w.message)]
        learnt, white = Calibration.load(calibration), 4095
        scene = pv.open_scene(tmp_path / "out.scene")
        assert learnt.made_with == scene.made_with
        mean, std, low, high = (
            torch.from_numpy(scene.result(name)(slice(0, 64), slice(0, 64)).reshape(64, 64))
            for name in ("mean", "std", "low", "high")
        )
        half = white * learnt.half_width(std / white, 0.9)
        torch.testing.assert_close(high, mean + half, rtol=1e-4, atol=0.05)
        torch.testing.assert_close(low, mean - half, rtol=1e-4, atol=0.05)

    @pytest.mark.parametrize(
        "other", ["--scale 2", "--prior cae-aerial", "--guide vble", "--sensor {}/other.yaml", "--rate-scale 0.7"]
    )
    def test_one_that_does_not_suit_is_warned_of_before_the_work(self, other, calibrated, pan, tmp_path, monkeypatch):
        calibration, _ = calibrated

        class Begun(Exception):
            pass

        def begin(*_):
            raise Begun

        monkeypatch.setattr("pyro_vble.scene.restoration.run", begin)
        band = {"pixel_size": 0.5, "optics": {"along": 0.1, "across": 0.1}, "noise": {"sigma0": 2.0, "gain": 0.04}}
        sensor = {"name": "other", "radiometry": {"bits": 12}, "bands": {"pan": band}}
        (tmp_path / "other.yaml").write_text(json.dumps(sensor))
        common = ("scene", pan, tmp_path / "out.tif", *PLEIADES, "--workers", 0, *ALIKE, "--calibration", calibration)
        with pytest.warns(UserWarning, match="The calibration was made with") as told, pytest.raises(Begun):
            run(*common, *other.format(tmp_path).split())
        assert len([one for one in told if "The calibration was made with" in str(one.message)]) == 1
