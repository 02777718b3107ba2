import json

import arviz as az
import numpy as np
import pytest
import rasterio
import skimage.data
import tifffile
import torch
from PIL import Image
from typer.testing import CliRunner

import pyro_vble as pv
from pyro_vble.cli.app import app, main
from pyro_vble.io.images import read_image, write_image


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


@pytest.fixture
def photograph(tmp_path):
    path = tmp_path / "cat.png"
    Image.fromarray(skimage.data.cat()[60:124, 160:240]).save(path)
    return path


@pytest.mark.parametrize("problem", ["deblur", "denoise", "super-resolve", "inpaint"])
def test_demo_writes_what_it_promises(tmp_path, problem):
    result = run(
        "demo", "--output", tmp_path / "out", "--size", 64, "--steps", 10, "--samples", 6, "--problem", problem
    )
    assert result.exit_code == 0, result.output
    for word in ("PSNR before", "coverage", "VBLE-xz", " s "):
        assert word in " ".join(result.output.split()) or word.split()[0] in result.output
    out = tmp_path / "out"
    written = {p.name for p in out.iterdir()}
    assert {
        "figure.png",
        "posterior.nc",
        "metrics.json",
        "truth.png",
        "measurement.png",
        "vble_restored.png",
    } <= written
    assert not [name for name in written if "partial" in name]
    metrics = json.loads((out / "metrics.json").read_text())
    assert set(metrics["guides"]) == {"VBLE", "VBLE-xz-free"}
    assert 0 <= metrics["guides"]["VBLE-xz-free"]["coverage_90"] <= 1
    assert metrics["guides"]["VBLE"]["seconds"]["fit"] > 0
    assert az.from_netcdf(str(out / "posterior.nc")).posterior["image"].sizes["draw"] == 6
    with Image.open(out / "figure.png") as figure:
        assert figure.width > 2 * figure.height


@pytest.mark.parametrize(
    ("problem", "options"),
    [
        ("denoise", []),
        ("deblur", ["--blur-sigma", "1.2", "--noise", "0.02"]),
        ("super-resolve", ["--factor", "2", "--noise", "0"]),
        ("denoise", ["--noise", "0.05", "--guide", "vble-xz-free", "--rate-scale", "0.5"]),
    ],
)
def test_restore(photograph, tmp_path, problem, options):
    out = tmp_path / "out"
    result = run("restore", photograph, "--output", out, "--problem", problem, "--steps", 5, "--samples", 4, *options)
    assert result.exit_code == 0, result.output
    factor = 2 if problem == "super-resolve" else 1
    assert read_image(out / "restored.png").values.shape == (1, 3, 64 * factor, 80 * factor)
    assert read_image(out / "std.tif").dtype == np.float32
    assert "error bars are uncalibrated" in result.output
    written = {p.name for p in out.iterdir()}
    assert {
        "restored.png",
        "std.tif",
        "fit.pvble",
        "posterior.nc",
        "figure.png",
        "error_bars.png",
        "metrics.json",
    } <= written
    assert not json.loads((out / "metrics.json").read_text())["interrupted"]
    posterior = pv.load_posterior(out / "fit.pvble")
    bars = read_image(out / "std.tif", scale=255).values  # in the numbers of the PNG
    torch.testing.assert_close(posterior.std(4), bars, rtol=0, atol=1e-6)


def test_restore_with_linearised_draws(photograph, tmp_path):
    out = tmp_path / "out"
    options = ("--problem", "denoise", "--noise", 0.05, "--steps", 5, "--samples", 4, "--linearised")
    result = run("restore", photograph, "--output", out, *options)
    assert result.exit_code == 0, result.output
    assert json.loads((out / "metrics.json").read_text())["linearised"]
    groups = az.from_netcdf(str(out / "posterior.nc")).groups()
    assert "posterior_predictive" in groups
    assert "sample_stats" not in groups  # they have no densities
    guide_alone = pv.load_posterior(out / "fit.pvble").std(4)
    assert not torch.allclose(guide_alone, read_image(out / "std.tif", scale=255).values, atol=1e-4)


@pytest.mark.parametrize(("quality", "guide"), [("fast", "vble-xz-free"), ("accurate", "vble-xz-correlated")])
def test_a_quality_chooses_the_guide(photograph, tmp_path, quality, guide):
    common = ("--problem", "denoise", "--noise", 0.05, "--steps", 2, "--samples", 2, "--quality", quality)
    assert run("restore", photograph, "--output", tmp_path / "out", *common).exit_code == 0
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["guide"] == guide


def test_an_unknown_quality_is_refused(photograph, tmp_path):
    result = run("restore", photograph, "--output", tmp_path / "out", "--quality", "best")
    assert result.exit_code == 2
    assert "'best' is not one of 'fast', 'accurate'" in " ".join(result.output.replace("│", " ").split())


@pytest.mark.slow
def test_restore_says_where_it_does_not_explain_the_measurement(photograph, tmp_path):
    """A sharp photograph that passes for a blurred one, beside the same that passes for a noisy one."""
    common = ("--problem", "deblur", "--blur-sigma", 2.5, "--noise", 0.002, "--steps", 40, "--samples", 2)
    wrong = run("restore", photograph, "--output", tmp_path / "wrong", *common)
    right = run("restore", photograph, "--output", tmp_path / "right", "--problem", "denoise", "--samples", 2)
    said = [" ".join(result.output.split()) for result in (wrong, right)]
    assert "does not explain its measurement" in said[0]
    assert "another blur than --blur-sigma says, or another noise than --noise says" in said[0]
    assert "does not explain" not in said[1]
    ratios = [
        json.loads((tmp_path / n / "metrics.json").read_text())["residual_over_noise"] for n in ("wrong", "right")
    ]
    assert ratios[0] > 2 > ratios[1] > 0.7


def test_restore_inpaints_by_mask_transparency_and_nodata(tmp_path):
    rgb = skimage.data.cat()[60:124, 160:224]
    known = np.full((64, 64), 255, np.uint8)
    known[20:30, 20:40] = 0
    Image.fromarray(rgb).save(tmp_path / "rgb.png")
    Image.fromarray(known).save(tmp_path / "mask.png")
    Image.fromarray(np.dstack((rgb, known))).save(tmp_path / "rgba.png")
    with_nodata = rgb.astype(np.uint16) + 1
    with_nodata[known == 0] = 0
    tifffile.imwrite(tmp_path / "scene.tif", with_nodata, photometric="rgb")
    common = ("--problem", "inpaint", "--noise", 0.02, "--steps", 5, "--samples", 4)
    results = {}
    for name, extra in {
        "rgb.png": ("--mask", tmp_path / "mask.png"),
        "rgba.png": (),
        "scene.tif": ("--nodata", 0, "--scale", 256),
    }.items():
        result = run("restore", tmp_path / name, "--output", tmp_path / f"out-{name}", *common, *extra)
        assert result.exit_code == 0, result.output
        results[name] = pv.load_posterior(tmp_path / f"out-{name}" / "fit.pvble")
    for posterior in results.values():
        assert torch.equal(torch.isnan(posterior.y[0, 0]), torch.from_numpy(known == 0))
    torch.testing.assert_close(results["rgb.png"].mmse_x(4), results["rgba.png"].mmse_x(4))
    assert read_image(tmp_path / "out-scene.tif" / "restored.tif").dtype == np.uint16


def test_restore_with_a_kernel_file_and_numpy(tmp_path):
    kernel = np.zeros((5, 5))
    kernel[2] = 0.2
    np.save(tmp_path / "kernel.npy", kernel)
    np.save(tmp_path / "image.npy", np.random.default_rng(0).random((2, 70, 64)))
    result = run(
        "restore", tmp_path / "image.npy", "--output", tmp_path / "out", "--problem", "deblur", "--kernel",
        tmp_path / "kernel.npy", "--noise", 0.05, "--steps", 3, "--samples", 3, "--draws", 0,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert np.load(tmp_path / "out" / "restored.npy").shape == (2, 70, 64)
    assert not (tmp_path / "out" / "posterior.nc").exists()


@pytest.mark.parametrize(("dtype", "unit"), [("float32", 1.0), ("uint16", 65535.0)])
def test_metadata_of_a_raster_is_kept_and_error_bars_have_no_offset(tmp_path, dtype, unit):
    values = np.random.default_rng(0).uniform(0.3, 0.7, (2, 32, 40)) * unit
    values[0, 5, 5:8] = 0
    transform = rasterio.Affine(2.0, 0.0, 1000.0, 0.0, -2.0, 5000.0)
    options = {"driver": "GTiff", "count": 2, "height": 32, "width": 40, "crs": "EPSG:32631", "transform": transform}
    with rasterio.open(tmp_path / "$a_$.tif", "w", dtype=dtype, nodata=0, **options) as file:
        file.write(values.astype(dtype))
        file.scales, file.offsets, file.units = (0.5, 0.5), (-3.0, 4.0), ("K", "K")
        file.descriptions = ("red", "infrared")
    result = run(
        "restore", tmp_path / "$a_$.tif", "--output", tmp_path / "out", "--problem", "denoise", "--noise", 0.05,
        "--steps", 2, "--samples", 3, "--draws", 0,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "3 of 1,280 pixels (0.2%) are missing: they stay missing" in result.output
    found = {}
    for name in ("restored", "std"):
        with rasterio.open(tmp_path / "out" / f"{name}.tif") as file:
            assert (file.crs, file.transform, file.descriptions) == ("EPSG:32631", transform, ("red", "infrared"))
            missing = file.read_masks() == 0
            assert missing[0, 5, 5:8].all()
            assert missing.sum() == 3
            found[name] = file.scales, file.offsets, file.units
    assert found["restored"] == ((0.5, 0.5), (-3.0, 4.0), ("K", "K"))
    assert found["std"] == ((0.5, 0.5), (0.0, 0.0), ("K", "K"))


@pytest.mark.parametrize(("factor", "options"), [(2000, ()), (65535 * 5, ("--scale", 10_000))])
def test_an_image_on_another_scale_is_refused_before_its_noise_is_looked_at(tmp_path, factor, options):
    tifffile.imwrite(tmp_path / "scene.tif", (factor * np.random.default_rng(0).random((64, 64))).astype(np.float32))
    with pytest.raises(ValueError, match=r"White must be 1; .*--scale.* leaves the brightest hundredth"):
        run("restore", tmp_path / "scene.tif", "--output", tmp_path / "out", "--problem", "denoise", *options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["restore", "none.png", "--output", "out", "--problem", "denoise"], "Nothing is at none.png (IN)"),
        (["restore", "rgb.png", "--output", "out", "--problem", "inpaint"], "pass one of them"),
        (["restore", "rgb.png", "--output", "out", "--problem", "denoise", "--prior", "moon"], "bundled name"),
        (["demo", "--image", "dog"], "--image must be one of cat"),
        (["demo", "--size", "5000"], "must not exceed"),
        (["restore", "rgb.png", "--output", "out", "--problem", "denoise", "--device", "mps"], "the CPU or a CUDA GPU"),
        (
            ["restore", "rgb.png", "--output", "out", "--problem", "denoise", "--mask", "m.png"],
            "Nothing is at m.png (--mask)",
        ),
        (["restore", "rgb.png", "--output", "out", "--problem", "deblur", "--blur-sigma", "inf"], "and finite"),
        (["restore", "scan[a].png", "--output", "out", "--problem", "denoise"], "scan[a].png"),
    ],
)
def test_mistakes_end_in_a_sentence(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    write_image("rgb.png", torch.rand(1, 3, 64, 64))
    monkeypatch.setattr("sys.argv", ["pyro-vble", *arguments])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_exhausted_memory_ends_in_a_sentence(tmp_path, monkeypatch, capsys):
    def exhausted(*_, **__):
        raise MemoryError("Memory ran out fitting one image; cut it into smaller images.")

    monkeypatch.chdir(tmp_path)
    write_image("rgb.png", torch.rand(1, 3, 64, 64))
    monkeypatch.setattr("pyro_vble.restore", exhausted)
    monkeypatch.setattr("sys.argv", ["pyro-vble", "restore", "rgb.png", "--output", "out", "--problem", "denoise"])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    assert "Memory ran out" in capsys.readouterr().err


def test_help_and_version():
    for command in ([], ["demo"], ["restore"]):
        result = run(*command, "--help")
        assert result.exit_code == 0
    assert "--problem" in run("restore", "--help").output.replace("\n", "")
    assert pv.__version__ in run("--version").output
