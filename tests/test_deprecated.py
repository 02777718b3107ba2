"""Names of before 0.2: they warn and work, and files that hold them are read."""

import importlib
import os
import signal
import warnings

import numpy as np
import pytest
import torch
import yaml
from helpers import small_network
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from typer.testing import CliRunner

import pyro_vble as pv
from pyro_vble.cli.app import app
from pyro_vble.io.checksums import tensors_checksum
from pyro_vble.io.prior_files import save_prior
from pyro_vble.models import CAE, VAE, DecoderStd
from pyro_vble.training import load_recipe, parse_recipe, train

RECIPE = {
    "kind": "decoder-std",
    "data": {"crop": 64, "batch_size": 2},
    "schedule": {"steps": 4, "lr": 1e-3, "checkpoint_every": 2},
    "precision": "float32",
}


def old(name):
    return name.replace("decoder_std", "variance_decoder")


@pytest.fixture
def prior(cae):
    return CAE(cae.network, cae.alpha, decoder_std=DecoderStd(small_network().g_s, floor=1e-3))


@pytest.mark.parametrize(
    ("module", "name", "new"),
    [
        ("pyro_vble.models", "StandardDeviationDecoder", "pyro_vble.models.DecoderStd"),
        ("pyro_vble.models.standard_deviation", "StandardDeviationDecoder", "pyro_vble.models.DecoderStd"),
        ("pyro_vble.training", "Calibration", "pyro_vble.training.VarianceRatios"),
        ("pyro_vble.training.evaluation", "Calibration", "pyro_vble.training.VarianceRatios"),
    ],
)
def test_names_that_have_moved(module, name, new):
    home, attribute = new.rsplit(".", 1)
    expected = f"{module}.{name} has moved to {new}; the old name goes in 0.3"
    with pytest.warns(DeprecationWarning, match=expected) as caught:
        found = getattr(importlib.import_module(module), name)
    assert found is getattr(importlib.import_module(home), attribute)
    assert {warning.filename for warning in caught} == {__file__}
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        getattr(importlib.import_module(module), "Nothing")  # noqa: B009


class TestVarianceDecoder:
    def test_as_an_argument(self, cae):
        std = DecoderStd(small_network().g_s)
        with pytest.warns(DeprecationWarning, match=r"CAE\(decoder_std=\.\.\.\); the old name goes in 0.3") as caught:
            prior = CAE(cae.network, variance_decoder=std)
        assert prior.decoder_std is std
        assert caught[0].filename == __file__
        with pytest.raises(TypeError, match="received it as 'variance_decoder' too; leave that out"):
            CAE(cae.network, decoder_std=std, variance_decoder=std)

    def test_as_an_attribute(self, prior):
        with pytest.warns(DeprecationWarning, match=r"CAE\.variance_decoder has moved to CAE\.decoder_std"):
            assert prior.variance_decoder is prior.decoder_std
        other = torch.nn.Conv2d(12, 3, 1)
        with pytest.warns(DeprecationWarning, match=r"CAE\.variance_decoder has moved"):
            prior.variance_decoder = other
        assert prior.decoder_std is other
        assert [name for name, _ in prior.named_children()] == ["network", "decoder_std"]

    def test_as_std_decoder(self, prior, cae):
        vae = VAE(lambda x: (x, x), torch.nn.Conv2d(1, 1, 1), (1, 2, 2), 0.5)
        for each, std in ((prior, prior.decoder_std), (cae, None), (vae, None)):
            with pytest.warns(DeprecationWarning, match=r"Prior\.std_decoder has moved to Prior\.decoder_std"):
                assert each.std_decoder is std

    def test_in_a_state_dict(self, prior, cae):
        state = {old(key): value + 1 for key, value in prior.state_dict().items() if value.is_floating_point()}
        assert any(key.startswith("variance_decoder.") for key in state)
        before = {key: value.clone() for key, value in prior.decoder_std.state_dict().items()}
        missing, unexpected = prior.load_state_dict(state, strict=False)
        assert not unexpected
        assert not [key for key in missing if "decoder" in key]
        assert all(torch.equal(value, before[key] + 1) for key, value in prior.decoder_std.state_dict().items())


class TestFiles:
    def test_a_prior(self, prior, tmp_path):
        save_prior(prior, tmp_path / "new.safetensors")
        with safe_open(tmp_path / "new.safetensors", framework="pt") as file:
            header, tensors = dict(file.metadata()), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        assert sum(key.startswith("decoder_std.") for key in tensors) == len(prior.decoder_std.state_dict())
        tensors = {old(key): value for key, value in tensors.items()}
        header["checksum"] = tensors_checksum(tensors)
        save_file(tensors, tmp_path / "old.safetensors", metadata=header)
        with warnings.catch_warnings():
            warnings.simplefilter("error", DeprecationWarning)
            a, b = (pv.load_prior(tmp_path / f"{age}.safetensors") for age in ("old", "new"))
        assert (a.decoder_std.link, a.decoder_std.floor) == ("sigmoid", 1e-3)
        assert a.state_dict().keys() == b.state_dict().keys()
        assert all(torch.equal(value, b.state_dict()[key]) for key, value in a.state_dict().items())

    def test_one_name_beside_the_other(self, prior, tmp_path):
        state = prior.network.state_dict()
        for name in ("variance_decoder", "decoder_std"):
            state |= {f"{name}.{key}": value for key, value in prior.network.g_s.state_dict().items()}
        torch.save(state, tmp_path / "both.pth")
        with pytest.raises(ValueError, match="two weights have the same name"):
            pv.load_prior(tmp_path / "both.pth", alpha=0.1)

    def test_a_recipe(self, tmp_path):
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
        assert load_recipe(tmp_path / "recipe.yaml").kind == "decoder_std"
        with pytest.warns(DeprecationWarning, match="has moved to decoder_std-natural-cpu") as caught:
            recipe = load_recipe("decoder-std-natural-cpu")
        assert recipe == load_recipe("decoder_std-natural-cpu")
        assert caught[0].filename == __file__

    def test_a_training(self, cae, tmp_path):
        """One that was interrupted then goes on now, to the weights of one that was not."""
        rng = np.random.default_rng(0)
        (tmp_path / "images").mkdir()
        for i in range(4):
            Image.fromarray(rng.integers(0, 255, (64, 70, 3), dtype=np.uint8)).save(tmp_path / "images" / f"{i}.png")

        def interrupt(figures):
            if figures["step"] == 2:
                os.kill(os.getpid(), signal.SIGTERM)

        images, recipe = tmp_path / "images", parse_recipe(RECIPE)
        whole = train(recipe, images, tmp_path / "whole", init=cae, progress=False)
        assert not train(recipe, images, tmp_path / "parts", init=cae, progress=interrupt).complete
        checkpoint = tmp_path / "parts" / "training.ckpt"
        content = torch.load(checkpoint, weights_only=True)
        content["recipe"]["kind"] = "decoder-std"
        for part in ("prior", "average"):
            content[part] = {old(key): value for key, value in content[part].items()}
        torch.save(content, checkpoint)
        resumed = train(recipe, images, tmp_path / "parts", resume=True, progress=False)
        assert resumed.complete
        after = resumed.prior.state_dict()
        assert all(torch.equal(value, after[key]) for key, value in whole.prior.state_dict().items())


def test_the_command(tmp_path):
    options = "--data", str(tmp_path), "--output", str(tmp_path / "out"), "--recipe", "vae-mnist"
    result = CliRunner().invoke(app, ["train", "decoder-std", *options])
    assert "The command 'decoder-std' is deprecated" in result.output
    assert "`train decoder_std` follows recipes of its kind" in str(result.exception)
