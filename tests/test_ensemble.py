import itertools

import numpy as np
import pytest
import torch
from deepinv.physics import Denoising, GaussianNoise

import pyro_vble as pv
from pyro_vble.diagnostics import summary
from pyro_vble.guides import VBLExz

PHYSICS = Denoising(GaussianNoise(0.1))


@pytest.fixture
def ensemble(cae):
    y = torch.rand(2, 3, 64, 64)
    return pv.restore(y, PHYSICS, cae, VBLExz, num_fits=3, num_steps=3, seed=0, progress=False, precision="float32")


def test_fits_are_independent_and_start_apart(ensemble):
    centres = [fit.guide.loc["z"] for fit in ensemble.fits]
    assert len(centres) == 3
    # Starts are drawn from factors of full width 1: a few small steps do not bring them together.
    assert all(float((a - b).abs().mean()) > 0.1 for a, b in itertools.pairwise(centres))


def test_statistics_are_the_mixtures(ensemble):
    samples = ensemble.sample(9)
    torch.testing.assert_close(ensemble.mmse_x(9), samples.mean(0))
    torch.testing.assert_close(ensemble.std(9), samples.std(0), rtol=1e-4, atol=1e-5)
    assert ensemble.predictive(4).shape == (4, 2, 3, 64, 64)
    assert ensemble.sample_latents(5)["z"].shape[:2] == (5, 2)
    torch.testing.assert_close(ensemble.mmse_z, torch.stack([fit.mmse_z for fit in ensemble.fits]).mean(0))


def test_every_fit_has_its_share_however_small_the_chunks(ensemble, monkeypatch):
    monkeypatch.setattr("pyro_vble.samples.posterior._PIXELS_AT_ONCE", {"cpu": 1})
    with torch.no_grad():
        for k, fit in enumerate(ensemble.fits):
            fit.guide.factors["x_decentered"].loc.fill_(100.0 * k)
    means = ensemble.sample(6).flatten(1).mean(1).sort().values
    assert bool((means.diff()[[1, 3]] > 1).all()), "two samples of each of three levels"
    assert float(means.diff()[[0, 2, 4]].max()) < 1


def test_latents_are_those_of_the_samples(ensemble):
    z = ensemble.sample_latents(6)["z"]
    prior = ensemble.model.prior
    e = ensemble.sample_latents(6)["x_decentered"]
    mean, std = prior.decode(z.flatten(0, 1), (3, 64, 64))
    x = mean.reshape(e.shape) + std.reshape(e.shape) * e
    torch.testing.assert_close(ensemble.sample(6), x, rtol=1e-4, atol=1e-4)


def test_chains_tell_fits_that_disagree(ensemble):
    idata = ensemble.to_arviz(60, include=["posterior", "sample_stats"])
    assert idata.posterior.sizes["chain"] == 3
    assert idata.posterior.sizes["draw"] == 20
    assert idata.sample_stats["log_p"].dims == ("chain", "draw", "image_batch")
    with torch.no_grad():
        for k, fit in enumerate(ensemble.fits):
            fit.guide.factors["x_decentered"].loc.fill_(5.0 * k)
    apart = summary(ensemble.to_arviz(60, include=["posterior"]), patch=32)
    assert float(apart["r_hat"].min()) > 1.5


@pytest.mark.parametrize("n", [60, 129, 400])
def test_intervals_hold_the_draws_of_fits_that_disagree(ensemble, n):
    """Also where the first draws, of which a histogram's range is made, are those of one fit alone."""
    with torch.no_grad():
        for k, fit in enumerate(ensemble.fits):
            fit.guide.factors["x_decentered"].loc.fill_(5.0 * k)
    low, high = ensemble.interval(0.9, n)
    inside = torch.stack([(low <= x) & (x <= high) for x in ensemble.sample(300, seed=3)]).double().mean(0)
    assert float(inside.mean()) == pytest.approx(0.9, abs=0.03)
    x = ensemble.sample(n)
    middle = torch.from_numpy(np.quantile(x.numpy(), 0.5, axis=0, method="weibull"))
    spread = x.amax(0) - x.amin(0)
    assert float(((ensemble.quantile(0.5, n) - middle).abs() / spread).max()) < 2 / 128


def test_r_hat_is_not_shown_for_one_fit(ensemble):
    assert "r_hat" not in summary(ensemble.fits[0].to_arviz(20, include=["posterior"]), patch=32)


def test_saved_and_loaded(ensemble, cae, tmp_path):
    ensemble.save(tmp_path / "fit.pvble")
    again = pv.load_posterior(tmp_path / "fit.pvble", prior=cae)
    torch.testing.assert_close(again.sample(7), ensemble.sample(7), rtol=0, atol=0)
    assert len(again.fits) == 3


def test_errors(ensemble, cae):
    with pytest.raises(ValueError, match="num_fits must be a whole number"):
        pv.restore(torch.rand(1, 3, 64, 64), PHYSICS, cae, num_fits=0)
    with pytest.raises(NotImplementedError, match=r"posterior.fits\[k\]"):
        ensemble.draws(3)
