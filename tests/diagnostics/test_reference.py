"""Chains on problems whose posterior is known."""

import itertools
import math

import pyro.distributions as dist
import pytest
import torch
from deepinv.physics import Denoising, GaussianNoise
from helpers import MatrixPhysics, linear_vae

import pyro_vble as pv
from pyro_vble.diagnostics import compare_with_reference
from pyro_vble.diagnostics._whitening import whitened_hmc
from pyro_vble.guides import VBLE, VBLExz
from pyro_vble.models import CAE
from pyro_vble.samples import ReferencePosterior

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
    assert float((reference.std() / std - 1).abs().max()) < error
    assert float((posterior.std(2000) / std - 1).abs().max()) > error, "there is something to be told apart"


@pytest.mark.slow
def test_the_table(problem, reference):
    posterior, mean, _ = problem
    table = compare_with_reference(reference, {"VBLE-xz": posterior}, truth=mean, seconds={"VBLE-xz": 1.0})
    assert table.loc["chains", "mean_error"] == 0
    assert table.loc["chains", "coverage_90_of_chains"] == pytest.approx(0.9, abs=0.01)
    assert 0 < table.loc["VBLE-xz", "coverage_90_of_chains"] < 1
    assert table.loc["chains", "ess_bulk"] > 50


def test_mean_and_covariance_in_closed_form():
    """The latents' posterior N((I + G'G/t²)⁻¹ G'y/t², (I + G'G/t²)⁻¹) of y = G z + noise of standard deviation t."""
    torch.manual_seed(0)
    G, t = torch.tensor([[1.0, 0.8], [0.2, 1.0], [0.5, 0.9]], dtype=torch.float64), 0.5
    prior = linear_vae(torch.eye(2, dtype=torch.float64), torch.zeros(2), 1.0, (1, 1, 2))
    y = torch.tensor([[1.0, -0.5, 0.3]], dtype=torch.float64)
    posterior = pv.restore(
        y, MatrixPhysics(G, GaussianNoise(t)), prior, VBLE, image_shape=(1, 1, 2), precision="float64", num_steps=60,
        seed=0, progress=False,
    )  # fmt: skip
    chains = pv.reference_posterior(posterior, num_samples=200, num_warmup=60, num_chains=16, seed=0, progress=False)
    covariance = torch.linalg.inv(torch.eye(2, dtype=torch.float64) + G.T @ G / t**2)
    mean, draws = covariance @ G.T @ y[0] / t**2, chains.latents["z"].reshape(-1, 2)
    std = covariance.diagonal().sqrt()
    assert chains.convergence(patch=1)["r_hat_z"] < 1.05
    # 3,200 draws that are hardly correlated: standard errors of 0.02 of both.
    assert float(((draws.mean(0) - mean) / std).abs().max()) < 0.08
    assert float(((torch.cov(draws.T) - covariance) / (std[:, None] * std)).abs().max()) < 0.1
    assert float(covariance[0, 1] / std.prod()) < -0.5, "a mean-field guide has none"


@pytest.mark.parametrize("kernel", ["hmc", "nuts"])
def test_kernels_thin_alike(problem, kernel):
    how = {"num_samples": 4, "num_warmup": 12, "num_chains": 3, "thinning": 2, "seed": 0, "progress": False}
    chains = pv.reference_posterior(problem[0], kernel=kernel, max_tree_depth=2, **how)
    assert chains.image.shape == (3, 4, 1, *SHAPE)
    assert chains.latents["z"].shape == (3, 4, 1, 2)
    assert chains.acceptance.shape == (3,)
    assert bool(((chains.acceptance >= 0) & (chains.acceptance <= 1)).all())
    starts = chains.latents["z"][:, 0, 0]
    assert len(starts.unique(dim=0)) == 3
    again = pv.reference_posterior(problem[0], kernel=kernel, max_tree_depth=2, **how)
    assert torch.equal(again.image, chains.image)


def test_autograd_mode_of_the_caller_does_not_matter(problem):
    with torch.inference_mode():
        chains = pv.reference_posterior(problem[0], num_samples=4, num_warmup=0, seed=0, progress=False)
    assert chains.image.shape == (4, 4, 1, *SHAPE)


def test_interrupted_chains_are_kept(problem, monkeypatch):
    how = {"num_samples": 50, "num_warmup": 0, "seed": 0, "progress": False}

    def interrupted_after(draws):
        def transitions(*args, **kwargs):
            yield from itertools.islice(whitened_hmc(*args, **kwargs), draws)
            raise KeyboardInterrupt

        return transitions

    monkeypatch.setattr("pyro_vble.diagnostics.reference.whitened_hmc", interrupted_after(6))
    assert pv.reference_posterior(problem[0], **how).image.shape == (4, 6, 1, *SHAPE)
    monkeypatch.setattr("pyro_vble.diagnostics.reference.whitened_hmc", interrupted_after(3))
    with pytest.raises(KeyboardInterrupt):
        pv.reference_posterior(problem[0], **how)


def test_an_autoencoder_with_a_context_model_and_several_fits():
    from helpers import small_network

    prior = CAE(small_network("JointAutoregressiveHierarchicalPriors"), alpha=0.025)
    y = torch.rand(1, 3, 32, 32)
    posterior = pv.restore(y, Denoising(GaussianNoise(0.1)), prior, num_steps=2, num_fits=2, seed=0, progress=False)
    how = {"num_samples": 4, "num_warmup": 0, "max_tree_depth": 2, "progress": False}
    chains = pv.reference_posterior(posterior, **how)
    assert chains.image.shape == (4, 4, 1, 3, 32, 32)
    assert bool(chains.image.isfinite().all())


def test_a_few_draws(problem):
    """Too few to have converged, but what is made of them is there."""
    posterior, mean, std = problem
    chains = pv.reference_posterior(posterior, num_samples=20, num_warmup=30, num_chains=2, seed=1, progress=False)
    assert chains.to_arviz().posterior["image"].shape == (2, 20, 1, *SHAPE)
    assert float(((chains.mmse_x() - mean) / std).abs().max()) < 3
    table = compare_with_reference(chains, {"VBLE-xz": posterior}, truth=mean)
    assert set(table.index) == {"chains", "VBLE-xz"}
    assert table.loc["chains", "mean_error"] == 0


@pytest.mark.slow
def test_arviz_sees_chains(reference):
    import arviz as az

    idata = reference.to_arviz()
    assert idata.posterior["image"].dims == ("chain", "draw", "image_batch", "band", "row", "col")
    assert float(az.rhat(idata)["image"].max()) < 1.1


@pytest.mark.slow
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


class TestReplicas:
    """Measurements of chains' draws, made here of draws that nobody ran a chain for."""

    @pytest.fixture
    def drawn(self):
        image = torch.full((3, 40, 1, 1, 16, 16), 0.5)
        sigma = torch.linspace(0.1, 0.5, 120).reshape(3, 40, 1)
        y = torch.rand(1, 1, 16, 16)
        physics = Denoising(GaussianNoise(0.001))
        return ReferencePosterior(image, {"sigma": sigma, "z": torch.zeros(3, 40, 1, 2)}, y, physics=physics)

    def test_are_of_the_parameters_that_were_drawn(self, drawn):
        sigma = drawn.latents["sigma"].flatten()
        noise = (drawn.predictive(120) - 0.5).flatten(1).std(1)
        torch.testing.assert_close(noise, sigma, rtol=0.25, atol=0)
        chains = drawn.to_arviz().posterior_predictive["y"].values
        noise = torch.from_numpy(chains - 0.5).flatten(2).std(2)
        torch.testing.assert_close(noise, drawn.latents["sigma"][..., 0], rtol=0.25, atol=0)

    def test_no_two_chains_have_the_same_noise(self, drawn):
        first, second, third = (next(chain).replica[0] for chain in drawn.chains(120, replicas=True))
        noise = [((value - 0.5) / value.std()).flatten() for value in (first, second, third)]
        for one, other in itertools.combinations(noise, 2):
            assert abs(float((one * other).mean())) < 5 / 16
