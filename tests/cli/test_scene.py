"""pyro-vble scene: georeferenced in and out, resumed, and honest about what failed."""

import json
import subprocess
import sys

import numpy as np
import pytest
import rasterio
import skimage.data
from PIL import Image
from scene.rasters import NORTH_UP, save
from scene.scenes import measured, prior
from typer.testing import CliRunner

import pyro_vble as pv
from pyro_vble.cli.app import app
from pyro_vble.io.prior_files import save_prior
from pyro_vble.scene import open_scene
from pyro_vble.scene.raster_source import RasterSource
from pyro_vble.scene.source import SourceError

pytestmark = [
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
    pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning"),
]


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    path = tmp_path_factory.mktemp("prior") / "small.safetensors"
    save_prior(prior(), path)
    return path


@pytest.fixture
def image(tmp_path):
    """Two bands of 12 bits with a hole."""
    values = (4095 * np.clip(measured(2, 70, 90), 0.01, 1)).astype(np.uint16)
    values[:, 10:15, 20:30] = 0
    return save(tmp_path / "in.tif", values, nodata=0)


def run(image, output, network, *arguments):
    quick = ["--prior", network, "--tile", 64, "--steps", 2, "--samples", 4, "--workers", 0, "--device", "cpu"]
    words = ["scene", image, output, *quick, *arguments]
    return CliRunner().invoke(app, [str(word) for word in words])


def test_it_writes_georeferenced_files_and_what_draws_samples(tmp_path, image, network):
    out = tmp_path / "out.tif"
    result = run(image, out, network, "--noise", 0.02, "--white", 4095, "--write-samples", 1)
    assert result.exit_code == 0, result.output
    names = {"out.tif", "out_std.tif", "out_low.tif", "out_high.tif", "out_sample_0.tif", "out.json", "out.scene"}
    assert {path.name for path in tmp_path.iterdir()} == names | {"in.tif"}
    with rasterio.open(image) as given, rasterio.open(out) as file:
        assert (file.crs, file.transform, file.dtypes, file.nodata) == (
            given.crs, given.transform, given.dtypes, given.nodata,
        )  # fmt: skip
        values = file.read()
        assert np.array_equal(values == 0, given.read() == 0)
    with rasterio.open(tmp_path / "out_std.tif") as file:
        std = file.read(masked=True)
        assert std.dtype == np.float32
        assert (std.compressed() > 0).all()
    scene = open_scene(tmp_path / "out.scene")
    results = scene.results
    # Rounded to the type's numbers, of which 0 stands for what is missing.
    expected = np.clip(results["mean"].values, 1, 65535)
    assert np.nanmax(np.abs(values - expected)) <= 0.5 + 1e-3
    assert results.rio.crs == "EPSG:32631"
    assert results.rio.transform() == NORTH_UP
    # In numbers of the file: a deviation is of the size of the noise, 82 of 4,095.
    assert 10 < float(results["std"].mean()) < 2000
    assert "uncalibrated" in result.output
    assert json.loads((tmp_path / "out.json").read_text())["type"] == "Feature"


@pytest.mark.parametrize("scale", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_finer_grids_have_finer_transforms(tmp_path, image, network, scale):
    tile = {2: 64, 3: 192}[scale]
    result = run(image, tmp_path / "out.tif", network, "--scale", scale, "--noise", 0.02, "--tile", tile, "--bands", 2)
    assert result.exit_code == 0, result.output
    with rasterio.open(tmp_path / "out.tif") as file:
        assert file.shape == (70 * scale, 90 * scale)
        assert file.count == 1
        assert file.transform.almost_equals(NORTH_UP @ rasterio.Affine.scale(1 / scale))


def test_a_window_is_restored_where_it_lies(tmp_path, image, network):
    result = run(image, tmp_path / "out.tif", network, "--noise", 0.02, "--window", "30,20,40,50")
    assert result.exit_code == 0, result.output
    with rasterio.open(tmp_path / "out.tif") as file:
        assert file.shape == (50, 40)
        assert file.transform == NORTH_UP @ rasterio.Affine.translation(30, 20)


def test_it_is_not_overwritten_but_resumed_and_ends_in_the_same_bytes(tmp_path, image, network):
    out = tmp_path / "out.tif"
    arguments = ["--noise", 0.02]
    assert run(image, out, network, *arguments).exit_code == 0
    before = out.read_bytes()
    again = run(image, out, network, *arguments)
    assert again.exit_code not in (0, 3)
    assert "resume" in str(again.exception or again.output)
    assert run(image, out, network, *arguments, "--resume").exit_code == 0
    assert out.read_bytes() == before
    other = run(image, out, network, "--noise", 0.03, "--resume")
    assert other.exit_code not in (0, 3)
    assert "operator" in str(other.exception or other.output)


def test_a_tile_that_fails_is_missing_and_the_exit_status_says_so(tmp_path, image, network, monkeypatch):
    real = RasterSource._block

    values = (4095 * np.clip(measured(1, 200, 64), 0.01, 1)).astype(np.uint16)
    tall = save(tmp_path / "tall.tif", values, nodata=0)

    def broken(self, top, left, height, width):
        if top == 128 and height == 72:
            raise SourceError("a broken block")
        return real(self, top, left, height, width)

    monkeypatch.setattr(RasterSource, "_block", broken)
    result = run(tall, tmp_path / "out.tif", network, "--noise", 0.02)
    assert result.exit_code == 3, result.output
    assert "a broken block" in " ".join(result.output.split())
    with rasterio.open(tmp_path / "out.tif") as file:
        absent = file.read(1) == 0
    assert absent[192:].all()
    assert not absent[:192].any()
    monkeypatch.undo()
    mended = run(tall, tmp_path / "out.tif", network, "--noise", 0.02, "--resume")
    assert mended.exit_code == 0, mended.output
    with rasterio.open(tmp_path / "out.tif") as file:
        assert (file.read(1) > 0).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--window", "0,0,5"], "COLUMN,ROW,WIDTH,HEIGHT"),
        (["--window", "0,0,500,5"], "must lie within"),
        (["--halo", "wide"], "auto or a number"),
        (["--halo", "32"], "multiple of 64"),
        (["--bands", "5"], "number from 1 to 2"),
        (["--scale", "3"], "multiple of 192"),
        (["--blur-sigma", "1", "--scale", "2"], "--sensor FILE"),
        (["--workers", "-1"], "number of processes"),
        (["--sensor", "pleiades-like", "--noise", "0.1"], "leave them out"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(tmp_path, image, network, arguments, words):
    result = run(
        image, tmp_path / "out.tif", network, *([] if "--sensor" in arguments else ["--noise", 0.02]), *arguments
    )
    assert result.exit_code not in (0, 3)
    assert words in " ".join(f"{result.output} {result.exception}".split())
    assert {path.name for path in tmp_path.iterdir()} == {"in.tif"}


def test_the_library_imports_none_of_what_scenes_need():
    heavy = "{'dask', 'distributed', 'zarr', 'rasterio', 'rioxarray'}"
    code = f"import sys, pyro_vble; print(sorted({heavy} & set(sys.modules)))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"
    assert callable(pv.load_prior)


def test_noise_is_no_less_than_what_the_file_has_rounded(tmp_path, network):
    """As for one image: JPEG's errors, and whole numbers, are seen as less noise than they are."""
    photograph = Image.fromarray(skimage.data.astronaut()[:128, 128:256])
    photograph.save(tmp_path / "x.jpg", quality=30)
    flat = save(tmp_path / "flat.tif", np.full((1, 64, 64), 90, np.uint8))
    quick = ("--steps", "1", "--samples", "2", "--workers", "0", "--prior", str(network), "--tile", "128")
    for path, floor, least in ((tmp_path / "x.jpg", "JPEG compression", 0.02), (flat, "pixel values", 0.001)):
        output = tmp_path / f"{path.stem}-out.tif"
        result = CliRunner().invoke(app, ["scene", str(path), str(output), *quick], catch_exceptions=False)
        said = " ".join(result.output.split())
        assert result.exit_code == 0, said
        assert floor in said
        assert float(said.split("parts of the scene: ")[1].split(",")[0]) > least
