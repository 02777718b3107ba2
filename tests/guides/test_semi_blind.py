"""Parameters of noise and operator, inferred with the image."""

from functools import partial

import pyro.distributions as dist
import pytest
import torch
from deepinv.physics import Denoising, GaussianNoise
from helpers import linear_vae
from torch.distributions import biject_to

import pyro_vble as pv
from pyro_vble.guides import VBLE, MAPz, VBLExz
from pyro_vble.models import RestorationModel
from pyro_vble.physics import GaussianBlur, prior_on

PRIOR = dist.HalfNormal(0.5)


@pytest.fixture
def problem():
    """y = W z + w with few latents and many pixels: p(sigma|y) by numerical integration."""
    W = torch.linalg.qr(torch.randn(400, 5, dtype=torch.float64))[0] * 4
    prior = linear_vae(W, torch.zeros(400), 0.05, (1, 20, 20))
    y = W @ torch.randn(5, dtype=torch.float64) + 0.1 * torch.randn(400, dtype=torch.float64)
    grid = torch.linspace(0.05, 0.2, 601, dtype=torch.float64)
    log_p = torch.stack(
        [
            dist.LowRankMultivariateNormal(torch.zeros(400, dtype=torch.float64), W, s.square().expand(400)).log_prob(y)
            + PRIOR.log_prob(s)
            for s in grid
        ]
    )
    weight = torch.softmax(log_p, 0)
    mean = (weight * grid).sum()
    return prior, y.reshape(1, 1, 20, 20), mean, (weight * (grid - mean).square()).sum().sqrt()


@pytest.mark.parametrize("wrong", [0.05, pytest.param(0.2, marks=pytest.mark.slow)])
def test_the_noise_level_is_that_of_numerical_integration(problem, wrong):
    prior, y, mean, std = problem
    posterior = pv.restore(
        y, Denoising(GaussianNoise(wrong)), prior, VBLE, physics_priors={"sigma": PRIOR}, num_steps=600, tolerance=None,
        precision="float64", seed=0, progress=False,
    )  # fmt: skip
    sigma = posterior.sample_latents(4000)["sigma"]
    # The five latents that sigma is independent of under q move it by less than a tenth of its width.
    assert abs(float(sigma.mean() - mean)) < 0.25 * float(std)
    assert 0.8 < float(sigma.std() / std) < 1.25
    torch.testing.assert_close(posterior.guide.loc["sigma"], sigma.median().reshape(1), rtol=0.02, atol=0)


def test_widths_and_levels_of_every_image_are_their_own(bundled):
    physics = GaussianBlur(1.5, radius=8, noise_model=GaussianNoise(0.05))
    y = torch.rand(2, 3, 64, 64)
    priors = {"width": dist.LogNormal(0.3, 0.3), "sigma": PRIOR}
    for guide in (VBLE, VBLExz, partial(VBLExz, free_mean=True), partial(VBLE, family="correlated"), MAPz):
        posterior = pv.restore(y, physics, bundled, guide, physics_priors=priors, num_steps=3, seed=0, progress=False)
        latents = posterior.sample_latents(6)
        assert latents["width"].shape == latents["sigma"].shape == (6, 2)
        assert bool((latents["width"] > 0).all())
        idata = posterior.to_arviz(6, include=["posterior"], region=(slice(0, 2), slice(0, 2)))
        assert idata.posterior["sigma"].dims == ("chain", "draw", "image_batch")
        torch.testing.assert_close(torch.tensor(idata.posterior["sigma"].values[0]), latents["sigma"])
        assert posterior.predictive(3).shape == (3, 2, 3, 64, 64)


@pytest.mark.slow
def test_on_an_image_of_the_prior_a_level_wrong_by_two_is_recovered(bundled):
    """To a quarter: what a mean-field guide does not fit of the image, it takes for noise."""
    torch.manual_seed(1)
    x = bundled.sample(1, (64, 64))
    y = x + 0.05 * torch.randn_like(x)
    for wrong in (0.025, 0.1):
        posterior = pv.restore(
            y, Denoising(GaussianNoise(wrong)), bundled, partial(VBLExz, free_mean=True), seed=0, progress=False,
            physics_priors={"sigma": dist.HalfNormal(0.2)},
        )  # fmt: skip
        assert abs(float(posterior.guide.loc["sigma"]) / 0.05 - 1) < 0.25


def test_saved_and_loaded(cae, tmp_path):
    physics = Denoising(GaussianNoise(0.1))
    posterior = pv.restore(
        torch.rand(1, 3, 64, 64), physics, cae, VBLE, physics_priors={"sigma": PRIOR}, num_steps=2, seed=0,
        progress=False,
    )  # fmt: skip
    posterior.save(tmp_path / "fit.pvble")
    again = pv.load_posterior(tmp_path / "fit.pvble", prior=cae, physics=physics)
    torch.testing.assert_close(again.sample_latents(5), posterior.sample_latents(5))
    torch.testing.assert_close(again.predictive(5), posterior.predictive(5))


@pytest.mark.parametrize("guide_class", [VBLE, MAPz])
def test_bounds_that_are_tensors_go_where_the_measurement_is(problem, guide_class):
    prior, y, *_ = problem
    bounded = dist.Uniform(torch.tensor(0.01), torch.tensor(0.5))
    physics = Denoising(GaussianNoise(0.1)).double()
    model = RestorationModel(prior, physics, physics_priors={"sigma": bounded})
    support = prior_on(bounded, model.initial_parameters(y)["sigma"]).support
    assert support.lower_bound.dtype == torch.float64
    guide = guide_class(model, y)
    factor = guide.factors["sigma"]
    transform = getattr(factor, "transform", None) or biject_to(factor._pyro_params["loc"][0])
    assert next(part.loc for part in transform.parts if hasattr(part, "loc")).dtype == torch.float64
