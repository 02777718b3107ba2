"""Chains on problems whose posterior is known."""

import math

import pyro.distributions as dist
import pytest
import torch
from deepinv.physics import Denoising, GaussianNoise
from helpers import MatrixPhysics, linear_vae

import pyro_vble as pv
from pyro_vble.diagnostics import compare_with_reference
from pyro_vble.guides import VBLExz

SHAPE = (1, 3, 3)


@pytest.fixture(scope="module")
def problem():
    torch.manual_seed(0)
    W = torch.randn(9, 2, dtype=torch.float64)
    A = torch.randn(6, 9, dtype=torch.float64)
    prior = linear_vae(W, torch.zeros(9), 0.4, SHAPE)
    y = torch.randn(1, 6, dtype=torch.float64)
    posterior = pv.restore(
        y, MatrixPhysics(A, GaussianNoise(0.5)), prior, VBLExz, image_shape=SHAPE, precision="float64", num_steps=200,
        seed=0, progress=False,
    )  # fmt: skip
    covariance = W @ W.T + 0.16 * torch.eye(9, dtype=torch.float64)
    gain = covariance @ A.T @ torch.linalg.inv(A @ covariance @ A.T + 0.25 * torch.eye(6, dtype=torch.float64))
    mean, var = (gain @ y[0]).reshape(1, *SHAPE), (covariance - gain @ A @ covariance).diagonal().reshape(1, *SHAPE)
    return posterior, mean, var.sqrt()


@pytest.fixture(scope="module")
def reference(problem):
    return pv.reference_posterior(problem[0], num_samples=250, num_warmup=100, num_chains=2, seed=1, progress=False)


@pytest.mark.slow
def test_chains_find_the_posterior_that_a_mean_field_guide_does_not(problem, reference):
    posterior, mean, std = problem
    convergence = reference.convergence(patch=1)
    assert convergence["r_hat"] < 1.05
    error = 5 / math.sqrt(convergence["ess_bulk"])
    assert float(((reference.mmse_x() - mean) / std).abs().max()) < error
    assert float((reference.std / std - 1).abs().max()) < error
    assert float((posterior.std(2000) / std - 1).abs().max()) > error, "there is something to be told apart"


@pytest.mark.slow
def test_the_table(problem, reference):
    posterior, mean, _ = problem
    table = compare_with_reference(reference, {"VBLE-xz": posterior}, truth=mean, seconds={"VBLE-xz": 1.0})
    assert table.loc["chains", "mean_error"] == 0
    assert table.loc["chains", "coverage_90_of_chains"] == pytest.approx(0.9, abs=0.01)
    assert 0 < table.loc["VBLE-xz", "coverage_90_of_chains"] < 1
    assert table.loc["chains", "ess_bulk"] > 50


def test_a_few_draws(problem):
    """Too few to have converged, but what is made of them is there."""
    posterior, mean, std = problem
    chains = pv.reference_posterior(posterior, num_samples=20, num_warmup=30, num_chains=2, seed=1, progress=False)
    assert chains.to_arviz().posterior["image"].shape == (2, 20, 1, *SHAPE)
    assert float(((chains.mmse_x - mean) / std).abs().max()) < 3
    table = compare_with_reference(chains, {"VBLE-xz": posterior}, truth=mean)
    assert set(table.index) == {"chains", "VBLE-xz"}
    assert table.loc["chains", "mean_error"] == 0


@pytest.mark.slow
def test_arviz_sees_chains(reference):
    import arviz as az

    idata = reference.to_arviz()
    assert idata.posterior["image"].dims == ("chain", "draw", "image_batch", "band", "row", "col")
    assert float(az.rhat(idata)["image"].max()) < 1.1


def test_hmc_and_a_parameter_with_support():
    """The noise level of pure noise: its posterior is nearly that of a variance alone."""
    torch.manual_seed(0)
    prior = linear_vae(torch.full((100, 1), 1e-3, dtype=torch.float64), torch.zeros(100), 1e-3, (1, 10, 10))
    y = 0.2 * torch.randn(1, 1, 10, 10, dtype=torch.float64)
    posterior = pv.restore(
        y, Denoising(GaussianNoise(0.1)), prior, physics_priors={"sigma": dist.HalfNormal(1.0)}, precision="float64",
        num_steps=100, seed=0, progress=False,
    )  # fmt: skip
    chains = pv.reference_posterior(
        posterior, kernel="hmc", num_samples=300, num_warmup=100, num_chains=1, seed=0, progress=False
    )
    sigma = chains.latents["sigma"]
    assert bool((sigma > 0).all())
    expected = float(y.square().mean().sqrt())
    assert float(sigma.mean()) == pytest.approx(expected, rel=0.05)
    assert float(sigma.std()) == pytest.approx(expected / math.sqrt(200), rel=0.35)
    assert math.isnan(chains.convergence()["r_hat"])


def test_errors(problem, cae):
    physics = Denoising(GaussianNoise(0.1))
    several = pv.restore(torch.rand(2, 3, 64, 64), physics, cae, num_steps=1, seed=0, progress=False)
    with pytest.raises(ValueError, match="one image"):
        pv.reference_posterior(several)
    with pytest.raises(ValueError, match="at least 4; received 3"):
        pv.reference_posterior(problem[0], num_samples=3)
    with pytest.raises(ValueError, match="kernel must be"):
        pv.reference_posterior(problem[0], kernel="gibbs")
