"""Sensors' files: what comes with the package, what is refused, and the operators that they make."""

import copy

import numpy as np
import pytest
import torch

from pyro_vble.physics import OpticalMTF, Radiometry, likelihood, point_spread_function
from pyro_vble.sensors import SensorSettings, load_sensor, sensor_names

MINE = {
    "name": "mine",
    "radiometry": {"bits": 12, "dtype": "uint16"},
    "bands": {
        "pan": {
            "pixel_size": 0.5,
            "optics": {"along": 0.15, "across": 0.15},
            "noise": {"sigma0": 2.0, "snr": 150.0, "radiance": 1000.0},
        }
    },
}


def changed(path, value):
    """The settings with one value replaced, or left out where it is None."""
    content = copy.deepcopy(MINE)
    *parents, last = path.split(".")
    where = content
    for name in parents:
        where = where[name]
    if value is None:
        del where[last]
    else:
        where[last] = value
    return content


@pytest.mark.parametrize("name", sensor_names())
@pytest.mark.parametrize("scale", [1, 2])
def test_bands_of_one_resolution_make_an_operator(name, scale):
    settings = load_sensor(name)
    assert settings.name == name
    sizes = {band.pixel_size for band in settings.bands.values()}
    for size in sizes:
        bands = [own for own, band in settings.bands.items() if band.pixel_size == size]
        physics = settings.physics(scale, bands)
        x = torch.full((1, len(bands), 8 * scale, 8 * scale), 0.3)
        torch.testing.assert_close(physics.A(x), torch.full((1, len(bands), 8, 8), 0.3), rtol=0, atol=1e-6)
        assert settings.pixel_size(bands) == size
        assert likelihood(physics, physics.A(x)).log_prob(physics(x)).isfinite().all()


@pytest.mark.parametrize("name", sensor_names())
def test_the_signal_to_noise_ratio_is_that_of_the_file(name):
    settings = load_sensor(name)
    for own, band in settings.bands.items():
        physics = settings.physics(bands=own)
        unit = band.noise.radiance / settings.radiometry_of(own).radiance
        noise = likelihood(physics, torch.full((1, 1, 1, 1), unit))
        scale = float(getattr(noise, "scale", noise.variance.sqrt()))
        # Rounding is a small part of the noise.
        assert unit / scale == pytest.approx(band.noise.snr, rel=5e-3)


def test_bands_of_several_resolutions_are_read_one_by_one():
    settings = load_sensor("sentinel2-like")
    with pytest.raises(ValueError, match=r"must be of one resolution; received 10 m: B02; 20 m: B05; restore each"):
        settings.physics(bands=["B02", "B05"])
    with pytest.raises(ValueError, match=r"bands must be some of B01, .*; received \['B99'\]"):
        settings.physics(bands="B99")
    with pytest.raises(TypeError, match=r"bands must be a band's name, a list of such, or None .*; received 4"):
        settings.physics(bands=4)


def test_bands_keep_their_order():
    settings = load_sensor("sentinel2-like")
    physics, turned = (settings.physics(bands=bands) for bands in (["B02", "B04"], ["B04", "B02"]))
    torch.testing.assert_close(physics.noise_model.gain, turned.noise_model.gain.flip(1))
    assert physics.noise_model.gain.shape == (1, 2, 1, 1)
    torch.testing.assert_close(physics.filter, turned.filter.flip(1))


def test_numbers_of_a_file_become_a_measurement():
    """Noise and converter of the operator are those of the numbers."""
    settings = SensorSettings.model_validate(MINE)
    assert settings.radiometry == Radiometry(bits=12, dtype="uint16")
    physics = settings.physics()
    x = settings.radiometry.to_unit(np.full((1, 1, 200, 200), 1000, np.uint16))
    torch.manual_seed(0)
    numbers = settings.radiometry.from_unit(physics(torch.from_numpy(x)))
    # Of 40,000 values; rounding adds 1/12.
    assert float(numbers.float().std()) == pytest.approx(((1000 / 150) ** 2 + 1 / 12) ** 0.5, rel=5 / 80_000**0.5)


def test_rounding_that_is_not_in_the_operator_is_in_the_noise():
    content = changed("radiometry", {"white": 4095.0, "gain": 10.0})
    content["bands"]["pan"]["noise"] = {"sigma0": 2.0, "gain": 0.0}
    physics = SensorSettings.model_validate(content).physics()
    assert float(physics.noise_model.sigma0) * 4095 == pytest.approx((4 + 100 / 12) ** 0.5)
    assert float(physics.sensor_model(torch.tensor(1.2))) == pytest.approx(1.2)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("colour", "red", r"colour: Extra inputs are not permitted"),
        ("bands.pan.optics.alog", 0.1, r"bands\.pan\.optics\.alog: Extra inputs are not permitted"),
        ("bands.pan.pixel_size", 0.0, r"bands\.pan\.pixel_size: Input should be greater than 0 \(received 0\.0\)"),
        ("bands.pan.noise", None, r"bands\.pan\.noise: Field required"),
        ("bands.pan.optics.along", 0.9, r"along must be at most .* 0\.6366; received 0\.9; make"),
        ("bands.pan.optics.along", 2.0, r"along must be a number between 0 and 1"),
        ("bands.pan.optics.psf_file", "a.npy", r"a psf_file goes with nothing else .* received across, along|across"),
        ("bands.pan.noise.gain", 0.1, r"noise is sigma0 with gain, or sigma0 with snr and radiance; .*; give one"),
        ("bands.pan.noise.radiance", None, r"noise is sigma0 with gain, or sigma0 with snr and radiance"),
        ("bands.pan.noise.sigma0", 7.0, r"sigma0 must be at most .* 6\.667; received 7; make it less"),
        ("radiometry.bits", None, r"radiometry: Exactly one of bits and white is needed"),
        ("radiometry.colour", 1, r"radiometry: .*colour"),
        ("radiometry.gain", [1.0, 2.0], r"radiometry must have one number for all bands or one for each of the 1"),
        ("bands", {}, r"bands: Dictionary should have at least 1 item"),
    ],
)
def test_a_file_that_says_something_impossible(tmp_path, path, value, message):
    yaml = pytest.importorskip("yaml")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(changed(path, value)))
    with pytest.raises(ValueError, match=f"mine.yaml cannot be used: .*{message}"):
        load_sensor(tmp_path / "mine.yaml")


def test_what_is_no_sensor(tmp_path):
    with pytest.raises(ValueError, match="A sensor is one of pleiades-like, sentinel2-like, or the path"):
        load_sensor("landsat")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(ValueError, match=r"bad.yaml must be YAML"):
        load_sensor(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"list.yaml cannot be used"):
        load_sensor(tmp_path / "list.yaml")


class TestMeasuredFunctions:
    @pytest.fixture
    def load(self, tmp_path):
        yaml = pytest.importorskip("yaml")

        def load(optics):
            (tmp_path / "mine.yaml").write_text(yaml.safe_dump(changed("bands.pan.optics", optics)))
            return load_sensor(tmp_path / "mine.yaml")

        return load

    def test_a_point_spread_function_beside_the_file(self, tmp_path, load):
        kernel = np.outer([1, 3, 1], [1, 4, 1]) / 30
        np.save(tmp_path / "psf.npy", kernel)
        np.savetxt(tmp_path / "psf.csv", kernel, delimiter=",")
        for name in ("psf.npy", "psf.csv"):
            found = load({"psf_file": name}).physics().filter[0, 0]
            middle = len(found) // 2
            np.testing.assert_allclose(found[middle - 1 : middle + 2, middle - 1 : middle + 2], kernel, atol=1e-4)

    def test_curves_beside_the_file(self, tmp_path, load):
        f = np.linspace(0, 1.5, 40)
        mtf = OpticalMTF(along=0.2, across=0.1)
        table = np.stack([f, mtf.response(f, 0.0), mtf.response(0.0, f)], axis=1)
        np.savetxt(tmp_path / "mtf.txt", table)
        found = load({"mtf_file": "mtf.txt"}).physics(2).filter[0, 0]
        wanted = point_spread_function(mtf, 2)
        assert abs(float(found.sum()) - 1) < 1e-6
        inner = min(len(found), len(wanted)) // 2
        cut = [slice(len(k) // 2 - inner, len(k) // 2 + inner) for k in (found, wanted)]
        np.testing.assert_allclose(found[cut[0], cut[0]], wanted[cut[1], cut[1]], atol=1e-3)

    def test_a_file_that_is_not_there(self, load):
        with pytest.raises(ValueError, match=r"nowhere.npy must hold a matrix of numbers, as .npy or text"):
            load({"psf_file": "nowhere.npy"})

    def test_samples_without_a_file(self, load):
        with pytest.raises(ValueError, match="samples_per_pixel is that of a psf_file; received none"):
            load({"samples_per_pixel": 2.0})
