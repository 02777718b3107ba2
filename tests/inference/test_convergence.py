"""How a fit comes to rest: paces, means of the last steps, widths that follow the prior, and when it is over."""

import math
from functools import partial

import pyro.distributions as dist
import pytest
import torch
from deepinv.physics import GaussianNoise
from helpers import linear_vae

import pyro_vble as pv
from pyro_vble.guides import VBLE, MAPz, VBLExz
from pyro_vble.inference import FitSettings
from pyro_vble.inference.adam import Pace, ScheduledAdam
from pyro_vble.inference.convergence import Travel
from pyro_vble.inference.fitting import svi_of
from pyro_vble.inference.following import prior_follower
from pyro_vble.models import RestorationModel
from pyro_vble.physics import GaussianBlur
from pyro_vble.physics.problems import denoising

NOISY = denoising(0.1)
QUIET = {"progress": False, "seed": 0}


class Centres:
    """A guide that tells no more than where its centres are."""

    def __init__(self, std=1.0):
        self.loc, self.std = torch.zeros(2, 5000), torch.full((2, 5000), std)

    def centres(self):
        return [(self.loc, self.std)]


class TestTravel:
    def test_a_journey_is_told_in_standard_deviations(self):
        guide = Centres(std=0.5)
        travel = Travel(guide)
        for step in range(4):
            guide.loc = torch.full_like(guide.loc, 0.1 * step)
            found = travel.look()
        assert found == pytest.approx(0.2)

    def test_noise_about_a_place_is_no_journey(self):
        """Its products have mean 0 and variance (2 s²)² beside the 5,000 of an image."""
        guide = Centres()
        travel = Travel(guide)
        generator = torch.Generator().manual_seed(0)
        for _ in range(4):
            guide.loc = torch.randn(2, 5000, generator=generator)
            found = travel.look()
        assert found**2 < 4 * 2 / math.sqrt(5000)

    def test_the_image_that_travels_furthest_counts(self):
        guide = Centres()
        travel = Travel(guide)
        for step in range(4):
            guide.loc = torch.stack((torch.zeros(5000), torch.full((5000,), 1.0 * step)))
            found = travel.look()
        assert found == pytest.approx(1.0)

    def test_guides_that_tell_no_centres_are_never_at_rest(self):
        travel = Travel(lambda y: None)
        assert not any(travel.is_over() for _ in range(6))

    @pytest.mark.parametrize("guide", [VBLE, VBLExz, partial(VBLExz, free_mean=True), partial(VBLE, family="uniform")])
    def test_guides_of_this_library_tell_theirs(self, cae, guide):
        y = torch.rand(2, 3, 64, 64)
        wants = getattr(guide, "func", guide).latent_image
        built = guide(RestorationModel(cae, NOISY, latent_image=wants), y)
        for loc, std in built.centres():
            assert loc.shape == std.shape
            assert len(loc) == 2

    def test_a_point_has_no_standard_deviation_to_judge_by(self, cae):
        assert MAPz(RestorationModel(cae, NOISY), torch.rand(1, 3, 64, 64)).centres() == []


class TestPace:
    def test_rates_fall_by_their_own_power(self):
        slow, fast = (torch.zeros(1, requires_grad=True) for _ in range(2))
        paces = {id(slow): Pace(0.2), id(fast): Pace(2.0, 0.5, averaged=True)}
        adam = ScheduledAdam((0.5, 0.95), lambda p: paces[id(p)], first=0.4)
        adam.rate = 0.4
        (slow + fast).sum().backward()
        adam([slow, fast])
        assert [-p.item() for p in (slow, fast)] == pytest.approx([0.08, 0.8])
        adam.rate = 0.1
        rates = [adam.optim_objs[p].param_groups[0]["lr"] for p in (slow, fast)]
        assert rates == pytest.approx([0.2 * 0.1, 2.0 * 0.4 * 0.5])
        assert adam.averaged() == [fast]

    def test_a_fit_ends_at_the_mean_of_its_last_centres(self, cae):
        y = torch.rand(1, 3, 64, 64)
        model = RestorationModel(cae, NOISY)
        guide = VBLE(model, y)
        svi = svi_of(model, guide, y, FitSettings())
        svi.optim.rate = 0.2
        seen = []
        for _ in range(3):
            svi.step(y)
            svi.collect()
            seen.append({name: p.detach().clone() for name, p in guide.named_parameters()})
        svi.settle()
        for name, p in guide.named_parameters():
            mean = torch.stack([one[name] for one in seen]).mean(0)
            expected = mean if name.endswith("loc_unconstrained") else seen[-1][name]
            assert torch.allclose(p, expected, atol=1e-6), name

    def test_what_was_collected_before_a_rollback_is_dropped(self, cae):
        y = torch.rand(1, 3, 64, 64)
        model = RestorationModel(cae, NOISY)
        guide = VBLE(model, y)
        svi = svi_of(model, guide, y, FitSettings())
        svi.optim.rate = 0.2
        svi.step(y)
        saved = svi.saved()
        at = guide.loc["z"].clone()
        svi.step(y)
        svi.collect()
        svi.restore(saved)
        svi.settle()
        assert torch.equal(guide.loc["z"], at)

    def test_a_constant_rate_averages_nothing(self):
        settings = FitSettings(schedule="constant", num_steps=50)
        assert (settings.tail, settings.may_stop) == (50, False)


class TestFollowing:
    @pytest.mark.parametrize("weight", [1.0, 0.5])
    def test_what_the_measurement_tells_stays(self, bundled, weight):
        y = torch.rand(1, 3, 64, 64)
        model = RestorationModel(bundled, NOISY)
        guide = VBLE(model, y)
        variance = lambda: model.prior.latent_variance(guide.median(), (3, 64, 64))["z"]  # noqa: E731
        before, told = variance(), guide.width["z"].pow(-2) - weight / variance()
        follower = prior_follower(guide, model, y, weight)
        with torch.no_grad():
            guide.factors["h"].loc += 0.5
        follower.follow()
        assert not torch.allclose(variance(), before)
        left = guide.width["z"].pow(-2) - weight / variance()
        assert torch.allclose(left, told.clamp_min(0), rtol=1e-3, atol=1e-3)

    def test_nothing_moves_while_h_stays(self, cae):
        y = torch.rand(1, 3, 64, 64)
        model = RestorationModel(cae, NOISY)
        guide = VBLE(model, y)
        before = guide.width["z"].clone()
        prior_follower(guide, model, y, 1.0).follow()
        assert torch.allclose(guide.width["z"], before, rtol=1e-5)

    def test_it_starts_over_where_the_parameters_went_back(self, cae):
        """As if it had never seen what came between, though that be no number."""
        y = torch.rand(1, 3, 64, 64)
        model = RestorationModel(cae, NOISY)
        guide = VBLE(model, y)
        follower = prior_follower(guide, model, y, 1.0)
        kept = {name: value.clone() for name, value in guide.state_dict().items()}
        with torch.no_grad():
            guide.factors["h"].loc.fill_(torch.nan)
        follower.follow()
        guide.load_state_dict(kept)
        follower.start_over()
        follower.follow()
        for name, value in guide.state_dict().items():
            torch.testing.assert_close(value, kept[name], rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("guide", [MAPz, lambda model, y: lambda y: None])
    def test_others_are_left_alone(self, cae, guide):
        y = torch.rand(1, 3, 64, 64)
        model = RestorationModel(cae, NOISY)
        prior_follower(guide(model, y), model, y, 1.0).follow()

    def test_a_prior_without_hyper_latent_is_left_alone(self):
        prior = linear_vae(torch.randn(16, 2, dtype=torch.float64), torch.zeros(16), 0.5, (1, 4, 4))
        y = torch.rand(1, 1, 4, 4, dtype=torch.float64)
        model = RestorationModel(prior, NOISY)
        guide = VBLE(model, y)
        before = guide.width["z"].clone()
        prior_follower(guide, model, y, 1.0).follow()
        assert torch.equal(guide.width["z"], before)


class TestQuality:
    def test_what_they_stand_for(self):
        assert FitSettings.of("fast") == FitSettings()
        assert FitSettings.of("accurate").num_steps == 300
        assert FitSettings.of("accurate", num_steps=7, lr=None).num_steps == 7
        assert FitSettings.of("fast", tolerance=None).tolerance is None

    def test_the_accurate_guide_is_correlated_unless_one_is_named(self, cae):
        y = torch.rand(1, 3, 64, 64)
        found = {
            quality: pv.restore(y, NOISY, cae, quality=quality, num_steps=1, **QUIET).guide.options
            for quality in ("fast", "accurate")
        }
        assert found["fast"] == {"family": "gaussian", "free_mean": True}
        assert found["accurate"] == {"family": "correlated", "free_mean": True}
        named = pv.restore(y, NOISY, cae, VBLE, quality="accurate", num_steps=1, **QUIET)
        assert named.guide.options == {"family": "gaussian"}

    def test_another_is_refused(self, cae):
        with pytest.raises(ValueError, match="quality must be one of 'fast', 'accurate'; received 'best'"):
            pv.restore(torch.rand(1, 3, 64, 64), NOISY, cae, quality="best", **QUIET)

    @pytest.mark.parametrize(
        ("unknown", "told", "steps"),
        [
            ("sigma", {}, 90),
            ("width", {}, 300),
            ("width", {"quality": "accurate"}, 300),
            ("width", {"num_steps": 5}, 5),
        ],
    )
    def test_an_unknown_operator_takes_the_steps_of_accurate(self, unknown, told, steps):
        prior = linear_vae(torch.randn(256, 2, dtype=torch.float64), torch.zeros(256), 0.5, (1, 16, 16))
        physics = GaussianBlur(1.0, radius=3, noise_model=GaussianNoise(0.1))
        how = {"physics_priors": {unknown: dist.LogNormal(0.0, 0.5)}, "tolerance": None} | told
        y = torch.rand(1, 1, 16, 16, dtype=torch.float64)
        assert len(pv.restore(y, physics, prior, VBLE, **how, **QUIET).elbo) == steps

    def test_centres_at_rest_end_a_fit_at_its_default_length(self):
        """Of a linear decoder, whose latents are where they belong after a few steps."""
        prior = linear_vae(torch.randn(64, 8, dtype=torch.float64), torch.zeros(64), 0.5, (1, 8, 8))
        y = torch.rand(1, 1, 8, 8, dtype=torch.float64)
        with torch.random.fork_rng():
            taken = [len(pv.restore(y, NOISY, prior, VBLE, tolerance=t, **QUIET).elbo) for t in (1e-3, None)]
        assert taken[0] < taken[1] == FitSettings().num_steps
