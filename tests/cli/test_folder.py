"""A folder of images in one call: resumed, and not ended by what is broken."""

import json

import pytest
import torch
from typer.testing import CliRunner

from pyro_vble.cli.app import app, main
from pyro_vble.cli.report import write_metrics
from pyro_vble.cli.restoring import Outcome, stamp, write_page_of
from pyro_vble.io.images import read_image, write_image

OPTIONS = ("--problem", "denoise", "--noise", "0.05", "--steps", "2", "--samples", "2", "--draws", "0")


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    generator = torch.Generator().manual_seed(0)
    for name in ("a.png", "b.png"):
        write_image(folder / name, torch.rand(1, 3, 64, 64, generator=generator))
    return folder


def run(folder, *arguments):
    words = ["restore", folder, "--output", folder.parent / "out", *OPTIONS, *arguments]
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, " ".join(result.output.split())


@pytest.fixture
def calls(monkeypatch):
    """The images that are restored, by something that takes no time."""
    made = []

    def copied(image, output, asked, load_prior, learnt):
        made.append(image.name)
        if made[-1] == "interrupt.png":
            raise KeyboardInterrupt
        values = read_image(image).values
        write_image(output / "restored.png", values)
        told = {"input": image, "white": 255.0, "interrupted": False, "asked": asked.words | stamp(image)}
        write_metrics(output / "metrics.json", told)
        if asked.page:
            write_page_of(output, image)
        return Outcome()

    monkeypatch.setattr("pyro_vble.cli.folder.restored_image", copied)
    return made


def test_what_is_broken_does_not_end_it(photographs):
    (photographs / "broken.png").write_bytes((photographs / "a.png").read_bytes()[:200])
    (photographs / "notes.txt").write_text("no image")
    code, said = run(photographs)
    assert code == 3
    assert "3 images: 2 restored, 1 failed." in said
    assert said.count("broken.png") >= 2
    assert said.count("error bars are uncalibrated") == 1
    for name in ("a", "b"):
        assert read_image(photographs.parent / "out" / name / "restored.png").values.shape == (1, 3, 64, 64)
    (photographs / "broken.png").unlink()
    code, said = run(photographs)
    assert code == 0
    assert "2 images: 0 restored, 2 already there." in said


def test_only_what_is_not_there_is_restored_again(photographs, calls):
    assert "2 images: 2 restored." in run(photographs)[1]
    assert "2 images: 0 restored, 2 already there." in run(photographs)[1]
    assert calls == ["a.png", "b.png"]
    write_image(photographs / "b.png", torch.zeros(1, 3, 64, 64) + 0.4)
    assert "1 restored, 1 already there" in run(photographs)[1]
    assert calls[2:] == ["b.png"]
    assert "2 restored" in run(photographs, "--seed", 1)[1]
    metrics = photographs.parent / "out" / "a" / "metrics.json"
    metrics.write_text(json.dumps(json.loads(metrics.read_text()) | {"interrupted": True}))
    assert "1 restored, 1 already there" in run(photographs, "--seed", 1)[1]
    assert calls[5:] == ["a.png"]


def test_a_file_that_an_option_names_is_told_by_what_is_in_it(photographs, calls):
    mask = photographs.parent / "mask.png"
    write_image(mask, torch.ones(1, 1, 64, 64))
    assert "2 restored" in run(photographs, "--mask", mask)[1]
    assert "2 already there" in run(photographs, "--mask", mask)[1]
    write_image(mask, torch.ones(1, 1, 64, 64).triu())
    assert "2 restored" in run(photographs, "--mask", mask)[1]


def test_so_is_one_that_a_sensor_names(photographs, calls):
    psf, sensor = photographs.parent / "psf.txt", photographs.parent / "own.yaml"
    sensor.write_text(
        "name: own\nradiometry: {bits: 8}\nbands:\n  grey:\n    pixel_size: 1.0\n"
        "    optics: {psf_file: psf.txt}\n    noise: {sigma0: 1.0, gain: 0.0}\n"
    )
    given = ("--problem", "sensor", "--sensor", sensor)
    settings = [option for option in OPTIONS if option not in ("--problem", "denoise", "--noise", "0.05")]

    def again():
        words = ["restore", photographs, "--output", photographs.parent / "out", *settings, *given]
        return " ".join(CliRunner().invoke(app, [str(word) for word in words]).output.split())

    psf.write_text("0 1 0\n1 4 1\n0 1 0\n")
    assert "2 restored" in again()
    assert "2 already there" in again()
    psf.write_text("0 1 0\n1 8 1\n0 1 0\n")
    assert "2 restored" in again()


def test_pages_are_added_to_what_is_there(photographs, calls):
    run(photographs)
    code, said = run(photographs, "--html")
    assert code == 0
    assert "2 already there" in said
    assert len(calls) == 2
    for name in ("a", "b"):
        assert "<title>Restoration of" in (photographs.parent / "out" / name / "page.html").read_text()


def test_ctrl_c_ends_the_folder_and_says_how_far_it_came(photographs, calls):
    (photographs / "b.png").rename(photographs / "interrupt.png")
    code, said = run(photographs)
    assert code == 130
    assert "2 images: 1 restored, 1 left." in said
    assert "goes on where it was ended" in said


def test_a_full_disk_ends_it(photographs, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device", "out/a.png")

    monkeypatch.setattr("pyro_vble.restore", full)
    words = ["pyro-vble", "restore", photographs, "--output", photographs.parent / "out", *OPTIONS]
    monkeypatch.setattr("sys.argv", list(map(str, words)))
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2


@pytest.mark.usefixtures("calls")
def test_names_that_differ_in_their_endings_alone(photographs):
    from PIL import Image

    Image.open(photographs / "a.png").save(photographs / "A.jpg")
    assert run(photographs)[0] == 0
    assert {path.name for path in (photographs.parent / "out").iterdir()} == {"a.png", "A.jpg", "b"}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--prior", "moon"), "bundled name"),
        (("--problem", "pansharpen", "--pan", "{folder}/a.png"), "second image for every first"),
    ],
)
def test_mistakes_of_all_images_are_told_once(photographs, options, told, monkeypatch, capsys):
    words = ["pyro-vble", "restore", photographs, "--output", photographs.parent / "out", *OPTIONS, *options]
    monkeypatch.setattr("sys.argv", [str(word).format(folder=photographs) for word in words])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert told in error
    assert len(error.strip().splitlines()) == 1


def test_a_folder_without_images(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["pyro-vble", "restore", str(tmp_path), "--output", "out", *OPTIONS])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    assert "holds none" in capsys.readouterr().err
