"""What every guide must keep, whatever its family."""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from deepinv.physics import Denoising, GaussianNoise
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import ClippedAdam

from pyro_vble.guides import (
    VBLE,
    ChannelFactor,
    ConstrainedFactor,
    GaussianFactor,
    MAPz,
    MeanFieldGuide,
    PointFactor,
    UniformFactor,
    VBLExz,
)
from pyro_vble.guides.abilities import copy_rows
from pyro_vble.models import RestorationModel

PHYSICS = Denoising(GaussianNoise(0.1))


class GuideContract:
    """Subclasses say which guide; the tests are shared."""

    guide_class: type[MeanFieldGuide]
    options: dict = {}  # noqa: RUF012

    def build(self, prior, y):
        model = RestorationModel(prior, PHYSICS, latent_image=self.guide_class.latent_image)
        return model, self.guide_class(model, y, **self.options)

    @pytest.fixture
    def y(self):
        return torch.rand(2, 3, 70, 64)

    def test_its_sites_are_the_models_latents(self, cae, y):
        model, guide = self.build(cae, y)
        sites = set(poutine.trace(guide).get_trace(y).stochastic_nodes)
        assert sites == set(poutine.trace(model).get_trace(y).stochastic_nodes)

    def test_it_takes_what_the_model_takes_and_fits_by_hand(self, cae, y):
        model, guide = self.build(cae, y)
        before = {name: value.clone() for name, value in guide.state_dict().items()}
        svi = SVI(model, guide, ClippedAdam({"lr": 0.1}), Trace_ELBO(max_plate_nesting=1))
        losses = [svi.step(y) for _ in range(5)]
        assert all(torch.isfinite(torch.tensor(losses)))
        moved = [name for name, value in guide.state_dict().items() if not torch.equal(value, before[name])]
        assert set(moved) == {name for name, _ in guide.named_parameters()}

    def test_parameters_are_local(self, cae, y):
        first = self.build(cae, y)[1]
        second = self.build(cae, y[:1, :, :50, :40])[1]
        for guide, data in ((first, y), (second, y[:1, :, :50, :40]), (first, y)):
            guide(data)
        assert len(pyro.get_param_store()) == 0
        assert first.loc["z"].shape == (2, 12, 8, 4)
        assert second.loc["z"].shape == (1, 12, 4, 4)

    def test_asking_one_guide_does_not_touch_another(self, cae, y):
        first, second = self.build(cae, y)[1], self.build(cae, 0.5 * y)[1]
        before = second.loc["z"].clone()
        for guide in (first, second):
            guide.quantiles([0.5])
            guide.get_posterior()
            guide.median()
        assert len(pyro.get_param_store()) == 0
        assert torch.equal(second.loc["z"], before)

    def test_a_measurement_of_another_batch_size_is_refused(self, cae, y):
        _, guide = self.build(cae, y)
        with pytest.raises(ValueError, match="of 2; received a measurement of 1"):
            guide(y[:1])

    def test_starts_at_the_encoder(self, cae, y):
        _, guide = self.build(cae, y)
        torch.testing.assert_close(guide.loc["z"], cae.encode(y)["z"], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(guide.loc["h"], cae.encode(y)["h"], rtol=1e-4, atol=1e-4)

    def test_median_quantiles_and_posterior_agree(self, cae, y):
        _, guide = self.build(cae, y)
        posterior = guide.get_posterior()
        levels = guide.quantiles([0.05, 0.5, 0.95])
        for site, median in guide.median().items():
            assert posterior[site].batch_shape == (2,)
            torch.testing.assert_close(levels[site][1], median)
            assert bool((levels[site][0] <= levels[site][2]).all())
            draws = posterior[site].sample((400,))
            inside = ((levels[site][0] <= draws) & (draws <= levels[site][2])).float().mean()
            expected = 1.0 if guide.width == {} else 0.9
            assert float(inside) == pytest.approx(expected, abs=5 * (0.09 / draws.numel()) ** 0.5)
        with pytest.raises(ValueError, match="probabilities"):
            guide.quantiles([1.2])

    def test_its_state_dict_restores_it(self, cae, y):
        model, guide = self.build(cae, y)
        with torch.no_grad():
            for p in guide.parameters():
                p.add_(torch.randn_like(p))
        again = self.guide_class(model, y, **guide.options)
        again.load_state_dict(guide.state_dict())
        for site, median in guide.median().items():
            assert torch.equal(again.median()[site], median)

    def test_a_model_of_the_other_kind_is_refused(self, cae, y):
        model = RestorationModel(cae, PHYSICS, latent_image=not self.guide_class.latent_image)
        with pytest.raises(ValueError, match=rf"{self.guide_class.__name__} needs a model with latent_image"):
            self.guide_class(model, y)


class TestVBLE(GuideContract):
    guide_class = VBLE


class TestVBLEGaussian(GuideContract):
    guide_class = VBLE
    options = {"family": "gaussian"}  # noqa: RUF012


class TestVBLExz(GuideContract):
    guide_class = VBLExz


class TestVBLExzFreeMean(GuideContract):
    guide_class = VBLExz
    options = {"free_mean": True}  # noqa: RUF012


class TestVBLECorrelated(GuideContract):
    guide_class = VBLE
    options = {"family": "correlated"}  # noqa: RUF012


class TestVBLExzCorrelated(GuideContract):
    guide_class = VBLExz
    options = {"family": "correlated", "free_mean": True}  # noqa: RUF012


class TestMAPz(GuideContract):
    guide_class = MAPz


def test_default_families(cae):
    y = torch.rand(1, 3, 64, 64)
    guide = VBLE(RestorationModel(cae, PHYSICS), y)
    assert guide.family == "gaussian"
    torch.testing.assert_close(guide.width["h"], torch.full((1, 8, 1, 1), 12**-0.5))
    published = VBLE(RestorationModel(cae, PHYSICS), y, family="uniform")
    torch.testing.assert_close(published.width["h"], torch.ones(1, 8, 1, 1))
    xz = VBLExz(RestorationModel(cae, PHYSICS, latent_image=True), y)
    assert bool((xz.b <= 1).all())
    assert set(xz.width) == set(xz.loc) == {"h", "z"}


def test_widths_stay_in_bounds_and_find_back():
    """Driven far outside, a width is held at its bound by value, and a gradient that leads back moves it at once."""
    factor = UniformFactor(torch.zeros(1, 4), 1.0)
    with torch.no_grad():
        factor.free_std_unconstrained.fill_(9.0)
    assert float(factor.width.max()) == pytest.approx(20.0)
    factor.width.sum().backward()
    torch.testing.assert_close(factor.free_std_unconstrained.grad, torch.full((1, 4), 20.0))


def test_unknown_family(cae):
    with pytest.raises(ValueError, match="family must be one of gaussian, uniform, correlated; received 'laplace'"):
        VBLE(RestorationModel(cae, PHYSICS), torch.rand(1, 3, 64, 64), family="laplace")


def test_options_travel_in_a_partial(cae):
    import pyro_vble as pv

    y = torch.rand(1, 3, 64, 64)
    posterior = pv.restore(y, PHYSICS, cae, guide=partial(VBLE, family="gaussian"), num_steps=2, progress=False)
    assert posterior.guide.family == "gaussian"


FACTORS = {
    "gaussian": lambda loc: GaussianFactor(loc, 0.3),
    "uniform": lambda loc: UniformFactor(loc, 0.3),
    "positive": lambda loc: ConstrainedFactor(loc.flatten(1)[:, 0].exp(), 0.3, dist.constraints.positive),
    "interval": lambda loc: ConstrainedFactor(loc.flatten(1)[:, 0].sigmoid(), 0.8, dist.constraints.unit_interval),
    "point": lambda loc: PointFactor(loc, 0.3),
    "correlated": lambda loc: ChannelFactor(
        loc, torch.full_like(loc, 0.3), torch.rand_like(loc), torch.randn(*loc.shape[:-2], 2)
    ),
}


@pytest.mark.parametrize("name", FACTORS)
class TestFactors:
    """What a family says of itself must be true of its distribution."""

    @pytest.fixture
    def factor(self, name):
        return FACTORS[name](torch.randn(3, 4, 2, 2))

    def test_moments_are_those_of_the_distribution(self, factor):
        drawn = factor().sample((20_000,))
        mean, std = factor.moments()
        error = drawn.std(0) / 20_000**0.5
        assert bool(((drawn.mean(0) - mean).abs() <= 5 * error + 1e-6).all())
        torch.testing.assert_close(drawn.std(0), std, rtol=0.05, atol=1e-6)

    def test_the_value_at_standard_noise_has_the_distribution(self, factor):
        at = factor.at(torch.randn(20_000, *factor.median.shape))
        drawn = factor().sample((20_000,))
        for q in (0.05, 0.5, 0.95):
            spread = float(drawn.std()) + 1e-6
            torch.testing.assert_close(at.quantile(q, 0), drawn.quantile(q, 0), rtol=0, atol=0.06 * spread)

    def test_the_value_at_a_part_of_the_noise_is_that_part_of_the_value(self, factor):
        """What lets a window of a scene's sample equal the crop of the whole."""
        noise = torch.randn(factor.median.shape)
        torch.testing.assert_close(factor.at(noise), factor.at(noise.expand(2, *noise.shape))[1])

    def test_at_no_noise_it_is_the_median(self, factor):
        torch.testing.assert_close(factor.at(torch.zeros(factor.median.shape)), factor.median)

    def test_scattered_it_starts_some_standard_deviations_away(self, factor, name):
        before = factor.median.detach().clone()
        factor.scatter_()
        assert not torch.allclose(factor.median, before)
        assert bool(factor().support.check(factor.median).all())


def test_rows_of_the_batch_and_none_of_a_part_are_refused(cae):
    def function(y):
        return None

    guide = VBLE(RestorationModel(cae, PHYSICS), torch.rand(2, 3, 64, 64))
    with pytest.raises(ValueError, match="the rows of function are None"):
        copy_rows(guide, slice(0, 1), function, slice(None))
