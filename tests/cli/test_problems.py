"""One registry of problems: what is entered there is known to every command."""

import json
import subprocess
import sys
import warnings
from dataclasses import replace
from typing import Annotated

import pytest
import skimage.data
import torch
import typer
import xarray
from PIL import Image
from typer.testing import CliRunner

from pyro_vble.cli import options, problems
from pyro_vble.cli.calibrate import calibrate
from pyro_vble.cli.demo import demo
from pyro_vble.cli.fit import Fit
from pyro_vble.cli.guides import GUIDES
from pyro_vble.cli.problems import PROBLEMS, Problem
from pyro_vble.cli.restore import restore
from pyro_vble.io.images import read_image

QUICK = ["--noise", 0.02, "--steps", 2, "--samples", 3]


def _shrinking(
    y, noise, *, shrink: Annotated[int, typer.Option(min=2)] = 2, blur_sigma: problems.BlurSigma = 1.0
):  # what a new problem needs to write
    from deepinv.physics import Downsampling

    from pyro_vble.physics.problems import gaussian_kernel, gaussian_noise

    shape = (y.shape[1], shrink * y.shape[2], shrink * y.shape[3])
    psf = gaussian_kernel(blur_sigma)[None, None]
    return Downsampling(img_size=shape, filter=psf, factor=shrink, padding="reflect", noise_model=gaussian_noise(noise))


@pytest.fixture
def run(monkeypatch):
    """The commands of a program that has one problem more."""
    new = Problem(
        "shrink",
        "a blur and too few pixels",
        "Shrinking by {shrink} (noise {noise:g})",
        _shrinking,
        blame=lambda shrink, **_: f"another --shrink than {shrink}",
        enlarged_by="shrink",
        example={"shrink": 4},
    )
    monkeypatch.setitem(PROBLEMS, "shrink", new)
    app = typer.Typer()
    app.command()(demo)
    for command in (restore, calibrate):
        app.command()(options.unfolded(problem=problems.chosen(), fit=Fit)(command.__wrapped__))

    def invoke(*arguments):
        return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False).output

    return invoke


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sharp").mkdir()
    for i in range(3):
        Image.fromarray(skimage.data.cat()[60 : 60 + 64, 80 * i : 80 * i + 64]).save(tmp_path / "sharp" / f"{i}.png")
    return tmp_path


def test_a_new_problem_is_restored(run, folder):
    out = folder / "out"
    run("restore", folder / "sharp" / "0.png", "--output", out, "--problem", "shrink", "--shrink", 3, *QUICK)
    assert read_image(out / "restored.png").values.shape == (1, 3, 192, 192)
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["problem"] == "shrink"
    assert metrics["problem_options"] == {"shrink": 3, "blur_sigma": 1.0}


def test_a_new_problem_is_blamed(run, folder):
    arguments = ("--output", folder / "out", "--problem", "shrink", "--noise", 1e-4, "--steps", 2, "--samples", 3)
    said = run("restore", folder / "sharp" / "0.png", *arguments)
    assert "another --shrink than 2, or another noise than --noise says, or a fit" in " ".join(said.split())


def test_a_new_problem_keeps_its_options_to_itself(run, folder):
    common = ("restore", folder / "sharp" / "0.png", "--output", folder / "out", "--problem")
    with pytest.raises(ValueError, match="--shrink belongs to --problem shrink; received it with deblur"):
        run(*common, "deblur", "--shrink", 3)
    with pytest.raises(ValueError, match="--blur-sigma belongs to --problem deblur or shrink; received it with"):
        run(*common, "denoise", "--blur-sigma", 3)


@pytest.mark.filterwarnings("ignore:A calibration on")
def test_a_new_problem_is_calibrated(run, folder):
    common = ("calibrate", folder / "sharp", "--output", folder / "c.json", "--problem", "shrink", "--crop", 64)
    with pytest.raises(ValueError, match="--crop must be a multiple of --shrink 3; received 64"):
        run(*common, "--shrink", 3, *QUICK)
    assert "Learnt on 3 images" in run(*common, "--blur-sigma", 0.8, *QUICK)


def test_a_new_problem_is_demonstrated(run, folder):
    said = run("demo", "--output", folder, "--size", 64, "--problem", "shrink", *QUICK[2:])
    assert "Shrinking by 4 (noise 0.03) of scikit-image's 'cat'" in said
    assert read_image(folder / "measurement.png").values.shape == (1, 3, 16, 16)


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_simulation_has_the_operator_that_its_measurement_is_given(name):
    truth = torch.rand(1, 3, 64, 64)
    problem = PROBLEMS[name].having(**PROBLEMS[name].example)
    physics, y = problem.simulate(truth, 0.1)
    shown = problem.shown(y, physics)
    assert [problem.ratio * side for side in shown.shape[2:]] == [64, 64]
    if not problem.fills:
        torch.testing.assert_close(problem.build(shown, 0.1).A(truth), physics.A(truth))


def test_pixels_are_missing_whatever_their_noise():
    physics, y = PROBLEMS["inpaint"].simulate(torch.zeros(1, 3, 128, 128), 0.1)
    observed = physics.mask[0] > 0
    assert observed.float().mean() == pytest.approx(0.5, abs=0.02)
    for band in range(3):
        assert y[0, band][observed[band]].std() == pytest.approx(0.1, rel=0.03)


def test_guides_are_loaded_by_their_names():
    from pyro_vble import guides

    assert {name: guide.load().func for name, guide in GUIDES.items()} == {
        "vble": guides.VBLE,
        "vble-xz": guides.VBLExz,
        "vble-xz-free": guides.VBLExz,
        "vble-xz-correlated": guides.VBLExz,
        "map-z": guides.MAPz,
    }
    assert [name for name, guide in GUIDES.items() if not guide.spread] == ["map-z"]


def test_the_whole_command_line_is_imported_without_what_computes():
    code = "import sys, pyro_vble.cli.app; print({'torch', 'pyro', 'deepinv', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


@pytest.mark.parametrize("quality", ["fast", "accurate"])
def test_the_default_guide_is_that_of_python(bundled, quality):
    from pyro_vble.guides import default_guide

    own, expected = Fit(quality=quality).family.load(), default_guide(quality, bundled)
    assert (own.func, own.keywords) == (expected.func, expected.keywords)


@pytest.fixture
def pair(tmp_path):
    """A panchromatic GeoTIFF and one of colour over the same ground, of known weights."""
    rasterio = pytest.importorskip("rasterio")
    from rasterio.transform import from_origin

    from pyro_vble.io.images import write_image
    from pyro_vble.io.rasters import Raster
    from pyro_vble.physics import pansharpening

    crop = skimage.data.cat()[60 : 60 + 128, 80 : 80 + 128]
    truth = torch.from_numpy(crop.copy()).permute(2, 0, 1)[None].float() / 255
    physics = pansharpening((3, 128, 128), 4, weights=[0.5, 0.3, 0.2])
    pan, colour = physics.split(physics(truth))
    crs = rasterio.crs.CRS.from_epsg(32631)
    names = ("red", "green", "blue")
    for name, values, size, bands in (("pan", pan, 0.5, ("pan",)), ("ms", colour, 2.0, names)):
        place = Raster(*values.shape[-2:], crs, from_origin(5e5, 4.8e6, size, size), descriptions=bands)
        n = len(bands)
        place = replace(
            place, band_tags=({},) * n, scales=(1.0,) * n, offsets=(0.0,) * n, units=(None,) * n, colours=("gray",) * n
        )
        write_image(tmp_path / f"{name}.tif", values, dtype="uint16", scale=65535.0, raster=place)
    return tmp_path, truth


class TestPansharpening:
    def test_two_files_are_one_measurement(self, run, pair):
        rasterio = pytest.importorskip("rasterio")
        folder, truth = pair
        arguments = ("restore", folder / "ms.tif", "--output", folder / "out", "--problem", "pansharpen")
        said = run(*arguments, "--pan", folder / "pan.tif", "--steps", 20, "--samples", 3, "--noise", 0.01)
        weights = said.split("--pan sums the bands with weights ")[1].split(",")
        assert [float(one) for one in weights[:3]] == pytest.approx([0.5, 0.3, 0.2], abs=0.02)
        about = json.loads((folder / "out" / "metrics.json").read_text())
        assert about["problem_options_estimated"] == ["pan_noise", "pan_weights"]
        kept = [float(one) for one in about["problem_options"]["pan_weights"].split(",")]
        assert kept == pytest.approx([float(one) for one in weights[:3]], rel=0.01)
        assert 0 < about["problem_options"]["pan_noise"] < 0.1
        with rasterio.open(folder / "out" / "restored.tif") as found, rasterio.open(folder / "pan.tif") as pan:
            assert found.shape == pan.shape
            assert (found.crs, found.transform) == (pan.crs, pan.transform)
            assert found.descriptions == ("red", "green", "blue")
            assert found.dtypes[0] == "uint16"
        restored = read_image(folder / "out" / "restored.tif").values
        coarse = torch.nn.functional.interpolate(
            read_image(folder / "ms.tif").values, scale_factor=4, mode="bicubic", align_corners=False
        )
        assert (restored - truth).square().mean() < 0.5 * (coarse - truth).square().mean()

    @pytest.mark.parametrize("says", ["nothing", "nodata alone"])
    def test_a_panchromatic_image_without_a_place_leaves_the_colours_theirs(self, run, pair, says):
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning

        folder, _ = pair
        options = {"nodata": 0} if says == "nodata alone" else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(folder / "pan.tif") as file:
                values, transform = file.read(), file.transform
            shape = {"count": 1, "height": values.shape[1], "width": values.shape[2], "dtype": values.dtype}
            with rasterio.open(folder / "plain.tif", "w", driver="GTiff", **shape, **options) as file:
                file.write(values)
            arguments = ("restore", folder / "ms.tif", "--output", folder / "out", "--problem", "pansharpen")
            run(*arguments, "--pan", folder / "plain.tif", "--steps", 1, "--samples", 2, "--draws", 1, "--noise", 0.01)
        with rasterio.open(folder / "out" / "restored.tif") as found, rasterio.open(folder / "ms.tif") as colours:
            assert found.crs == colours.crs
            assert found.transform.almost_equals(transform)
        draws = xarray.open_dataset(folder / "out" / "posterior.nc", group="posterior")
        columns = draws["col"].values
        assert columns[0] == pytest.approx(transform.c + transform.a / 2)
        assert columns[1] - columns[0] == pytest.approx(transform.a)

    def test_what_does_not_fit_is_refused(self, run, pair):
        folder, _ = pair
        arguments = ("restore", folder / "ms.tif", "--output", folder / "out", "--problem", "pansharpen", *QUICK)
        with pytest.raises(ValueError, match="pass --pan FILE"):
            run(*arguments)
        with pytest.raises(ValueError, match="--pan must have one band"):
            run(*arguments, "--pan", folder / "ms.tif")
        with pytest.raises(ValueError, match="--pan must have 2 times the rows"):
            run(*arguments, "--pan", folder / "pan.tif", "--ratio", 2)
        with pytest.raises(ValueError, match="--pan-weights must be one number a band, 3; received 2"):
            run(*arguments, "--pan", folder / "pan.tif", "--pan-weights", "0.5,0.5")
        with pytest.raises(ValueError, match="--pan belongs to --problem pansharpen"):
            run("restore", folder / "ms.tif", "--output", folder / "out", "--problem", "denoise", "--pan", "x")

    def test_other_ground_is_refused(self, run, pair):
        import rasterio
        from rasterio.transform import from_origin

        folder, _ = pair
        with rasterio.open(folder / "pan.tif", "r+") as file:
            file.transform = from_origin(5e5 + 2, 4.8e6, 0.5, 0.5)
        with pytest.raises(ValueError, match=r"corners lie up to 1\.00 coarse pixels apart"):
            run(
                "restore", folder / "ms.tif", "--output", folder / "out", "--problem", "pansharpen",
                "--pan", folder / "pan.tif", *QUICK,
            )  # fmt: skip
