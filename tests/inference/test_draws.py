import pytest
import torch
from deepinv.physics import Denoising, GaussianNoise
from helpers import linear_vae

import pyro_vble as pv
from pyro_vble.guides import VBLE, MAPz, VBLExz
from pyro_vble.inference import draw
from pyro_vble.inference.draws import Draws
from pyro_vble.models import RestorationModel

PHYSICS = Denoising(GaussianNoise(0.1))


def test_under_the_exact_posterior_every_weight_is_the_evidence():
    W = torch.linalg.qr(torch.randn(16, 3, dtype=torch.float64))[0]
    prior = linear_vae(W, torch.zeros(16), 0.05, (1, 4, 4))
    y = torch.rand(2, 1, 4, 4, dtype=torch.float64)
    model = RestorationModel(prior, PHYSICS)
    guide = VBLE(model, y)
    # W'W = I: the posterior of z is N(y W / (1 + s²), s² / (1 + s²)), independent.
    with torch.no_grad():
        guide.factors["z"].loc.copy_(y.flatten(1) @ W / 1.01)
        guide.factors["z"].free_std = torch.full((2, 3), (0.01 / 1.01) ** 0.5, dtype=torch.float64)
    covariance = W @ W.T + 0.01 * torch.eye(16, dtype=torch.float64)
    evidence = torch.distributions.MultivariateNormal(torch.zeros(16, dtype=torch.float64), covariance)
    draws = draw(model, guide, y, 7)
    torch.testing.assert_close(draws.log_weights, evidence.log_prob(y.flatten(1)).expand(7, 2))


@pytest.mark.parametrize("guide", [VBLE, VBLExz, MAPz])
def test_likelihood_by_value_and_images_of_the_seed(cae, guide):
    y = torch.rand(2, 3, 64, 64)
    y[0, :, :9] = torch.nan
    posterior = pv.restore(y, PHYSICS, cae, guide, num_steps=2, seed=0, progress=False, precision="float32")
    draws = next(posterior.draws(5, seed=3))
    torch.testing.assert_close(draws.image, posterior.sample(5, seed=3))
    expected = torch.distributions.Normal(draws.image, 0.1).log_prob(y.nan_to_num())
    expected[:, 0, :, :9] = 0
    torch.testing.assert_close(draws.log_likelihood, expected)
    assert draws.log_prior.shape == draws.log_guide.shape == (5, 2)
    torch.testing.assert_close(draws.log_joint, expected.flatten(2).sum(2) + draws.log_prior)


def test_densities_that_nobody_asked_for_are_told_by_name():
    without = Draws(torch.rand(2, 1, 3, 8, 8))
    for density in ("log_joint", "log_weights"):
        with pytest.raises(ValueError, match=r"must be asked for.*posterior\.draws"):
            getattr(without, density)
