"""Correlations between channels start, and stay, at those of a decoder that is linear."""

from functools import partial

import deepinv
import pyro.distributions as dist
import pytest
import torch
from helpers import small_network
from torch import nn

import pyro_vble as pv
from pyro_vble.guides import VBLE, ChannelFactor, GaussianFactor, VBLExz
from pyro_vble.models import CAE, VAE, RestorationModel, convolutional_vae
from pyro_vble.physics import noise_distribution
from pyro_vble.physics.problems import deblurring, denoising, gaussian_kernel, inpainting

SIDE, STD, NOISE = 32, 0.2, 0.1
CORRELATED = partial(VBLE, family="correlated")
QUIET = {"seed": 0, "progress": False}


@pytest.fixture
def pointwise():
    """D(z) = W z at every pixel, so that channels are correlated and positions are not."""
    decoder = nn.Conv2d(3, 3, 1, bias=False)
    with torch.no_grad():
        decoder.weight.copy_(torch.tensor([[1.0, 0.9, 0.0], [0.0, 0.5, 0.5], [0.3, 0.0, 1.0]])[..., None, None] / 2)
    encoder = lambda x: (torch.zeros_like(x), torch.ones_like(x))  # noqa: E731
    return VAE(encoder, decoder, (3, SIDE, SIDE), STD)


def built(prior, physics, y, guide=CORRELATED):
    latent_image = guide.func.latent_image
    return guide(RestorationModel(prior, physics, latent_image=latent_image), y)


def exact(prior):
    weight = prior.decoder.weight.detach()[:, :, 0, 0]
    return weight, torch.linalg.inv(torch.eye(3) + weight.T @ weight / NOISE**2)


def test_of_a_linear_decoder_it_starts_at_the_exact_covariance(pointwise):
    """To the Monte Carlo error of 32² scores, of which neighbours share their sizes."""
    _, covariance = exact(pointwise)
    factor = built(pointwise, denoising(NOISE), torch.rand(1, 3, SIDE, SIDE)).factors["z"]
    drawn = (factor().sample((50,))[:, 0] - factor.loc[0]).movedim(1, 0).flatten(1)
    torch.testing.assert_close(torch.cov(drawn), covariance, rtol=0.1, atol=0.02 * float(covariance.max()))


def test_its_elbo_is_then_near_the_evidence(pointwise):
    """What is left is the noise of the information, from windows of 49 squares, and that of the fit."""
    weight, _ = exact(pointwise)
    y = pointwise.sample(1, latent_image=False) + NOISE * torch.randn(1, 3, SIDE, SIDE)
    p_y = dist.MultivariateNormal(torch.zeros(3), weight @ weight.T + NOISE**2 * torch.eye(3))
    evidence = float(p_y.log_prob(y.movedim(1, -1)).sum())
    gaps = []
    for family in ("gaussian", "correlated"):
        guide = partial(VBLE, family=family)
        fit = pv.restore(y, denoising(NOISE), pointwise, guide, num_steps=300, tolerance=None, **QUIET)
        weights = torch.cat([draws.log_weights for draws in fit.draws(50)])
        gaps.append(evidence - float(weights.mean()))
    assert abs(gaps[1]) < 0.15 * gaps[0]


def test_where_nothing_is_observed_the_prior_is_left(bundled):
    mask = torch.ones(3, 256, 256)
    mask[:, :, 128:] = 0
    y = torch.rand(1, 3, 256, 256) * mask
    model = RestorationModel(bundled, inpainting(0.01, mask))
    start = model.start(y, correlated=True)["z"]
    prior = bundled.latent_variance(model.initial_latents(y), (3, 256, 256))["z"].sqrt()
    assert torch.allclose(start.std[..., 14:], prior[..., 14:])
    assert float(start.channels.gain[..., 14:].max()) < 1e-6
    assert float(start.channels.gain[..., :6].mean()) > 0.1


def test_an_image_starts_alike_alone_and_in_a_batch(bundled):
    physics, y = deblurring(0.05, gaussian_kernel(1.0)), torch.rand(3, 3, 64, 64)
    whole = built(bundled, physics, y)
    alone = built(bundled, physics, y[1:2])
    draws = [guide.factors["z"].at(torch.ones_like(guide.loc["z"])) for guide in (whole, alone)]
    torch.testing.assert_close(draws[0][1:2], draws[1], rtol=1e-3, atol=1e-3)


def test_rows_of_another_guide_bring_their_correlations(bundled):
    physics, y = denoising(0.05), torch.rand(2, 3, 64, 64)
    guide, other = built(bundled, physics, y), built(bundled, physics, torch.rand(1, 3, 64, 64))
    noise = torch.randn_like(guide.loc["z"])
    before = guide.factors["z"].at(noise)
    guide.write_rows(slice(1, 2), other.rows(slice(0, 1)))
    after = guide.factors["z"].at(noise)
    torch.testing.assert_close(after[0], before[0])
    torch.testing.assert_close(after[1:], other.factors["z"].at(noise[1:]))


@pytest.mark.parametrize("architecture", ["JointAutoregressiveHierarchicalPriors", "ScaleHyperprior"])
@pytest.mark.parametrize("shape", [(2, 3, 70, 64), (2, 1, 64, 64), (2, 5, 64, 64)])
def test_other_networks_and_bands(architecture, shape):
    prior = CAE(small_network(architecture), alpha=0.025).with_rate_scale((0.5, 1.0))
    y = torch.rand(shape)
    posterior = pv.restore(
        y, denoising(0.05), prior, partial(VBLExz, family="correlated"), num_steps=2, precision="float32", **QUIET
    )
    assert isinstance(posterior.guide.factors["z"], ChannelFactor)
    assert posterior.std(4).shape == y.shape
    assert next(posterior.draws(3)).log_weights.isfinite().all()


def test_in_double_precision(cae):
    posterior = pv.restore(
        torch.rand(1, 3, 64, 64), denoising(0.05), cae, CORRELATED, num_steps=2, precision="float64", **QUIET
    )
    assert posterior.guide.factors["z"].gain.dtype == torch.float64


def test_particles(cae):
    posterior = pv.restore(
        torch.rand(2, 3, 64, 64), denoising(0.05), cae, CORRELATED, num_steps=2, num_particles=3, **QUIET
    )
    assert posterior.elbo.isfinite().all()


def test_a_likelihood_without_gradient_leaves_independent_channels(cae):
    class Level(deepinv.physics.NoiseModel):
        pass

    @noise_distribution.register
    def _(noise_model: Level, signal):
        return dist.Uniform(signal - 1, signal + 1, validate_args=False)

    guide = built(cae, deepinv.physics.Denoising(Level()), torch.rand(1, 3, 64, 64))
    assert float(guide.factors["z"].gain.abs().max()) == 0
    assert type(guide.factors["h"]) is GaussianFactor
    assert guide.parameter_groups(0.2)[0]["params"] == []


def test_a_latent_without_maps_is_refused():
    prior = convolutional_vae((1, 28, 28), num_latents=4, channels=(8,), decoder_std=0.2)
    with pytest.raises(ValueError, match=r"need a latent of maps.* received one of shape \(1, 4\); choose family"):
        built(prior, denoising(0.1), torch.rand(1, 1, 28, 28))
