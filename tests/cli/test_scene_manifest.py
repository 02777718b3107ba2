"""What ``pyro-vble scene`` says of an enlarged scene in its manifest is what its files say."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from pyro_vble.cli.app import app

rasterio = pytest.importorskip("rasterio", reason="needs the extra geo")
pytest.importorskip("pystac", reason="needs the extra geo")


def test_the_manifest_of_an_enlarged_scene_has_the_finer_grid(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = np.random.default_rng(0).integers(200, 3000, (1, 36, 40), dtype=np.uint16)
    place = {"crs": "EPSG:32631", "transform": rasterio.Affine(0.5, 0, 593_000, 0, -0.5, 5_747_000)}
    with rasterio.open("in.tif", "w", driver="GTiff", count=1, height=36, width=40, dtype="uint16", **place) as file:
        file.write(values)
    options = ["--sensor", "pleiades-like", "--scale", "2", "--tile", "128", "--steps", "1", "--samples", "2"]
    result = CliRunner().invoke(app, ["scene", "in.tif", "out.tif", *options, "--workers", "0"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    told = json.loads((tmp_path / "out.json").read_text())["properties"]
    with rasterio.open("out.tif") as file:
        assert tuple(told["proj:shape"]) == file.shape == (72, 80)
        assert told["proj:transform"] == list(file.transform)[:6]
        assert file.transform.a == 0.25
