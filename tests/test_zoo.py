"""The yardstick: priors and classical codecs under one loss."""

import json
import math
import sys

import numpy as np
import pytest
import torch
from helpers import small_network

import pyro_vble as pv
from benchmarks import zoo
from benchmarks.codecs import CODECS, Codec, best
from benchmarks.latents import worths
from pyro_vble.io.images import write_image
from pyro_vble.models import CAE
from pyro_vble.training import evaluate

ALPHA = 0.025


def pixels(side: int = 24) -> np.ndarray:
    """A smooth image with some texture."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 200, side)[:, None, None] + np.linspace(0, 40, side)[None, :, None]
    return np.rint(np.clip(ramp + rng.normal(0, 8, (side, side, 3)), 0, 255)).astype(np.uint8)


@pytest.mark.parametrize("name", CODECS)
def test_every_codec_keeps_its_promise(name):
    """Its setting is among the best: on so small an image the loss has ripples of a few bytes, a percent or two."""
    x = pixels(48)
    found = best(CODECS[name], x, ALPHA)
    assert found.loss == pytest.approx(ALPHA * 255**2 * found.mse + found.bpp)
    for codec in CODECS[name]:
        low, high = codec.settings
        for setting in np.linspace(low, high, 7).round().astype(int):
            data = codec.encode(x, int(setting))
            mse = float(np.mean((codec.decode(data) / 255.0 - x / 255.0) ** 2))
            assert found.loss <= (ALPHA * 255**2 * mse + 8 * len(data) / x[..., 0].size) * 1.02


@pytest.mark.parametrize("target", [1, 13, 50, 77, 100])
def test_the_search_finds_the_setting_of_least_loss(target):
    """A codec whose loss is |setting - target|: exact, so that it has no distortion, at one byte more a step."""
    codec = Codec(lambda x, setting: bytes(abs(setting - target)), lambda data: np.zeros((8, 1, 3), np.uint8), (1, 100))
    assert best([codec], np.zeros((8, 1, 3), np.uint8), ALPHA).bpp == 0


def test_a_nearer_image_is_worth_more_bits():
    rough, fine = (best(CODECS["JPEG"], pixels(), alpha) for alpha in (0.001, 0.1))
    assert fine.mse < rough.mse
    assert fine.bpp > rough.bpp


class TestPrior:
    @pytest.fixture
    def prior(self):
        return CAE(small_network(), ALPHA)

    @pytest.fixture
    def images(self):
        return [torch.rand(1, 3, 70, 64), torch.rand(1, 3, 64, 64)]

    def test_figures_are_those_of_an_evaluation(self, prior, images):
        found, expected = zoo.of_prior(prior, images, ALPHA), evaluate(prior, images)
        assert found["rounded"].psnr == pytest.approx(expected.psnr_quantised, rel=1e-5)
        assert found["rounded"].bpp == pytest.approx(expected.bpp_quantised, rel=1e-5)
        assert found["centres"].psnr == pytest.approx(expected.psnr, rel=1e-5)
        # Other noise, and many values: a thousandth apart.
        assert found["encoder's noise"].elbo == pytest.approx(-expected.loss, rel=1e-2)
        assert found["encoder's noise"].bpp == pytest.approx(expected.rate, rel=1e-2)

    def test_the_loss_is_the_elbo_but_for_a_constant(self, prior, images):
        """-ELBO = alpha·255²·MSE + bits per pixel + C/2 log2(2 pi gamma²), in bits per pixel."""
        row = zoo.with_noise(prior, images[0], ALPHA)
        assert -row.elbo == pytest.approx(row.loss + 1.5 * math.log2(2 * math.pi * prior.gamma**2), rel=1e-4)

    def test_another_alpha_weighs_distortion_otherwise(self, prior, images):
        one, two = (zoo.rounded(prior, images[0], alpha) for alpha in (ALPHA, 2 * ALPHA))
        assert two.bpp == one.bpp
        assert two.loss - two.bpp == pytest.approx(2 * (one.loss - one.bpp))


def test_the_table(tmp_path, monkeypatch, capsys):
    for i in range(3):
        write_image(tmp_path / "images" / f"{i}.png", torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(i)))
    arguments = "zoo", tmp_path / "images", "--priors", "cae-bsd", "--images", 2, "--output", tmp_path / "table.json"
    monkeypatch.setattr(sys, "argv", [str(argument) for argument in arguments])
    zoo.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    names = [*CODECS, "cae-bsd, rounded", "cae-bsd, encoder's noise", "cae-bsd, centres"]
    assert [line.split("|")[1].strip() for line in lines[1:]] == names
    content = json.loads((tmp_path / "table.json").read_text())
    assert (content["images"], content["alpha"]) == (2, pv.load_prior("cae-bsd").alpha)
    assert list(content["table"]) == names


def test_a_prior_that_is_no_codec(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["zoo", str(tmp_path), "--priors", "vae-mnist"])
    with pytest.raises(SystemExit):
        zoo.main()
    assert "vae-mnist is a VAE" in capsys.readouterr().err


def test_a_latent_that_no_decoder_reads_is_worth_less_than_nothing():
    prior = CAE(small_network().double(), ALPHA)
    with torch.no_grad():
        prior.network.g_s[0].weight[3] = 0.0
    x = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    found = worths(prior, x, ALPHA, list(range(12)))
    (silent,) = (worth for worth in found if worth.channel == 3)
    assert silent.distortion == 0
    assert sorted(worth.channel for worth in found) == list(range(12))
    assert [worth.bits for worth in found] == sorted(worth.bits for worth in found)
    # All channels together take the bits that the network's own entropy model gives z.
    network = prior.network.eval()
    with torch.no_grad():
        z, h = network.g_a(x), network.h_a(network.g_a(x)).round()
        scales, means = network.h_s(h).chunk(2, 1)
        likelihood = network.gaussian_conditional(z, scales, means=means)[1]
    expected = float(-likelihood.log2().sum()) / (2 * 64 * 64)
    assert sum(worth.bpp for worth in found) == pytest.approx(expected, rel=1e-6)
