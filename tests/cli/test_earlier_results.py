"""A folder that holds results already, or what is read: nothing of another run is taken for this one's."""

import json
import os

import numpy as np
import pytest
import rasterio
import torch
from scene.rasters import save
from typer.testing import CliRunner

from pyro_vble.cli.app import app
from pyro_vble.diagnostics import Calibration
from pyro_vble.io.images import read_image, write_image
from pyro_vble.page import content_of

QUICK = ("--steps", "1", "--samples", "4", "--draws", "0")
DENOISE = ("--problem", "denoise", "--noise", "0.1")


def run(*words):
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    return result.exit_code, " ".join(result.output.split())


def refused(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert isinstance(result.exception, ValueError)
    assert "An input is not overwritten" in str(result.exception)


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "x.png"
    write_image(path, torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    return path


class TestStaleFiles:
    def test_those_of_another_guide_are_removed(self, image, tmp_path):
        out = tmp_path / "out"
        assert run("restore", image, "--output", out, *DENOISE, *QUICK[:4], "--draws", "2", "--html")[0] == 0
        assert {"std.tif", "posterior.nc", "figure.png", "page.html"} <= {path.name for path in out.iterdir()}
        (out / "mine.txt").write_text("kept")
        assert run("restore", image, "--output", out, *DENOISE, *QUICK[:2], "--guide", "map-z")[0] == 0
        left = {path.name for path in out.iterdir()}
        assert left == {"restored.png", "mmse_z.png", "fit.pvble", "metrics.json", "mine.txt"}
        assert content_of(out).std is None

    @pytest.mark.slow
    def test_those_of_one_piece_and_of_tiles(self, image, tmp_path):
        out = tmp_path / "out"
        assert run("restore", image, "--output", out, *DENOISE, *QUICK)[0] == 0
        assert (
            run("restore", image, "--output", out, "--problem", "denoise", "--noise", "0.3", *QUICK, "--tile", 64)[0]
            == 0
        )
        names = {path.name for path in out.iterdir()}
        assert not names & {"error_quantile_90.tif", "fit.pvble", "mmse_z.png", "figure.png"}
        shown, high = content_of(out), read_image(out / "high.tif", scale=1.0).values[0]
        restored = read_image(out / "restored.png", scale=1.0).values[0]
        torch.testing.assert_close(torch.from_numpy(shown.upper), (high - restored).clamp_min(0), rtol=0, atol=1e-3)

    def test_a_folder_that_is_none_of_ours_keeps_all_that_is_not_written(self, image, tmp_path):
        (tmp_path / "low.tif").write_bytes(b"mine")
        (tmp_path / "metrics.json").write_text("{}")
        assert run("restore", image, "--output", tmp_path, *DENOISE, *QUICK)[0] == 0
        assert (tmp_path / "low.tif").read_bytes() == b"mine"

    def test_an_input_among_them_stays(self, image, tmp_path):
        out = tmp_path / "out"
        run("restore", image, "--output", out, *DENOISE, *QUICK)
        write_image(out / "low.tif", torch.rand(1, 3, 64, 64))
        before = (out / "low.tif").read_bytes()
        assert run("restore", out / "low.tif", "--output", out, *DENOISE, *QUICK)[0] == 0
        assert (out / "low.tif").read_bytes() == before


class TestInputs:
    def test_of_tiles(self, tmp_path):
        write_image(tmp_path / "lo" / "low.tif", torch.rand(1, 3, 64, 64))
        before = (tmp_path / "lo" / "low.tif").read_bytes()
        refused("restore", tmp_path / "lo" / "low.tif", "--output", tmp_path / "lo", *DENOISE, *QUICK, "--tile", "64")
        assert (tmp_path / "lo" / "low.tif").read_bytes() == before

    def test_of_a_scene(self, tmp_path):
        path = save(tmp_path / "scene.tif", np.full((1, 64, 64), 9, np.uint8))
        calibration = tmp_path / "res.json"
        Calibration((), (tuple(float(k) for k in range(1, 50)),), 9, 1000).save(calibration)
        before = calibration.read_bytes()
        refused("scene", path, tmp_path / "res.tif", "--noise", "0.1", "--calibration", calibration, "--workers", "0")
        assert calibration.read_bytes() == before


def test_the_first_file_is_one_that_is_there(tmp_path):
    from skimage.io import imsave

    imsave(tmp_path / "x.png", np.arange(4096, dtype=np.uint16).reshape(64, 64) * 16, check_contrast=False)
    code, said = run("restore", tmp_path / "x.png", "--output", tmp_path / "out", *DENOISE, *QUICK)
    assert code == 0
    assert "(restored.tif first)" in said
    assert (tmp_path / "out" / "restored.tif").is_file()


class TestPage:
    def test_it_finds_the_image_from_everywhere(self, image, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        run("restore", image.name, "--output", "out", *DENOISE, *QUICK)
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        write_image("x.png", torch.zeros(1, 3, 64, 64))  # another image of that name
        shown = content_of(tmp_path / "out")
        assert shown.pictures[0].name == "Before"
        np.testing.assert_allclose(shown.pictures[0].values.mean(), read_image(image).values.mean(), atol=0.1)

    def test_an_image_that_has_changed_is_not_shown(self, image, tmp_path):
        run("restore", image, "--output", tmp_path / "out", *DENOISE, *QUICK)
        write_image(image, torch.zeros(1, 3, 64, 64))
        os.utime(image, ns=(1, 1))
        shown = content_of(tmp_path / "out")
        assert shown.pictures[0].name == "Restored"
        assert any("has changed since" in note for note in shown.notes)
        assert content_of(tmp_path / "out", image).pictures[0].name == "Before"


class TestMeanErrorBar:
    def test_missing_pixels_count_for_nothing(self, tmp_path):
        values = np.random.default_rng(0).integers(1000, 3000, (1, 64, 64)).astype(np.uint16)
        values[:, :, :32] = 0
        path = save(tmp_path / "half.tif", values, nodata=0)
        assert run("restore", path, "--output", tmp_path / "out", "--scale", "4095", *DENOISE, *QUICK)[0] == 0
        with rasterio.open(tmp_path / "out" / "std.tif") as file:
            mean = float(np.nanmean(file.read()))
        told = json.loads((tmp_path / "out" / "metrics.json").read_text())
        assert told["mean_std"] * 4095 == pytest.approx(mean, rel=1e-4)
        shown = {figure.name: figure.value for figure in content_of(tmp_path / "out").figures}
        assert float(shown["Mean error bar"].split()[0]) == pytest.approx(mean, rel=0.01)

    def test_a_width_has_no_offset(self, tmp_path):
        sensor = tmp_path / "own.yaml"
        sensor.write_text(
            "name: own\nradiometry: {bits: 12, offset: -1000.0}\nbands:\n  pan:\n    pixel_size: 1.0\n"
            "    optics: {along: 0.3, across: 0.3}\n    noise: {sigma0: 100.0, gain: 0.0}\n"
        )
        path = save(tmp_path / "x.tif", np.random.default_rng(0).integers(1500, 3000, (1, 64, 64)).astype(np.uint16))
        given = ("--problem", "sensor", "--sensor", sensor)
        assert run("restore", path, "--output", tmp_path / "out", *given, *QUICK)[0] == 0
        mean = float(read_image(tmp_path / "out" / "std.tif", scale=1.0).values.nanmean())
        shown = {figure.name: figure.value for figure in content_of(tmp_path / "out").figures}
        assert float(shown["Mean error bar"].split()[0]) == pytest.approx(mean, rel=0.01)
