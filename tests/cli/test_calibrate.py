import json

import numpy as np
import pytest
import tifffile
from PIL import Image
from typer.testing import CliRunner

from pyro_vble.cli.app import app
from pyro_vble.diagnostics import Calibration
from pyro_vble.io.images import read_image

QUICK = ["--steps", "2", "--samples", "4"]


@pytest.fixture
def sharp(tmp_path):
    folder = tmp_path / "sharp"
    folder.mkdir()
    for i in range(3):
        noise = np.random.default_rng(i).integers(0, 255, (70, 80, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{i}.png")
    return folder


def run(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


@pytest.mark.filterwarnings("ignore:A calibration on")
@pytest.mark.filterwarnings("ignore:The calibration was made with")
def test_calibrate_then_restore(sharp, tmp_path):
    file, options = tmp_path / "c.json", ["--problem", "deblur", "--noise", "0.05", *QUICK]
    output = run("calibrate", sharp, "--output", file, "--crop", 64, *options)
    assert "90 % intervals cover" in output
    calibration = Calibration.load(file)
    assert calibration.num_images == 3
    run("restore", sharp / "0.png", "--output", tmp_path / "raw", *options)
    run("restore", sharp / "0.png", "--output", tmp_path / "out", "--calibration", file, *options)
    std = read_image(tmp_path / "out" / "std.tif", scale=255).values
    bar = read_image(tmp_path / "out" / "error_quantile_90.tif", scale=255).values
    np.testing.assert_allclose(bar, calibration.half_width(std, 0.9), rtol=1e-4)
    assert not np.allclose(bar, read_image(tmp_path / "raw" / "error_quantile_90.tif", scale=255).values)
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["calibration"] == str(file)


@pytest.mark.filterwarnings("ignore:A calibration on")
def test_measured_pairs_of_another_size(sharp, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    for path in sharp.iterdir():
        Image.open(path).resize((40, 35)).save(small / path.name)
        (small / path.with_suffix(".jgw").name).write_text("a world file")
    run(
        "calibrate", sharp, "--measurements", small, "--output", tmp_path / "c.json", "--problem", "super-resolve",
        "--noise", "0.05", "--crop", 64, *QUICK,
    )  # fmt: skip
    assert Calibration.load(tmp_path / "c.json").num_images == 3


def test_errors(sharp, tmp_path):
    output = ["--output", tmp_path / "c.json", "--noise", "0.05", *QUICK]
    with pytest.raises(ValueError, match="Which pixels are missing is not simulated"):
        run("calibrate", sharp, "--problem", "inpaint", *output)
    with pytest.raises(ValueError, match="multiple of --factor"):
        run("calibrate", sharp, "--problem", "super-resolve", "--factor", 3, "--crop", 64, *output)
    with pytest.raises(FileNotFoundError, match="Nothing is at"):
        run("calibrate", tmp_path / "none", "--problem", "denoise", *output)
    with pytest.raises(ValueError, match="--guide map-z has no error bars"):
        run("calibrate", sharp, "--problem", "denoise", "--guide", "map-z", *output)
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match=r"None of the 3 images .* Every image needs its measurement"):
        run("calibrate", sharp, "--measurements", tmp_path / "other", "--problem", "denoise", *output)
    with pytest.raises(ValueError, match="must hold images"):
        run("calibrate", tmp_path / "other", "--problem", "denoise", *output)


def test_a_rasters_own_coordinates_reach_the_draws(tmp_path):
    """Pixels of 0.5 units, the upper left corner at (1000, 2000), y upwards."""
    import arviz as az

    pixels = np.random.default_rng(0).random((30, 40)).astype(np.float32)
    tags = [
        (33550, "d", 3, (0.5, 0.5, 0.0), True),
        (33922, "d", 6, (0.0, 0.0, 0.0, 1000.0, 2000.0, 0.0), True),
        (34735, "H", 4, (1, 1, 0, 0), True),
    ]
    tifffile.imwrite(tmp_path / "raster.tif", pixels, extratags=tags)
    source = read_image(tmp_path / "raster.tif")
    assert source.grid == (1000.0, 0.5, 2000.0, -0.5)
    run(
        "restore", tmp_path / "raster.tif", "--output", tmp_path / "out", "--problem", "super-resolve", "--noise", 0.01,
        "--draws", 2, *QUICK,
    )  # fmt: skip
    image = az.from_netcdf(tmp_path / "out" / "posterior.nc").posterior["image"]
    np.testing.assert_allclose(image.coords["row"].values[:2], [1999.875, 1999.625])
    np.testing.assert_allclose(image.coords["col"].values[[0, -1]], [1000.125, 1019.875])


@pytest.mark.filterwarnings("ignore:A calibration on")
def test_files_that_cannot_be_used_are_named_and_left_out(sharp, tmp_path):
    (sharp / "._0.png").write_bytes(b"\0\5\26\7")
    (sharp / "folder.png").mkdir()
    (sharp / "zz.png").write_bytes((sharp / "2.png").read_bytes()[:200])
    out = tmp_path / "c.json"
    output = run(
        "calibrate",
        sharp,
        "--output",
        out,
        "--problem",
        "denoise",
        "--noise",
        0.05,
        "--crop",
        64,
        "--images",
        3,
        *QUICK,
    )
    assert "Skipped" in output
    assert "zz.png" in output
    assert "._0.png" not in output
    assert "folder.png" not in output
    assert Calibration.load(out).num_images == 3


def test_where_a_calibration_goes_is_looked_at_first(sharp, tmp_path, monkeypatch):
    monkeypatch.setattr("pyro_vble.restore", lambda *_, **__: pytest.fail("the work has begun"))
    options = ["--problem", "denoise", "--noise", 0.05, *QUICK]
    with pytest.raises(ValueError, match="An input is not overwritten"):
        run("calibrate", sharp, "--output", sharp / "1.png", *options)
    with pytest.raises((ValueError, OSError)):
        run("calibrate", sharp, "--output", tmp_path, *options)
    with pytest.raises(OSError, match="none"):
        run("calibrate", sharp, "--output", "/proc/none/c.json", *options)
