import json

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

import pyro_vble as pv
from pyro_vble.cli.app import app
from pyro_vble.io.cards import load_card
from pyro_vble.io.priors import available_priors

RECIPE = {
    "kind": "cae",
    "network": {"architecture": "ScaleHyperprior", "N": 8, "M": 12},
    "alpha": 0.025,
    "data": {"crop": 64, "batch_size": 2},
    "schedule": {"steps": 4, "lr": 1e-3},
}


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def folders(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(2):
            Image.fromarray(rng.integers(0, 255, (64, 70, 3), dtype=np.uint8)).save(tmp_path / name / f"{i}.png")
    (tmp_path / "a" / "broken.png").write_bytes(b"no image")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    std = {"kind": "decoder_std", "data": RECIPE["data"], "schedule": {"steps": 3, "lr": 1e-3}}
    (tmp_path / "std.yaml").write_text(yaml.safe_dump(std))
    return tmp_path


def test_from_images_to_a_prior_with_error_bars(folders):
    out = folders / "cae"
    result = run(
        "train", "cae", "--recipe", folders / "recipe.yaml", "--data", folders / "a", folders / "b", "--output", out,
        "--tensorboard",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "broken.png" in result.output
    said = " ".join(result.output.split())
    assert f"train decoder_std --init {out} --data {folders / 'a'} {folders / 'b'} --output {out}-std" in said
    assert "before" not in said  # it began from nothing
    assert json.loads((out / "card.json").read_text())["images"] == 3  # of four, one is held out
    assert any((out / "tensorboard").iterdir())
    result = run(
        "train", "decoder_std", "--recipe", folders / "std.yaml", "--data", folders / "a", "--output",
        folders / "std", "--init", out, "--validation", folders / "b",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "Calibration" in result.output
    assert pv.load_prior(folders / "std" / "prior.safetensors").decoder_std is not None


def test_a_checkpoint_without_its_bitrate_parameter(folders):
    """As CompressAI's own training writes it: for a mean the recipe's alpha will do, a variance needs to be told."""
    from compressai.models import ScaleHyperprior

    torch.save({"state_dict": ScaleHyperprior(N=8, M=12).state_dict()}, folders / "net.pth")
    common = "--init", folders / "net.pth", "--data", folders / "a", "--steps", 1
    result = run("train", "cae", "--recipe", folders / "recipe.yaml", "--output", folders / "cae", *common)
    assert result.exit_code == 0, result.output
    common = "--recipe", folders / "std.yaml", *common
    assert "pass alpha=" in str(run("train", "decoder_std", "--output", folders / "std", *common).exception)
    result = run("train", "decoder_std", "--output", folders / "std", *common, "--alpha", 0.01)
    assert result.exit_code == 0, result.output
    assert pv.load_prior(folders / "std" / "prior.safetensors").alpha == 0.01


def test_resuming_a_complete_training_changes_nothing(folders):
    common = ("train", "cae", "--recipe", folders / "recipe.yaml", "--data", folders / "a", "--output", folders / "out")
    assert run(*common).exit_code == 0
    before = pv.load_prior(folders / "out" / "prior.safetensors").state_dict()
    assert run(*common, "--resume").exit_code == 0
    after = pv.load_prior(folders / "out" / "prior.safetensors").state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "vae", "--recipe", "recipe.yaml", "--data", "a"), "is for `train cae`"),
        (("train", "cae", "--recipe", "recipe.yaml", "--data", "nowhere"), "Nothing is at nowhere (--data)"),
        (("train", "cae", "--recipe", "recipe.yaml", "--data", "a", "--init", "nothing"), "A prior is a bundled name"),
        (("train", "cae", "--recipe", "nothing.yaml", "--data", "a"), "A recipe is one of"),
        (
            ("train", "cae", "--recipe", "recipe.yaml", "--data", "a", "--minutes", "1", "--steps", "1"),
            "by steps or by minutes",
        ),
    ],
)
def test_mistakes(folders, monkeypatch, arguments, message):
    monkeypatch.chdir(folders)
    result = run(*arguments, "--output", folders / "out")
    assert message in str(result.exception)
    assert not (folders / "out" / "training.ckpt").exists()


def test_models_are_listed_shown_and_measured(folders):
    result = run("models")
    assert result.exit_code == 0, result.output
    for card in map(load_card, available_priors()):  # eighty columns break no name and no number
        (line,) = (line for line in result.output.splitlines() if f" {card['name']} " in line)
        assert f"{card['measured']['psnr']:.1f} dB" in line
    result = run("models", "show", "cae-bsd")
    assert json.loads(result.output)["name"] == "cae-bsd"
    result = run("models", "evaluate", "cae-bsd", folders / "b")
    assert result.exit_code == 0, result.output
    assert "as a codec" in result.output


def test_a_prior_grows(folders):
    common = "--recipe", folders / "recipe.yaml", "--data", folders / "a", "--steps", 1
    assert run("train", "cae", *common, "--output", folders / "small").exit_code == 0
    grow = "--init", folders / "small", "--grow"
    result = run("train", "cae", *common, *grow, "N=10,M=16", "--output", folders / "large")
    assert result.exit_code == 0, result.output
    network = pv.load_prior(folders / "large" / "prior.safetensors").network
    assert (network.N, network.M) == (10, 16)


@pytest.mark.parametrize("sizes", ["10,16", "N=10;M=16", "N=ten", "K=10", "N=10,N=12", ""])
def test_sizes_that_are_none(folders, sizes):
    common = "--recipe", folders / "recipe.yaml", "--data", folders / "a", "--output", folders / "out"
    result = run("train", "cae", *common, "--init", "cae-bsd", "--grow", sizes)
    assert result.exit_code == 2
    assert "sizes are written N=96,M=192" in " ".join(result.output.replace("\u2502", " ").split())
    assert not (folders / "out").exists()
