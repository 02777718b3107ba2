"""Residuals of a measurement, where a linear model tells what they must be."""

import deepinv
import matplotlib
import pytest
import torch
from deepinv.physics import Denoising, GaussianNoise
from helpers import linear_vae

import pyro_vble as pv
from pyro_vble import Posterior
from pyro_vble import diagnostics as d
from pyro_vble.guides import VBLE
from pyro_vble.models import RestorationModel

matplotlib.use("Agg")

SIDE, SIGMA = 16, 0.5
N = SIDE**2


def exact(told: float, made: float, physics=None) -> Posterior:
    """The exact posterior of x = z ~ N(0, 1), y = x + noise, for a level that is told and another that was made."""
    prior = linear_vae(torch.eye(N), torch.zeros(N), 0.1, (1, SIDE, SIDE))
    model = RestorationModel(prior, physics or Denoising(GaussianNoise(told)))
    y = torch.randn(3, 1, SIDE, SIDE, dtype=torch.float64)
    y = y + made * torch.randn_like(y)
    guide = VBLE(model, y.clamp(0, 1))
    with torch.no_grad():
        guide.factors["z"].loc.copy_(y.flatten(1) / (1 + told**2))
        guide.factors["z"].free_width = torch.full((3, N), told / (1 + told**2) ** 0.5, dtype=torch.float64)
    return Posterior(model, guide, y, precision="float64", seed=0)


def expected(y: torch.Tensor, told: float) -> torch.Tensor:
    """T's mean over the posterior: its square of bias, and its variance, over that of the noise."""
    return y.square().mean((1, 2, 3)) * told**2 / (1 + told**2) ** 2 + 1 / (1 + told**2)


@pytest.mark.parametrize("made", [SIGMA, 2 * SIGMA, SIGMA / 2])
def test_the_ratio_is_that_of_the_closed_form(made):
    posterior = exact(SIGMA, made)
    check = d.predictive_check(posterior, num_samples=200)
    assert check.discrepancy.shape == check.replicated.shape == (200, 3)
    # Of N values and 200 draws: T's own standard error is about sqrt(2 / (200 N)), that of a replicated one likewise.
    error = 5 * (2 / (200 * N)) ** 0.5
    torch.testing.assert_close(check.discrepancy.mean(0), expected(posterior.y, SIGMA), atol=error * 2, rtol=0)
    torch.testing.assert_close(check.replicated.mean(0), torch.ones(3).double(), atol=error, rtol=0)
    torch.testing.assert_close(check.ratio, (check.discrepancy.mean(0) / check.replicated.mean(0)).sqrt())
    bias = posterior.y * SIGMA / (1 + SIGMA**2)
    torch.testing.assert_close(check.residual, bias, atol=5 * (1 + SIGMA**2) ** -0.5 / 200**0.5, rtol=0)


def test_where_model_and_measurement_agree_p_is_no_extreme_and_where_not_it_is():
    assert all(0.001 < float(p) < 0.999 for p in d.predictive_check(exact(SIGMA, SIGMA), num_samples=1000).p_value)
    # T is 2.4 in the mean, sixteen standard deviations of a replicated one.
    assert d.predictive_check(exact(SIGMA, 6 * SIGMA), num_samples=100).p_value.tolist() == [0, 0, 0]


def test_what_was_not_observed_does_not_count():
    mask = (torch.arange(N).reshape(1, SIDE, SIDE) % 2).double()
    physics = deepinv.physics.Inpainting((1, SIDE, SIDE), mask=mask, noise_model=GaussianNoise(SIGMA))
    posterior = exact(SIGMA, SIGMA, physics)
    posterior.y[0, 0, 3] = torch.nan
    check = d.predictive_check(posterior, num_samples=50)
    unseen = (mask == 0).expand(3, -1, -1, -1).clone()
    unseen[0, 0, 3] = True
    assert torch.equal(check.residual.isnan(), unseen)
    assert bool((check.ratio - 1).abs().max() < 0.2)


def test_several_fits_a_seed_and_a_figure(bundled):
    physics = Denoising(GaussianNoise(0.1))
    options = {"num_steps": 4, "seed": 0, "progress": False, "num_fits": 2}
    posterior = pv.restore(torch.rand(1, 3, 64, 64), physics, bundled, **options)
    checks = [d.predictive_check(posterior, num_samples=6) for _ in range(2)]
    assert checks[0].discrepancy.shape == (6, 1)
    assert torch.equal(checks[0].discrepancy, checks[1].discrepancy)
    axes = d.plot_residual(checks[0])
    assert axes.get_title().startswith("Residual, ")


def test_without_an_operator_it_says_what_to_do(bundled):
    posterior = pv.restore(
        torch.rand(1, 3, 64, 64), Denoising(GaussianNoise(0.1)), bundled, num_steps=1, progress=False
    )
    posterior.model.physics = None
    with pytest.raises(ValueError, match="pass physics="):
        d.predictive_check(posterior)
