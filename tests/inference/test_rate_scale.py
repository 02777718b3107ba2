from functools import partial

import deepinv
import pytest
import torch
from helpers import linear_vae

import pyro_vble as pv
import pyro_vble.restoration
from pyro_vble.guides import VBLE, MAPz, VBLExz
from pyro_vble.inference import Problem, best_rate_scale, elbo_by_image
from pyro_vble.models import RestorationModel

FAST = {"num_steps": 4, "seed": 0, "progress": False, "precision": "float32"}


def test_the_elbo_of_a_batch_is_that_of_its_images():
    """With the exact posterior as guide every draw gives log p(y), image by image."""
    weight = torch.linalg.qr(torch.randn(16, 3, dtype=torch.float64)).Q
    prior = linear_vae(weight, torch.zeros(16, dtype=torch.float64), 0.3, (1, 4, 4))
    sigma = 0.2
    physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(sigma))
    y = torch.randn(3, 1, 4, 4, dtype=torch.float64)
    model = RestorationModel(prior, physics)
    guide = VBLE(model, y)
    # Orthonormal columns: the posterior of z is N(Wᵀy / (1 + σ²), σ² / (1 + σ²)).
    with torch.no_grad():
        guide.factors["z"].loc.copy_(y.flatten(1) @ weight / (1 + sigma**2))
        width = torch.tensor((sigma**2 / (1 + sigma**2)) ** 0.5, dtype=torch.float64)
        guide.factors["z"].free_std_unconstrained.copy_(width.log().expand(3, 3))
    covariance = weight @ weight.T + sigma**2 * torch.eye(16, dtype=torch.float64)
    evidence = torch.distributions.MultivariateNormal(torch.zeros(16, dtype=torch.float64), covariance)
    torch.testing.assert_close(
        elbo_by_image(model, guide, y, num_draws=2).double(), evidence.log_prob(y.flatten(1)), rtol=1e-5, atol=1e-4
    )


@pytest.mark.parametrize("bands", [1, 3, 4])
def test_one_scale_for_each_image_is_each_scale_for_its_image(cae, bands):
    both = cae.with_rate_scale((1.0, 0.5))
    x = torch.rand(2, bands, 70, 64)
    latents = both.encode(x)
    mean, std = both.decode(latents["z"], (bands, 70, 64))
    for i, scale in enumerate((1.0, 0.5)):
        one = cae.with_rate_scale(scale)
        expected = one.encode(x[i : i + 1])
        torch.testing.assert_close(latents["z"][i : i + 1], expected["z"], rtol=1e-4, atol=1e-4)
        one_mean, one_std = one.decode(latents["z"][i : i + 1], (bands, 70, 64))
        torch.testing.assert_close(mean[i : i + 1], one_mean, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(std[i : i + 1], one_std)
    particles = both.decode_mean(torch.stack([latents["z"]] * 3), (bands, 70, 64))
    torch.testing.assert_close(particles[1], mean, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("guide", [VBLE, VBLExz])
def test_auto_takes_the_scale_of_the_largest_elbo_image_by_image(bundled, guide, monkeypatch):
    """The scales' brief fits, done here one by one, rank as restore ranks them."""
    scales = (1.0, 0.25)
    monkeypatch.setattr(pyro_vble.restoration, "best_rate_scale", partial(best_rate_scale, scales=scales))
    physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.02))
    rough = torch.rand(1, 3, 64, 64)
    smooth = torch.linspace(0, 1, 64).expand(1, 3, 64, 64).clone()
    y = torch.cat((rough, smooth))
    posterior = pv.restore(y, physics, bundled, guide=guide, rate_scale="auto", **FAST)
    elbos = []
    for scale in scales:
        prior = bundled if scale == 1 else bundled.with_rate_scale(scale)
        model = RestorationModel(prior, physics, latent_image=guide.latent_image)
        fitted = pv.fit(model, guide(model, y), y, num_steps=15, seed=0, precision="float32", progress=False)
        elbos.append(elbo_by_image(model, fitted.guide, y, num_draws=16))
    difference = elbos[0] - elbos[1]
    assert float(difference.abs().min()) > 100  # the choice is not a matter of the draws
    expected = tuple(scales[0] if gain > 0 else scales[1] for gain in difference)
    found = posterior.model.prior.rate_scale
    assert (found if isinstance(found, tuple) else (found,) * 2) == expected


def test_auto_on_a_prior_without_bitrate():
    prior = linear_vae(torch.eye(16, 3).double(), torch.zeros(16).double(), 0.3, (1, 4, 4))
    physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.2))
    y = torch.rand(1, 1, 4, 4, dtype=torch.float64)
    fast = FAST | {"precision": "auto"}
    a, b = (pv.restore(y, physics, prior, rate_scale=s, **fast).mmse_z for s in ("auto", 1.0))
    assert torch.equal(a, b)


def test_a_bad_step_of_a_brief_fit_is_no_interrupt(bundled):
    calls = []

    class Once(deepinv.physics.Denoising):
        def A(self, x, **kwargs):
            calls.append(None)
            return x * torch.nan if len(calls) == 20 else x

    y = torch.rand(1, 3, 64, 64)
    posterior = pv.restore(y, Once(deepinv.physics.GaussianNoise(0.05)), bundled, rate_scale="auto", **FAST)
    assert len(calls) > 60
    assert len(posterior.elbo) == FAST["num_steps"]


def test_an_interrupt_ends_the_competition(bundled):
    class Impatient(deepinv.physics.Denoising):
        def A(self, x, **kwargs):
            if x.requires_grad and not armed.pop():
                raise KeyboardInterrupt
            return x

    y = torch.rand(1, 3, 64, 64)
    armed = [False, True, True, True]  # steps go well that many times
    physics = Impatient(deepinv.physics.GaussianNoise(0.05))
    with pytest.raises(KeyboardInterrupt), pytest.warns(UserWarning, match="Interrupted"):
        best_rate_scale(Problem.on("cpu", y, physics, bundled, VBLE), seed=0)


def test_a_posterior_of_several_scales_is_saved(bundled, tmp_path):
    physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.05))
    y = torch.rand(2, 3, 64, 64)
    posterior = pv.restore(y, physics, bundled.with_rate_scale((1.0, 0.5)), **FAST)
    posterior.model.prior.name = "cae-bsd"
    posterior.save(tmp_path / "fit.pvble")
    again = pv.load_posterior(tmp_path / "fit.pvble")
    assert again.model.prior.rate_scale == (1.0, 0.5)
    torch.testing.assert_close(again.mmse_z, posterior.mmse_z)


@pytest.mark.parametrize("scale", ["best", 1.5, (0.5, 0.0)])
def test_impossible_scales(bundled, scale):
    physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.05))
    with pytest.raises((ValueError, TypeError), match="rate_scale"):
        pv.restore(torch.rand(2, 3, 64, 64), physics, bundled, rate_scale=scale, **FAST)


@pytest.mark.parametrize("scales", [(1.0, 0.25), pytest.param(None, marks=pytest.mark.slow)], ids=["two", "all"])
def test_a_point_lets_vble_choose_and_the_priors_own_scale_does_not_matter(bundled, monkeypatch, scales):
    if scales:
        monkeypatch.setattr(pyro_vble.restoration, "best_rate_scale", partial(best_rate_scale, scales=scales))
    physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.05))
    y = torch.cat((torch.rand(1, 3, 64, 64), torch.full((1, 3, 64, 64), 0.4)))
    chosen = [
        pv.restore(y, physics, prior, guide=guide, rate_scale="auto", kl_weight=weight, **FAST).model.prior.rate_scale
        for prior in (bundled, bundled.with_rate_scale(0.5))
        for guide, weight in ((VBLE, 1.0), (MAPz, 0.0))
    ]
    assert len(set(chosen)) == 1


def test_as_many_scales_as_images(bundled):
    physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.05))
    with pytest.raises(ValueError, match="needs as many as there are images; received 2 for 3"):
        pv.restore(torch.rand(3, 3, 64, 64), physics, bundled.with_rate_scale((1.0, 0.5)), **FAST)
