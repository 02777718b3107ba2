import math

import numpy as np
import pyro
import pytest
import torch
from deepinv.physics import Denoising, GaussianNoise
from helpers import linear_vae
from pyro.distributions import is_validation_enabled
from scipy import stats

import pyro_vble as pv
from pyro_vble import _streaming
from pyro_vble._streaming import Moments, sorted_quantiles, streamed_quantiles
from pyro_vble.guides import VBLExz
from pyro_vble.models import RestorationModel
from pyro_vble.samples import Posterior

PHYSICS = Denoising(GaussianNoise(0.1))


def sixth_definition(x, q):
    """Hyndman and Fan's: NumPy calls it "weibull"."""
    return torch.from_numpy(np.quantile(x.numpy(), q, axis=0, method="weibull")).to(x)


@pytest.fixture
def posterior(cae):
    return pv.restore(
        torch.rand(2, 3, 64, 64), PHYSICS, cae, guide=VBLExz, num_steps=3, seed=0, progress=False, precision="float32"
    )


@pytest.fixture
def gaussian_posterior():
    """Known marginals: x = W z + s e under the guide as it starts, z ~ N(z̄, a²), e ~ N(0, b²)."""
    W = torch.randn(16, 3, dtype=torch.float64)
    prior = linear_vae(W, torch.zeros(16), 0.5, (1, 4, 4))
    model = RestorationModel(prior, PHYSICS, latent_image=True)
    y = torch.rand(1, 1, 4, 4, dtype=torch.float64)
    guide = VBLExz(model, y)
    mean = (guide.loc["z"] @ W.T).reshape(1, 1, 4, 4)
    std = ((guide.width["z"].square() @ W.square().T).reshape(1, 1, 4, 4) + 0.25 * guide.b.square()).sqrt()
    return Posterior(model, guide, y, precision="float64", seed=0), mean, std


class TestStatistics:
    def test_they_are_those_of_the_samples_of_the_same_seed(self, posterior):
        n = 37
        x = torch.cat(list(posterior.chunks(n)))
        torch.testing.assert_close(posterior.sample(n), x)
        torch.testing.assert_close(posterior.mmse_x(n), x.mean(0), rtol=0, atol=1e-5)
        torch.testing.assert_close(posterior.std(n), x.std(0), rtol=1e-4, atol=1e-5)
        for q in (0.0, 0.05, 0.5, 0.9, 1.0):
            torch.testing.assert_close(posterior.quantile(q, n), sixth_definition(x, q), rtol=0, atol=1e-5)
        low, high = posterior.interval(0.8, n)
        torch.testing.assert_close(low, sixth_definition(x, 0.1), rtol=0, atol=1e-5)
        torch.testing.assert_close(high, sixth_definition(x, 0.9), rtol=0, atol=1e-5)
        others = (n * x.mean(0) - x) / (n - 1)
        error = sixth_definition((x - others).abs(), 0.9)
        torch.testing.assert_close(posterior.error_quantile(0.9, n), error, rtol=0, atol=1e-5)

    def test_they_converge_to_the_posteriors(self, gaussian_posterior):
        posterior, mean, std = gaussian_posterior
        n = 10_000
        error = 5 / n**0.5
        assert float(((posterior.mmse_x(n) - mean) / std).abs().max()) < error
        assert float((posterior.std(n) / std - 1).abs().max()) < error
        for q in (0.01, 0.05, 0.5, 0.95):
            # The sampling error of a quantile is sqrt(q (1 - q) / n) over the density there.
            z = stats.norm.ppf(q)
            bound = 5 * math.sqrt(q * (1 - q) / n) / stats.norm.pdf(z)
            assert float(((posterior.quantile(q, n) - mean) / std - z).abs().max()) < bound
        half = stats.norm.ppf(0.95)
        assert float((posterior.error_quantile(0.9, n) / std - half).abs().max()) < 0.1

    def test_without_a_seed_two_passes_still_see_the_same_samples(self, gaussian_posterior):
        posterior, _, _ = gaussian_posterior
        posterior.seed = None
        # With one sample the error is exactly zero, if both passes draw the same.
        assert float(posterior.error_quantile(0.9, 1).abs().max()) == 0.0

    def test_seeds(self, posterior):
        assert torch.equal(posterior.sample(3), posterior.sample(3))
        assert not torch.equal(posterior.sample(3, seed=1), posterior.sample(3, seed=2))
        posterior.seed = None
        assert not torch.equal(posterior.sample(3), posterior.sample(3))

    def test_draws_are_validated_once_and_the_setting_stays(self, posterior, monkeypatch):
        monkeypatch.setattr("pyro_vble.samples.posterior._PIXELS_AT_ONCE", {"cpu": 1})
        original, validated = Posterior.images_and_latents, []

        def images(self, n):
            validated.append(is_validation_enabled())
            return original(self, n)

        monkeypatch.setattr(Posterior, "images_and_latents", images)
        with pyro.validation_enabled(True):
            for _ in posterior.chunks(3, seed=5):
                assert is_validation_enabled()
        assert validated == [True, False, False]

    def test_numpy_seeds_are_seeds(self, posterior, monkeypatch):
        monkeypatch.setattr("pyro_vble.samples.posterior._PIXELS_AT_ONCE", {"cpu": 1})
        drawn = posterior.sample(4, seed=np.int64(5))
        assert torch.equal(drawn, posterior.sample(4, seed=5))
        assert float(drawn.std(0).mean()) > 0
        with pytest.raises(ValueError, match="seed must be a whole number"):
            posterior.sample(1, seed=0.5)

    def test_kept_samples_are_not_those_of_an_older_guide(self, posterior):
        before = posterior.mmse_x(5)
        with torch.no_grad():
            posterior.guide.factors["z"].loc.add_(1.0)
        assert not torch.allclose(posterior.mmse_x(5), before)

    def test_samples_too_many_to_keep_are_drawn_once_for_both_moments(self, posterior, monkeypatch):
        monkeypatch.setattr("pyro_vble.samples.kept._KEEP_VALUES", 0)
        passes = []
        original = Posterior.mapped
        monkeypatch.setattr(Posterior, "mapped", lambda self, *a, **k: (passes.append(a), original(self, *a, **k))[1])
        posterior.mmse_x(6), posterior.std(6), posterior.error_quantile(0.9, 6)
        assert len(passes) == 2, "one pass for the moments, one for the errors"
        with torch.no_grad():
            posterior.guide.factors["z"].loc.add_(1.0)
        posterior.std(6)
        assert len(passes) == 3, "an older guide's moments are not those of this one"

    def test_mmse_z_is_the_decoded_median(self, posterior):
        z = posterior.guide.median()["z"]
        torch.testing.assert_close(posterior.mmse_z, posterior.model.prior.decode_mean(z, (3, 64, 64)))

    @pytest.mark.parametrize("call", ["quantile", "interval", "error_quantile"])
    def test_probabilities_are_checked(self, posterior, call):
        with pytest.raises(ValueError, match=r"probability in \[0, 1\]; received 90"):
            getattr(posterior, call)(90)

    def test_counts_are_checked(self, posterior):
        with pytest.raises(ValueError, match="num_samples must be a whole number of at least 1; received 0"):
            posterior.mmse_x(0)

    def test_what_is_handed_out_may_be_written_to(self, posterior):
        kept = posterior.mmse_x(4, seed=1).clone()
        posterior.mmse_x(4, seed=1).zero_()
        torch.testing.assert_close(posterior.mmse_x(4, seed=1), kept)

    def test_the_measurement_given_may_be_written_to(self, cae):
        y = torch.rand(1, 3, 64, 64)
        found = pv.restore(y, PHYSICS, cae, num_steps=1, seed=0, progress=False, precision="float32")
        before = found.y.clone()
        y.zero_()
        torch.testing.assert_close(found.y, before)


class TestStreaming:
    def test_moments_of_uneven_chunks(self):
        x = torch.randn(100, 7, dtype=torch.float64) + 1e4
        moments = Moments()
        for chunk in x.split([1, 30, 2, 67]):
            moments.update(chunk)
        torch.testing.assert_close(moments.mean, x.mean(0))
        torch.testing.assert_close(moments.std, x.std(0))

    def test_no_samples_have_no_statistics(self):
        class Empty(pv.samples.Samples):
            def chunks(self, num_samples, *, seed=None):
                return iter(())

        none = Empty((1, 3, 8, 8))
        for statistic in (none.std, none.mmse_x, lambda: none.quantile(0.5), none.sample):
            with pytest.raises(ValueError, match="one sample or more; received none"):
                statistic()

    @pytest.mark.parametrize("draw", [torch.randn, torch.rand, lambda *s: -torch.rand(*s).log()])
    def test_histogram_quantiles_are_those_of_all_samples(self, draw):
        x = draw(3000, 50)
        levels = torch.tensor([0.01, 0.1, 0.5, 0.9, 0.99])
        found = streamed_quantiles(lambda: x.split(17), levels, len(x))
        bin_width = 2 * (x[:128].amax(0) - x[:128].amin(0)) / 256
        for level, value in zip(levels, found, strict=True):  # the sample fractions either side bracket the level
            assert bool(((x <= value + bin_width).float().mean(0) >= level - 1 / 3000).all())
            assert bool(((x < value - bin_width).float().mean(0) <= level + 1 / 3000).all())

    @pytest.mark.parametrize("n", [20, 100, 128, 129, 200, 1000])
    def test_intervals_hold_another_draw_with_their_probability(self, n):
        """Exactly, by exchangeability; here of 4,000 pixels, and beyond 128 samples up to the width of a bin."""
        low, high = streamed_quantiles(lambda: torch.randn(n, 4000).split(17), torch.tensor([0.05, 0.95]), n)
        coverage = torch.special.ndtr(high) - torch.special.ndtr(low)
        assert float(coverage.mean()) == pytest.approx(0.9, abs=5 * float(coverage.std()) / 4000**0.5 + 0.001)

    @pytest.mark.parametrize("n", [140, 200, 1000])
    def test_either_tail_has_its_probability_beyond_128_samples(self, n):
        """A quantile a rank too high or too low shows at one end."""
        levels = torch.tensor([0.005, 0.05, 0.95, 0.995])
        draws = torch.randn(n, 20_000, generator=torch.Generator().manual_seed(n))
        found, exact = streamed_quantiles(lambda: draws.split(17), levels, n), sorted_quantiles(draws, levels)
        below, expected = (torch.special.ndtr(value).mean(1) for value in (found, exact))
        torch.testing.assert_close(below, expected, rtol=0, atol=5e-4)

    @pytest.mark.parametrize("order", ["sorted", "in blocks"])
    def test_early_samples_need_not_be_like_late_ones(self, order):
        """As chains one after another, or fits that disagree: ranges double until they hold all samples."""
        blocks = [torch.randn(300, 40) * 0.01 + centre for centre in (0.2, 0.5, 7.0, -3.0)]
        x = torch.cat(blocks) if order == "in blocks" else torch.cat(blocks).sort(0).values
        levels = torch.tensor([0.05, 0.3, 0.6, 0.95])
        found = streamed_quantiles(lambda: x.split(64), levels, len(x))
        exact = torch.stack([sixth_definition(x, float(q)) for q in levels])
        assert float((found - exact).abs().max()) < 2 * 10.0 * 2 / 256

    def test_infinite_samples_count_as_the_largest(self):
        x = torch.randn(300, 5)
        x[200:210] = torch.inf
        found = streamed_quantiles(lambda: x.split(50), torch.tensor([0.5, 0.95]), 300)
        torch.testing.assert_close(found[0], sixth_definition(x, 0.5), atol=0.05, rtol=0)
        assert bool(found.isfinite().all())

    def test_constant_pixels(self):
        x = torch.full((500, 3), 0.25)
        found = streamed_quantiles(lambda: x.split(50), torch.tensor([0.1, 0.9]), 500)
        torch.testing.assert_close(found, torch.full((2, 3), 0.25), rtol=0, atol=1e-5)

    def test_memory_does_not_grow_with_the_number_of_samples(self, gaussian_posterior, monkeypatch):
        """The largest number of values alive in chunks and state is the same for 1,000 and for 10,000 samples."""
        posterior, _, _ = gaussian_posterior
        monkeypatch.setattr("pyro_vble.samples.kept._KEEP_VALUES", 0)
        monkeypatch.setattr("pyro_vble.samples.posterior._PIXELS_AT_ONCE", {"cpu": 64 * 16})
        peaks = {}
        for n in (1000, 10_000):
            sizes = []
            original = _streaming._Histogram.update

            def update(self, chunk, sizes=sizes, original=original):
                original(self, chunk)
                first = sum(kept.numel() for kept in self._first or ())
                sizes.append(chunk.numel() + (first or self.counts.numel()))

            monkeypatch.setattr(_streaming._Histogram, "update", update)
            posterior.quantile(0.9, n)
            peaks[n] = max(sizes)
            monkeypatch.setattr(_streaming._Histogram, "update", original)
        assert peaks[1000] == peaks[10_000]

    def test_sorting_in_blocks(self, monkeypatch):
        x = torch.rand(20, 1000)
        whole = streamed_quantiles(lambda: [x], torch.tensor([0.3]), 20)
        monkeypatch.setattr(_streaming, "_SORT_BUDGET", 100)
        torch.testing.assert_close(streamed_quantiles(lambda: [x], torch.tensor([0.3]), 20), whole)


class TestSamples:
    def test_latents_and_predictive(self, posterior):
        latents = posterior.sample_latents(6)
        assert {k: tuple(v.shape[:2]) for k, v in latents.items()} == {"h": (6, 2), "z": (6, 2), "x_decentered": (6, 2)}
        assert posterior.predictive(4).shape == (4, 2, 3, 64, 64)

    def test_predictive_is_the_image_plus_noise(self, gaussian_posterior):
        posterior, mean, std = gaussian_posterior
        y = posterior.predictive(20_000)
        error = 5 / 20_000**0.5
        assert float(((y.mean(0) - mean) / std).abs().max()) < error
        assert float((y.var(0) / (std**2 + 0.01) - 1).abs().max()) < 2 * error

    def test_repr(self, posterior):
        assert "VBLExz" in repr(posterior)
        assert "after 3 steps" in repr(posterior)


def test_public_names():
    for name in pv.__all__:
        assert getattr(pv, name) is not None
    assert set(pv.__all__) <= set(dir(pv))
    with pytest.raises(AttributeError, match="no attribute 'restoree'"):
        _ = pv.restoree
