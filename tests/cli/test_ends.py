"""However a restoration ends, nothing half-written has a final name, and the next run starts tidily."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

import pyro_vble as pv
from pyro_vble.io.images import read_image, write_image

_COMMAND = (sys.executable, "-c", "from pyro_vble.cli.app import main; main()")
_OPTIONS = ("restore", "x.png", "--output", "out", "--problem", "denoise", "--noise", "0.1", "--steps", "6")
_LIMITED = (
    "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    "resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size})); from pyro_vble.cli.app import main; main()"
)


@pytest.fixture
def folder(tmp_path):
    write_image(tmp_path / "x.png", torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    return tmp_path


def started(folder, command=_COMMAND):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # Python ignores SIGINT where its parent runs in a shell's background.
    heed = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    options = {"cwd": folder, "env": environment, "text": True, "preexec_fn": heed}
    return subprocess.Popen((*command, *_OPTIONS, "--samples", "8"), **options, **pipes)


def assert_whole(out):
    """Every file with a final name can be read."""
    for path in out.iterdir() if out.is_dir() else ():
        if path.name.startswith("."):
            continue
        if path.suffix in (".png", ".tif"):
            with Image.open(path) as image:
                image.load()
        elif path.suffix == ".pvble":
            pv.load_posterior(path)
        elif path.suffix == ".json":
            json.loads(path.read_text())


def trial(folder, number, seed):
    """Send a signal at a random moment of the work; the moments after imports are the ones that count."""
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)  # its being there tells that imports are over
    process = started(folder)
    waited = time.monotonic()
    while not out.is_dir() and process.poll() is None and time.monotonic() - waited < 120:
        time.sleep(0.02)
    time.sleep(float(np.random.default_rng(seed).uniform(0, 4)))
    process.send_signal(number)
    _, error = process.communicate(timeout=120)
    assert "Traceback" not in error
    assert_whole(out)
    written = json.loads((out / "metrics.json").read_text()) if (out / "metrics.json").exists() else {}
    if process.returncode == 0 or written.get("interrupted") is False:  # it was faster, if not yet gone
        assert written["interrupted"] is False
        return
    assert process.returncode == {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[number]
    assert written.get("interrupted", True) is True
    if number != signal.SIGKILL:
        assert not [path for path in out.iterdir() if path.name.startswith(".")]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_killed_at_random_moments(folder, number):
    for seed in range(4):
        print(f"seed {seed}")
        trial(folder, number, seed)
    process = started(folder)
    assert process.wait(timeout=120) == 0
    assert_whole(folder / "out")
    assert not [path for path in (folder / "out").iterdir() if path.name.startswith(".")]


@pytest.mark.slow
@pytest.mark.parametrize("size", [2_000, 20_000, 200_000])
def test_a_full_disk_is_one_line(folder, size):
    process = started(folder, (sys.executable, "-c", _LIMITED.format(size=size)))
    _, error = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "Traceback" not in error
    last = error.replace("\r", "\n").strip().splitlines()[-1]
    assert "Error: " in last
    assert "out/" in last
    assert_whole(folder / "out")
    assert not [path for path in (folder / "out").iterdir() if path.name.startswith(".")]


def test_rasters_and_holes_come_out_as_they_went_in(tmp_path):
    """Missing pixels stay missing, enlarged with the image, unless filling is asked for."""
    from typer.testing import CliRunner

    from pyro_vble.cli.app import app

    values = np.random.default_rng(0).random((2, 64, 64)).astype(np.float32)
    values[:, 10:14, 20:30] = np.nan
    np.save(tmp_path / "x.npy", values)
    common = ["--noise", "0.05", "--steps", "2", "--samples", "3", "--draws", "0"]
    holes = np.isnan(values)
    for options, expected in (
        (["--problem", "denoise"], holes),
        (["--problem", "super-resolve"], holes.repeat(2, 1).repeat(2, 2)),
        (["--problem", "denoise", "--fill"], np.zeros_like(holes)),
        (["--problem", "inpaint"], np.zeros_like(holes)),
    ):
        out = tmp_path / "out"
        arguments = ["restore", str(tmp_path / "x.npy"), "--output", str(out), *options, *common]
        result = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        assert "40 of 4,096 pixels (1.0%) are missing" in result.output
        for name in ("restored", "std", "error_quantile_90", "sample_1"):
            assert np.array_equal(np.isnan(np.load(out / f"{name}.npy")), expected), (name, options)


def test_a_point_estimate_has_no_error_bars(folder, monkeypatch):
    from typer.testing import CliRunner

    from pyro_vble.cli.app import app

    monkeypatch.chdir(folder)
    result = CliRunner().invoke(app, [*_OPTIONS, "--guide", "map-z"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "error bars are uncalibrated" not in result.output
    written = {path.name for path in (folder / "out").iterdir()}
    assert written == {"restored.png", "mmse_z.png", "fit.pvble", "metrics.json"}
    torch.testing.assert_close(read_image("out/restored.png").values, read_image("out/mmse_z.png").values)
    assert json.loads((folder / "out" / "metrics.json").read_text())["num_samples"] is None


@pytest.mark.parametrize("name", ["a[bold]b[red].png", "x$_{$.png", "ph\udcf6to.jpg"])
def test_names_are_text_and_nothing_else(folder, monkeypatch, name):
    from typer.testing import CliRunner

    from pyro_vble.cli.app import app
    from pyro_vble.cli.words import printable

    monkeypatch.chdir(folder)
    with Image.open("x.png") as image, open(name, "wb") as file:
        image.save(file, "JPEG" if name.endswith("jpg") else "PNG")
    output = "o[/x]"
    arguments = ["restore", name, "--output", output, *_OPTIONS[4:8], "--steps", "2", "--samples", "2", "--html"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert (folder / output / "page.html").exists()
    assert f"Restoration of {printable(name)}" in result.output
    assert f"Written to {output}/" in result.output
    assert (folder / output / "figure.png").exists()
