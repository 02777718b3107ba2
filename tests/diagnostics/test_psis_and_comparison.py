from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from deepinv.physics import Denoising, GaussianNoise
from helpers import linear_vae

import pyro_vble as pv
from pyro_vble.diagnostics import importance_sampling
from pyro_vble.diagnostics.comparison import block_sums, guide_name
from pyro_vble.diagnostics.psis import bounded_sites
from pyro_vble.guides import VBLE, MAPz, VBLExz
from pyro_vble.models import RestorationModel
from pyro_vble.samples import Posterior

SIGMA = 0.5


@pytest.fixture
def linear():
    """A model whose posterior of z is N(y W / (1 + s²), s²/(1 + s²)), W'W = I."""
    W = torch.linalg.qr(torch.randn(16, 3, dtype=torch.float64))[0]
    prior = linear_vae(W, torch.zeros(16), 0.05, (1, 4, 4))
    y = torch.randn(1, 1, 4, 4, dtype=torch.float64)
    model = RestorationModel(prior, Denoising(GaussianNoise(SIGMA)))
    exact = y.flatten(1) @ W / (1 + SIGMA**2), (SIGMA**2 / (1 + SIGMA**2)) ** 0.5
    return model, y, W, exact


def posterior_with(model, y, loc, width):
    guide = VBLE(model, y)
    with torch.no_grad():
        guide.factors["z"].loc.copy_(loc)
        guide.factors["z"].free_std = torch.full_like(loc, width)
    return Posterior(model, guide, y, precision="float64", seed=0)


class TestImportanceSampling:
    def test_a_guide_a_little_off_is_corrected(self, linear):
        model, y, W, (mean, std) = linear
        found = importance_sampling(posterior_with(model, y, mean + 0.5 * std, 1.3 * std), 4000)
        assert bool(found.trustworthy)
        truth = (mean @ W.T).reshape(1, 1, 4, 4)
        spread = (std * W.square().sum(1).sqrt()).reshape(1, 1, 4, 4)
        # Monte Carlo error at the effective sample size.
        bound = 5 * spread / found.effective_sample_size.sqrt()
        assert bool(((found.mean - truth).abs() < bound).all())
        torch.testing.assert_close(found.std, spread, rtol=5 / float(found.effective_sample_size) ** 0.5, atol=0)

    def test_one_far_too_narrow_is_not_trusted(self, linear):
        model, y, _, (mean, std) = linear
        assert not bool(importance_sampling(posterior_with(model, y, mean, 0.2 * std), 2000).trustworthy)

    def test_the_elbo_is_a_bound_of_the_evidence_and_met_by_the_posterior(self, linear):
        model, y, W, (mean, std) = linear
        covariance = W @ W.T + SIGMA**2 * torch.eye(16, dtype=torch.float64)
        normal = torch.distributions.MultivariateNormal(torch.zeros(16, dtype=torch.float64), covariance)
        evidence = normal.log_prob(y.flatten(1))
        found = importance_sampling(posterior_with(model, y, mean, std), 50)
        torch.testing.assert_close(found.elbo, evidence)
        off = importance_sampling(posterior_with(model, y, mean, 2 * std), 1000)
        assert bool(off.elbo + 5 * off.elbo_error < evidence)

    def test_weights_of_a_bounded_guide_are_never_trusted(self, linear):
        """Its box leaves posterior mass out, of which bounded weights cannot tell: k-hat is small all the same."""
        model, y, W, (mean, std) = linear
        guide = VBLE(model, y, family="uniform")
        with torch.no_grad():
            guide.factors["z"].loc.copy_(mean)
            guide.factors["z"].free_std = torch.full_like(mean, 2.0 * std / 12**0.5)  # a box of that width
        found = importance_sampling(Posterior(model, guide, y, precision="float64", seed=0), 2000)
        spread = std * W.square().sum(1).sqrt().reshape(1, 1, 4, 4)
        assert float((found.std / spread).mean()) < 0.8, "weighting has not mended the width"
        assert bool(found.k_hat < 0.5)
        assert found.bounded == ("z",)
        assert not bool(found.trustworthy)

    @pytest.mark.parametrize(
        "made", [lambda loc, std: dist.Uniform(loc - std, loc + std), lambda loc, std: dist.Delta(loc)]
    )
    def test_bounded_whatever_its_class(self, linear, made):
        model, y, _, (mean, std) = linear

        def guide(y):
            with pyro.plate("image", len(y), dim=-1):
                return {"z": pyro.sample("z", made(mean, torch.full_like(mean, std)).to_event(1))}

        assert bounded_sites(Posterior(model, guide, y, precision="float64", seed=0)) == ("z",)

    def test_parameters_are_judged_on_the_support_of_their_prior(self, linear):
        y = linear[1]
        prior = linear_vae(torch.eye(16, dtype=torch.float64)[:, :3], torch.zeros(16), 0.05, (1, 4, 4))
        own = RestorationModel(prior, Denoising(GaussianNoise(SIGMA)), physics_priors={"sigma": dist.Uniform(0.1, 1.0)})
        posterior = Posterior(own, VBLE(own, y), y, precision="float64", seed=0)
        assert bounded_sites(posterior) == (), "the guide fills the interval that its prior allows"

    def test_a_mixture_is_refused(self, bundled):
        posterior = pv.restore(
            torch.rand(1, 3, 64, 64),
            Denoising(GaussianNoise(0.1)),
            bundled,
            num_steps=1,
            num_fits=2,
            seed=0,
            progress=False,
        )
        with pytest.raises(ValueError, match=r"weight each: posterior.fits\[k\]"):
            importance_sampling(posterior, 30)

    def test_too_few_draws(self, linear):
        model, y, _, (mean, std) = linear
        with pytest.raises(ValueError, match="at least 25; received 10"):
            importance_sampling(posterior_with(model, y, mean, std), 10)


@pytest.fixture(scope="module")
def table(bundled):
    torch.manual_seed(0)
    x = torch.rand(1, 3, 8, 8).repeat_interleave(8, -1).repeat_interleave(8, -2)
    physics = Denoising(GaussianNoise(0.1))
    guides = [partial(VBLE, family="uniform"), VBLExz, partial(VBLExz, free_mean=True), MAPz]
    return pv.compare_guides(
        physics(x), physics, bundled, guides, truth=x, num_samples=60, num_steps=10, progress=False
    )


class TestComparison:
    def test_a_bounded_guide_is_marked(self, table):
        assert table.loc["VBLE(family='uniform')", "k_hat"] == float("inf")
        assert table.loc["VBLE(family='uniform')", "high_k"] == 1
        assert table.loc["VBLExz", "k_hat"] < float("inf")

    def test_rows_and_columns(self, table):
        assert set(table.index) == {"VBLE(family='uniform')", "VBLExz", "VBLExz(free_mean=True)", "MAPz"}
        assert {"elbo", "k_hat", "elpd_loo", "elpd_diff", "weight", "coverage_90", "psnr", "seconds"} <= set(table)

    def test_the_best_prediction_is_first_and_a_point_last(self, table):
        losses = table["elpd_loo"].iloc[:-1]
        assert table.index[-1] == "MAPz"
        assert losses.is_monotonic_decreasing
        assert table["elpd_diff"].iloc[0] == 0
        assert table["weight"].iloc[:-1].sum() == pytest.approx(1, abs=1e-6)

    def test_a_warning_of_ours_is_none(self, table, bundled, recwarn):
        physics = Denoising(GaussianNoise(0.1))
        pv.compare_guides(
            torch.rand(1, 3, 64, 64), physics, bundled, [VBLE], num_samples=30, num_steps=2, progress=False
        )
        assert not [w for w in recwarn if issubclass(w.category, UserWarning)]

    def test_names(self, bundled):
        assert guide_name(partial(VBLE, family="gaussian")) == "VBLE(family='gaussian')"
        with pytest.raises(ValueError, match="of different names"):
            pv.compare_guides(torch.rand(1, 3, 64, 64), Denoising(GaussianNoise(0.1)), bundled, [VBLE, VBLE])


class TestBlocks:
    def test_they_part_the_measurement(self):
        values, observed = torch.randn(5, 2, 3, 10, 13), torch.ones(2, 3, 10, 13, dtype=torch.bool)
        for block in (1, 4, 20):
            sums = block_sums(values, observed, block)
            torch.testing.assert_close(sums.sum(1), values.flatten(1).sum(1), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(block_sums(values, observed, 4)[:, 0], values[:, 0, :, :4, :4].flatten(1).sum(1))

    def test_blocks_without_an_observation_are_left_out(self):
        values, observed = torch.ones(2, 1, 3, 8, 8), torch.ones(1, 3, 8, 8, dtype=torch.bool)
        observed[..., :4, :4] = False
        assert block_sums(values, observed, 4).shape == (2, 3)

    def test_measurements_that_are_no_images(self):
        values = torch.randn(4, 2, 11)
        sums = block_sums(values, torch.ones(2, 11, dtype=torch.bool), 2)
        assert sums.shape == (4, 6)
        torch.testing.assert_close(sums[:, 0], values[:, 0, :4].sum(1))
