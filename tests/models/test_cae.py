import math

import pyro
import pytest
import torch
from helpers import ARCHITECTURES, small_network
from pyro import poutine

import pyro_vble as pv
from pyro_vble.models import CAE, DecoderStd, networks

ALPHA = 0.025


def trace_of(prior, sites, image_shape):
    def program():
        with pyro.plate("image", len(sites["z"]), dim=-1):
            return prior(image_shape)

    return poutine.trace(poutine.condition(program, sites)).get_trace()


@pytest.mark.parametrize("distortion", ["mean", "sum"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_elbo_under_its_own_encoder_is_the_rate_distortion_loss(architecture, distortion):
    """-ELBO per pixel = ln 2 · (alpha·255²·MSE + bits per pixel) + C/2 · log(2 pi gamma²)."""
    network = small_network(architecture).double()
    prior = CAE(network, ALPHA, distortion=distortion)
    x = torch.rand(2, 3, 64, 128, dtype=torch.float64)
    centres = prior.encode(x)
    z = centres["z"] + torch.rand_like(centres["z"]) - 0.5
    h = centres["h"] + torch.rand_like(centres["h"]) - 0.5
    with torch.no_grad():
        trace = trace_of(prior, {"h": h, "z": z, "x": x}, (3, 64, 128))
        elbo = trace.log_prob_sum()  # the encoder's q is uniform of width 1: its log-density is 0

        network.train()  # CompressAI's forward pass, with the same noise in place of its own
        network.entropy_bottleneck.quantize = lambda *_: h.transpose(0, 1).reshape(h.shape[1], 1, -1)
        network.gaussian_conditional.quantize = lambda *_, **__: z
        out = network(x)
    pixels = 2 * 64 * 128
    bits = sum(-likelihood.log2().sum() for likelihood in out["likelihoods"].values()) / pixels
    squared_error = (out["x_hat"] - x).square()
    distortion_value = squared_error.mean() if distortion == "mean" else squared_error.sum(1).mean()
    loss = ALPHA * 255**2 * distortion_value + bits
    constant = 3 / 2 * math.log(2 * math.pi * prior.gamma**2)
    assert float(-elbo / pixels) == pytest.approx(float(math.log(2) * loss + constant), rel=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_ancestral_samples(architecture):
    prior = CAE(small_network(architecture), ALPHA)
    assert prior.sample(2, (64, 64)).shape == (2, 3, 64, 64)
    assert prior.sample(1, (1, 70, 50)).shape == (1, 1, 70, 50)
    assert prior.sample(1, (4, 64, 64), latent_image=False).shape == (1, 4, 64, 64)


def test_gamma_follows_the_convention_of_the_distortion(cae):
    assert cae.gamma == pytest.approx(0.0365, abs=1e-4)  # DESIGN section 3
    assert CAE(cae.network, ALPHA, distortion="sum").gamma == pytest.approx(0.0211, abs=1e-4)
    assert CAE(cae.network, 0.0483, distortion="sum").gamma == pytest.approx(0.01516, abs=1e-5)  # FACTS


def test_rate_scale_scales_the_encoder_the_decoder_and_the_variance(cae):
    half = cae.with_rate_scale(0.5)
    x = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(half.encode(x)["z"], cae.encode(0.5 * x)["z"])
    z = torch.randn(1, 12, 4, 4)
    mean, std = half.decode(z)
    torch.testing.assert_close(mean, 2 * cae.decode(z)[0])
    # The effective bitrate parameter is s² alpha: gamma is that of a network trained with it.
    assert float(std.max()) == pytest.approx(CAE(cae.network, 0.25 * ALPHA).gamma)


@pytest.mark.parametrize("size", [(64, 64), (123, 77), (1, 1), (65, 200)])
@pytest.mark.parametrize("bands", [1, 3, 4])
def test_any_size_and_number_of_bands(cae, size, bands):
    shape = (bands, *size)
    x = torch.rand(2, *shape)
    latents = cae.encode(x)
    mean, std = cae.decode(latents["z"], shape)
    assert mean.shape == std.shape == (2, *shape)
    trace = trace_of(cae, latents, shape)
    assert trace.nodes["x"]["value"].shape == (2, *shape)
    assert torch.isfinite(trace.log_prob_sum())


def test_bands_go_through_the_network_as_replicas(cae):
    grey = torch.rand(1, 1, 64, 64)
    latents = cae.encode(grey)
    torch.testing.assert_close(latents["z"], cae.encode(grey.expand(-1, 3, -1, -1))["z"])
    torch.testing.assert_close(
        cae.decode_mean(latents["z"], (1, 64, 64)), cae.decode_mean(latents["z"]).mean(1, keepdim=True)
    )
    four = torch.rand(2, 4, 64, 64)
    z = cae.encode(four)["z"]
    for band in range(4):
        single = cae.encode(four[:, band : band + 1])["z"]
        torch.testing.assert_close(z[:, band], single)
        torch.testing.assert_close(
            cae.decode_mean(z, (4, 64, 64))[:, band : band + 1], cae.decode_mean(single, (1, 64, 64))
        )


def test_the_padding_does_not_reach_the_crop_of_an_exact_size(cae):
    z = torch.randn(1, 12, 4, 8)
    torch.testing.assert_close(cae.decode_mean(z, (3, 60, 100)), cae.decode_mean(z)[..., :60, :100])


def test_decoder_std(cae):
    prior = CAE(cae.network, decoder_std=DecoderStd(small_network().g_s))
    x = prior.sample(2, (64, 64))
    mean, std = prior.decode(prior.encode(x)["z"])
    assert std.shape == mean.shape
    assert (std > 2e-4).all()
    assert (std.amax((1, 2, 3)) > std.amin((1, 2, 3))).all()


def test_plates_flatten_and_come_back(cae):
    z = torch.randn(5, 2, 12, 4, 4)
    flat = cae.decode_mean(z.reshape(10, 12, 4, 4))
    torch.testing.assert_close(cae.decode_mean(z), flat.reshape(5, 2, 3, 64, 64))


@torch.no_grad()
def test_the_bundled_prior_beats_its_pixels(bundled, shared_data):
    """31.7 dB decoding the encoder's centres on test47, says its card; a few of those images suffice to see it load."""
    from pyro_vble.io.images import read_image

    errors = []
    for path in sorted((shared_data / "bsd" / "test47").glob("*.jpg"))[:8]:
        x = read_image(path).values
        errors.append(float((bundled.decode_mean(bundled.encode(x)["z"]) - x).square().mean()))
    decibels = [-10 * math.log10(e) for e in errors]
    assert 28 < sum(decibels) / len(decibels) < 36


class TestErrors:
    def test_a_network_without_hyper_latent(self):
        factorized = networks.compressai().models.FactorizedPrior(8, 12)
        with pytest.raises(TypeError, match=r"hyperprior networks.*received FactorizedPrior"):
            CAE(factorized, ALPHA)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({}, "neither alpha nor decoder_std"),
            ({"alpha": -1.0}, "alpha must be a positive, finite number"),
            ({"alpha": ALPHA, "distortion": "median"}, "distortion must be"),
            ({"alpha": ALPHA, "rate_scale": 1.5}, r"rate_scale must be in \(0, 1\]"),
        ],
    )
    def test_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            CAE(small_network(), **arguments)

    def test_rate_scale_is_for_caes(self):
        from helpers import linear_vae

        vae = linear_vae(torch.ones(4, 2), torch.zeros(4), 1.0, (1, 2, 2))
        with pytest.raises(ValueError, match="rate_scale is for compressive autoencoders"):
            vae.with_rate_scale(0.5)


def test_loading_does_not_touch_the_global_state():
    state = torch.random.get_rng_state()
    pv.load_prior("cae-bsd")
    assert bool((torch.random.get_rng_state() == state).all())


def test_without_a_standard_deviation_it_says_so():
    network = small_network()
    prior = CAE(network, decoder_std=DecoderStd(network.g_s))
    prior.decoder_std = None
    with pytest.raises(ValueError, match="received neither alpha nor decoder_std"):
        prior.sample(1, (64, 64))
