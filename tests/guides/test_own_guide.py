"""A guide in a user's own file, through everything that the library does with guides."""

from functools import partial

import arviz as az
import deepinv
import pytest
import torch
from helpers import linear_vae
from low_rank_guide import LowRank, LowRankGuide

import pyro_vble as pv
from pyro_vble.diagnostics import importance_sampling, predictive_check
from pyro_vble.inference import batches

PHYSICS = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))
GUIDE = partial(LowRankGuide, rank=2)
QUICK = {"num_steps": 4, "seed": 0, "progress": False, "precision": "float32", "guide": GUIDE}


def test_several_fits_start_apart_and_are_chains(cae):
    posterior = pv.restore(torch.rand(1, 3, 64, 64), PHYSICS, cae, num_fits=3, rate_scale="auto", **QUICK)
    idata = posterior.to_arviz(30, include=["posterior", "latents", "log_likelihood"])
    assert dict(idata.posterior["z"].sizes)["chain"] == 3
    assert float(az.rhat(idata.posterior["z"]).z.max()) > 1.1


def test_a_file_brings_it_back_with_its_option(cae, tmp_path):
    posterior = pv.restore(torch.rand(1, 3, 64, 64), PHYSICS, cae, num_fits=2, **QUICK)
    posterior.save(tmp_path / "fit.pvble")
    again = pv.load_posterior(tmp_path / "fit.pvble", prior=cae, physics=PHYSICS)
    assert again.fits[1].guide.factors["z"].factor.shape[-1] == 2
    assert torch.equal(again.sample(4, seed=1), posterior.sample(4, seed=1))


def test_a_batch_is_fitted_in_parts(cae, monkeypatch):
    monkeypatch.setattr(batches, "_SURELY_FITS", 0)
    monkeypatch.setattr(batches, "images_at_once", lambda *_: 2)
    y = torch.rand(3, 3, 64, 64)
    parts = pv.restore(y, PHYSICS, cae, **QUICK)
    assert len(parts.guide.loc["z"]) == 3
    alone = pv.restore(y[2:], PHYSICS, cae, **QUICK | {"num_steps": 60})
    far = pv.restore(y, PHYSICS, cae, **QUICK | {"num_steps": 60})
    own, other = (
        (alone.guide.loc["z"] - far.guide.loc["z"][row]).square().mean() for row in (slice(2, 3), slice(0, 1))
    )
    assert float(own) < 0.5 * float(other), "each image's rows are written where it stands"


def test_diagnostics_take_it(cae):
    posterior = pv.restore(torch.rand(1, 3, 64, 64), PHYSICS, cae, **QUICK)
    assert importance_sampling(posterior, 30).log_weights.shape == (30, 1)
    assert predictive_check(posterior, num_samples=4).ratio.isfinite().all()
    assert posterior.guide.quantiles([0.1, 0.9])["z"].shape[0] == 2
    assert float(posterior.guide.width["z"].min()) > 0


@pytest.mark.slow
@pytest.mark.parametrize("elbo", ["trace", "stl"])
def test_with_a_linear_decoder_it_finds_the_exact_covariance(elbo):
    """Mean field cannot: the posterior of z is Gaussian with the inverse of I + WᵀW/t² for a covariance."""
    weight = torch.tensor([[1.0, 0.9], [0.9, 1.0], [0.2, 0.1], [0.5, 0.6]], dtype=torch.float64)
    prior = linear_vae(weight, torch.zeros(4, dtype=torch.float64), 0.1, (1, 2, 2))
    y = torch.tensor([0.4, -0.2, 0.3, 0.1], dtype=torch.float64).reshape(1, 1, 2, 2)
    physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.5))
    how = {"num_steps": 1500, "num_particles": 8, "lr": 0.05, "tolerance": None, "seed": 0, "progress": False}
    posterior = pv.restore(y, physics, prior, guide=partial(LowRankGuide, rank=1), elbo=elbo, **how)
    factor = posterior.guide.factors["z"].factor[0].detach()
    found = factor @ factor.T + posterior.guide.factors["z"].variance[0].detach().diag()
    expected = torch.linalg.inv(torch.eye(2, dtype=torch.float64) + weight.T @ weight / 0.25)
    # The trace estimator keeps its gradient's noise to the end: it comes within a tenth of the covariance that mean
    # field leaves out. Sticking the landing has none left there.
    torch.testing.assert_close(
        found, expected, atol=0.1 * abs(float(expected[0, 1])) if elbo == "trace" else 0.002, rtol=0
    )


def test_moments_of_a_family_that_tells_only_its_distribution():
    factor = LowRank(torch.zeros(1, 2, 2, 2), torch.full((1, 2, 2, 2), 0.5), 2)
    mean, std = factor.moments()
    assert mean.shape == std.shape == (1, 2, 2, 2)
    torch.testing.assert_close(std, torch.full_like(std, 0.5), atol=0.1, rtol=0)
    with pytest.raises(NotImplementedError, match=r"define at\(self, noise\)"):
        factor.at(torch.zeros(1, 2, 2, 2))
