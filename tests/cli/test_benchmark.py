import json

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from pyro_vble.cli.app import app

pytest.importorskip("lpips")


def run(*arguments):
    return CliRunner().invoke(app, ["benchmark", *(str(argument) for argument in arguments)])


@pytest.fixture
def folder(tmp_path):
    random = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for k in range(2):
        Image.fromarray(random.integers(0, 255, (80, 72, 3), dtype=np.uint8)).save(tmp_path / "images" / f"{k}.png")
    torch.manual_seed(0)
    features = torchvision.models.alexnet(weights=None).features.state_dict()
    save_file({f"features.{key}": value for key, value in features.items()}, tmp_path / "alex.safetensors")
    return tmp_path


def arguments(folder, *more):
    known = {"images": "images", "output": "out", "lpips": "alex.safetensors"}
    given = [part for name, path in known.items() for part in (f"--{name}", folder / path)]
    return [*given, "--methods", "first-guess", "--problems", "x2,inpaint", "--device", "cpu", *more]


def test_run_resume_and_report(folder):
    result = run("bsd", *arguments(folder))
    assert result.exit_code == 0, result.output
    assert "LPIPS is that of Alex" in result.output
    assert "4 results made, 0 were there" in result.output
    record = json.loads((folder / "out/bsd/x2/0.png/first-guess.json").read_text())
    assert record["figures"]["lpips_network"] == "alex"
    assert "0 results made, 4 were there" in run("bsd", *arguments(folder)).output
    result = run("report", folder / "out")
    assert result.exit_code == 0, result.output
    assert "LPIPS (Alex)" in (folder / "out/report/bsd.md").read_text()


def test_parts_share_a_folder(folder):
    made = [run("bsd", *arguments(folder, "--split", f"{k}/2")).output for k in (1, 2)]
    assert all("2 results made, 0 were there" in text for text in made)
    assert len(list((folder / "out").glob("bsd/*/*/first-guess.json"))) == 4


def test_satellite_measures_with_the_sensor(folder):
    result = run("satellite", *arguments(folder)[:-4], "--problems", "ir", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert "2 results made" in result.output


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--split", "3/2"], "a part is written i/n"),
        (["--methods", "magic"], "A method must be one of"),
        (["--problems", "fog"], "A problem must be one of"),
    ],
)
def test_mistakes_are_told(folder, more, told):
    result = run("bsd", *arguments(folder, *more))
    assert result.exit_code != 0
    assert told in f"{result.output}{result.exception}"
