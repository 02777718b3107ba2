"""Where widths start: one over the information of prior and measurement."""

import math

import deepinv
import pyro.distributions as dist
import pytest
import torch
from helpers import linear_vae, small_network
from torch import nn

import pyro_vble as pv
from pyro_vble.guides import VBLE, VBLExz
from pyro_vble.inference import FitSettings, svi_of
from pyro_vble.models import VAE, RestorationModel
from pyro_vble.physics import noise_distribution
from pyro_vble.physics.problems import deblurring, denoising, gaussian_kernel, inpainting

SIDE, STD, NOISE = 64, 0.2, 0.1


@pytest.fixture
def pointwise():
    decoder = nn.Conv2d(3, 3, 1, bias=False)
    encoder = lambda x: (torch.zeros_like(x), torch.ones_like(x))  # noqa: E731
    # D(z) = W z at every pixel, z as large as the image: information is the same at all of them.
    return VAE(encoder, decoder, (3, SIDE, SIDE), STD)


def denoising_of_each(sigma):
    return deepinv.physics.Denoising(deepinv.physics.GaussianNoise(sigma))


def started(prior, physics, y, guide=VBLE, **options):
    return guide(RestorationModel(prior, physics, latent_image=guide.latent_image), y, **options)


@pytest.mark.parametrize("guide", [VBLE, VBLExz])
def test_a_linear_decoder_starts_at_the_closed_form(pointwise, guide):
    """a_k² = 1 / (1 + ‖(AW)_k‖²/t²), b_i² = 1 / (1 + s²‖A_i‖²/t²), to the Monte Carlo error of 64² squares."""
    found = started(pointwise, denoising(NOISE), torch.rand(1, 3, SIDE, SIDE), guide)
    weight = pointwise.decoder.weight.detach()[:, :, 0, 0]
    expected = weight.square().sum(0) / NOISE**2
    information = found.width["z"].pow(-2) - 1
    error = 5 * math.sqrt(2) / SIDE  # windows overlap, and lose nothing but at the border
    assert torch.allclose(information.mean((0, 2, 3)), expected, rtol=2 * error)
    if guide is VBLExz:
        assert torch.allclose(
            (found.b.pow(-2) - 1).mean((0, 2, 3)), torch.full((3,), (STD / NOISE) ** 2), rtol=2 * error
        )


def test_families_have_the_same_standard_deviation(cae, denoising):
    y = torch.rand(1, 3, 64, 64)
    uniform, gaussian = (started(cae, denoising, y, family=family) for family in ("uniform", "gaussian"))
    assert torch.allclose(uniform.width["z"], math.sqrt(12) * gaussian.width["z"])


def test_where_nothing_is_observed_the_prior_is_left(bundled):
    mask = torch.ones(3, 256, 256)
    mask[:, :, 128:] = 0
    y = torch.rand(1, 3, 256, 256) * mask
    model = RestorationModel(bundled, inpainting(0.01, mask))
    latents = model.initial_latents(y)
    std, prior = model.start(y)["z"].std, bundled.latent_variance(latents, (3, 256, 256))["z"].sqrt()
    assert torch.allclose(std[..., 14:], prior[..., 14:])
    assert (std[..., :4] < 0.9 * prior[..., :4]).float().mean() > 0.9


def test_information_lowers_widths(bundled):
    x = torch.rand(1, 3, 64, 64)
    widths = [started(bundled, denoising(noise), x).width["z"].mean() for noise in (0.01, 0.03, 0.1)]
    assert widths[0] < widths[1] < widths[2]


@pytest.mark.parametrize("architecture", ["JointAutoregressiveHierarchicalPriors", "ScaleHyperprior"])
def test_other_networks(architecture, denoising):
    prior = pv.models.CAE(small_network(architecture), alpha=0.025)
    width = started(prior, denoising, torch.rand(2, 3, 70, 64), VBLExz).width["z"]
    assert width.isfinite().all()
    assert (width > 0).all()


@pytest.mark.parametrize("shape", [(2, 1, 64, 64), (2, 5, 64, 64)])
def test_other_bands_and_a_scale_for_each_image(bundled, shape):
    prior = bundled.with_rate_scale((0.5, 1.0))
    guide = started(prior, denoising(0.05), torch.rand(shape))
    assert guide.width["z"].shape == guide.loc["z"].shape


def test_many_images_go_through_the_decoder_in_parts(bundled, monkeypatch):
    y, physics = torch.rand(3, 3, 64, 64), deblurring(0.05, gaussian_kernel(1.0))
    whole = started(bundled, physics, y).width["z"]
    monkeypatch.setattr("pyro_vble.models._information._PIXELS_AT_ONCE", 64 * 64)
    assert torch.allclose(started(bundled, physics, y).width["z"], whole, rtol=1e-4)


def test_random_numbers_are_left_alone(cae, denoising):
    y = torch.rand(1, 3, 64, 64)
    before = torch.get_rng_state()
    started(cae, denoising, y)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_likelihood_without_gradient_leaves_the_priors_own_width(cae):
    class Flat(deepinv.physics.NoiseModel):
        pass

    @noise_distribution.register
    def _(noise_model: Flat, signal):
        return dist.Uniform(signal - 1, signal + 1, validate_args=False)

    physics = deepinv.physics.Denoising(Flat())
    guide = started(cae, physics, torch.rand(1, 3, 64, 64))
    assert torch.allclose(guide.width["z"], torch.tensor(12**-0.5))
    assert guide.parameter_groups(0.2)[0]["params"] == []


def test_every_parameter_moves_at_its_own_pace(cae, denoising):
    """Adam's first step is the rate itself, whatever the gradient: informed widths a fifth of it, centres more."""
    y = torch.rand(1, 3, 64, 64)
    model = RestorationModel(cae, denoising)
    guide = VBLE(model, y)
    before = {name: value.clone() for name, value in guide.named_parameters()}
    svi = svi_of(model, guide, y, FitSettings(schedule="linear"))
    svi._after = lambda: None  # h's first step changes what z's width is made of
    svi.optim.rate = 0.2
    svi.step(y)
    part = {
        "z": {"loc_unconstrained": 1.5, "free_std_unconstrained": 0.2},
        "h": {"loc_unconstrained": 4.0, "free_std_unconstrained": 1.0},
    }
    for name, value in guide.named_parameters():
        _, site, kind = name.split(".")
        moved = float((value.detach() - before[name]).abs().max())
        assert moved == pytest.approx(0.2 * part[site][kind], rel=1e-3), name


def test_at_a_constant_rate_all_parameters_move_alike(cae, denoising):
    guide = VBLE(RestorationModel(cae, denoising), torch.rand(1, 3, 64, 64))
    assert {group["part"] for group in guide.parameter_groups(1.0)} == {1.0}


def test_latents_that_are_no_maps_start_at_the_closed_form_whatever_the_batch():
    """A vector has no neighbours: neither its own values nor other images of the batch are any."""
    torch.manual_seed(0)
    weight = torch.randn(64, 6) * torch.tensor([3.0, 1.0, 0.3, 0.1, 2.0, 0.5])
    prior = linear_vae(weight.double(), torch.zeros(64, dtype=torch.float64), STD, (1, 8, 8))
    y = torch.rand(5, 1, 8, 8, dtype=torch.float64)
    noise = torch.tensor([NOISE, 1.0, 1.0, 0.01, 1.0], dtype=torch.float64)
    found = started(prior, denoising_of_each(noise), y).width["z"]
    exact = (1 + weight.double().square().sum(0) / noise[:, None].square()).rsqrt()
    # 32 squares of a Gaussian give the information to 25 %, its root to half of that.
    assert float((found / exact).log().abs().max()) < 4 * 0.125
    for image in range(5):
        alone = started(prior, denoising_of_each(noise[image : image + 1]), y[image : image + 1]).width["z"]
        torch.testing.assert_close(found[image : image + 1], alone)
