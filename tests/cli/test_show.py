"""pyro-vble show, and what it shows of restore, demo and tiles."""

import subprocess
import sys

import pytest
import torch
from page.folders import restoration
from typer.testing import CliRunner

from pyro_vble.cli.app import app, main
from pyro_vble.io.images import write_image


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


@pytest.mark.parametrize("options", [(), ("--guide", "map-z"), pytest.param(("--tile", 64), marks=pytest.mark.slow)])
def test_restore_writes_a_page(tmp_path, options):
    image = write_image(tmp_path / "x.png", torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    common = ("--problem", "denoise", "--noise", 0.05, "--steps", 2, "--html")
    common += () if "map-z" in options else ("--samples", 2)
    result = run("restore", image, "--output", tmp_path / "out", *common, *options)
    assert result.exit_code == 0, result.output
    page = (tmp_path / "out" / "page.html").read_text()
    assert "Restoration of x.png" in page
    assert page.count("<img ") == (2 if "map-z" in options else 4)
    assert ('id="array-std"' in page) == ("map-z" not in options)
    assert ('id="array-upper"' in page) == ("--tile" in options)


def test_a_demo_is_shown_with_its_truth(tmp_path):
    run("demo", "--output", tmp_path / "out", "--size", 64, "--steps", 2, "--samples", 2)
    result = run("show", tmp_path / "out", "--output", tmp_path / "p.html")
    assert result.exit_code == 0, result.output
    page = (tmp_path / "p.html").read_text()
    for words in ("The image as it really was.", "PSNR after", "vble-xz-free"):
        assert words in page


def test_the_page_goes_where_it_is_looked_for(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr("typer.launch", opened.append)
    folder = restoration(tmp_path / "out")
    assert run("show", folder, "--open").exit_code == 0
    assert opened == [str(folder / "page.html")]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("none",), "Nothing is at none (RESTORATION)"),
        (("out", "--before", "none.png"), "Nothing is at none.png (--before)"),
        (("out", "--output", "page.pdf"), "--output must be a page"),
        (("empty",), "give the output folder"),
    ],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, capsys, arguments, told):
    monkeypatch.chdir(tmp_path)
    restoration(tmp_path / "out")
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr("sys.argv", ["pyro-vble", "show", *arguments])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert told in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("restore", "none.png", "--problem", "denoise"),
        ("restore", "x.png", "--problem", "denoise", "--mask", "none.png"),
        ("restore", "x.png", "--problem", "deblur", "--kernel", "none.npy"),
        ("restore", "x.png", "--problem", "denoise", "--prior", "/none.safetensors"),
        ("calibrate", "none", "--problem", "denoise", "--noise", "0.1"),
        ("scene", "none.tif", "out.tif"),
        ("show", "none"),
        ("train", "cae", "--data", "none"),
    ],
)
def test_a_missing_file_is_told_before_anything_heavy_is_imported(tmp_path, arguments):
    write_image(tmp_path / "x.png", torch.rand(1, 3, 64, 64))
    words = [*arguments, *(() if arguments[0] in ("scene", "show") else ("--output", "out"))]
    code = (
        "import sys\n"
        f"sys.argv = ['pyro-vble', *{words!r}]\n"
        "from pyro_vble.cli.app import main\n"
        "try:\n    main()\n"
        "finally:\n    print([m for m in ('torch', 'numpy', 'pyro') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 2, done.stderr
    assert "none" in done.stderr
    assert done.stdout.strip() == "[]"
