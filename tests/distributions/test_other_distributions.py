import pytest
import torch
from scipy import stats

from pyro_vble.distributions import AutoregressiveGaussianUniform, CentredUniform, GaussianUniform, ScaledPoisson


class TestCentredUniform:
    def test_own_samples_always_have_density(self):
        # Rounding puts many of these draws a bit outside [loc - a/2, loc + a/2].
        q = CentredUniform(torch.full((100_000,), 1000.0), torch.full((100_000,), 1e-3))
        assert torch.isfinite(q.log_prob(q.rsample())).all()

    def test_density_outside_is_zero(self):
        q = CentredUniform(torch.tensor(2.0), torch.tensor(1.0))
        assert q.log_prob(torch.tensor(2.51)) == -torch.inf
        assert float(q.log_prob(torch.tensor(1.51))) == 0.0

    def test_quantiles_and_moments(self):
        q = CentredUniform(torch.tensor(2.0), torch.tensor(3.0))
        reference = stats.uniform(0.5, 3.0)
        for level in (0.0, 0.1, 0.5, 1.0):
            assert float(q.icdf(torch.tensor(level))) == pytest.approx(reference.ppf(level))
            assert float(q.cdf(q.icdf(torch.tensor(level)))) == pytest.approx(level)
        assert float(q.variance) == pytest.approx(reference.var())

    def test_gradient_of_the_entropy(self):
        width = torch.tensor(0.25, requires_grad=True)
        q = CentredUniform(torch.tensor(0.0), width)
        (-q.log_prob(q.rsample())).backward()
        assert float(width.grad) == pytest.approx(4.0)


class TestScaledPoisson:
    def test_log_prob_is_poissons(self):
        rate, gain = torch.tensor([0.1, 0.5, 2.0]), 0.05
        y = torch.tensor([0.0, 0.45, 2.1])
        expected = stats.poisson(rate.numpy() / gain).logpmf((y.numpy() / gain).round())
        torch.testing.assert_close(
            ScaledPoisson(rate, gain).log_prob(y), torch.as_tensor(expected).float(), rtol=1e-4, atol=1e-4
        )

    def test_zero_rate(self):
        p = ScaledPoisson(torch.zeros(2), 0.1)
        assert float(p.log_prob(torch.tensor([0.0, 0.0])).sum()) == 0.0
        assert float(p.log_prob(torch.tensor([0.0, 1.0]))[1]) < -500

    def test_sample_moments(self):
        p = ScaledPoisson(torch.tensor(3.0), 0.5)
        draws = p.sample((40_000,))
        assert float(draws.mean()) == pytest.approx(3.0, abs=4 * (1.5 / 40_000) ** 0.5)
        assert float(draws.var()) == pytest.approx(1.5, rel=0.05)


class TestAutoregressive:
    @pytest.fixture
    def p(self):
        context = torch.nn.Conv2d(2, 4, 3, padding=1).double()
        with torch.no_grad():
            context.weight[:, :, 1, 1:] = 0
            context.weight[:, :, 2:] = 0
        mixing = torch.nn.Conv2d(7, 4, 1).double()

        def parameters(features):
            loc, scale = mixing(features).chunk(2, dim=1)
            return loc, 0.3 + scale.exp()

        hyper = torch.randn(5, 3, 4, 3, dtype=torch.float64)
        return AutoregressiveGaussianUniform(hyper, context.requires_grad_(False), parameters)

    @torch.no_grad()
    def test_conditionals_are_causal(self, p):
        z = torch.randn(5, 2, 4, 3, dtype=torch.float64)
        changed = z.clone()
        changed[:, :, 2, 1] += 1.0
        difference = (p.conditional(z).mean - p.conditional(changed).mean).abs().amax((0, 1))
        before = torch.zeros(4, 3, dtype=torch.bool)
        before[:2], before[2, :2] = True, True
        assert (difference[before] == 0).all()
        assert difference[2, 2] > 0

    @torch.no_grad()
    def test_the_sampler_samples_what_log_prob_scores(self, p):
        """With the sampled value, standardised residuals of the parallel conditionals are uniform under their cdf."""
        z = p.expand((200, 5)).sample()
        levels = p.expand((200, 5)).conditional(z).cdf(z)
        assert stats.kstest(levels.flatten().numpy(), "uniform").pvalue > 1e-3
        assert (
            abs(float(torch.corrcoef(torch.stack((levels[..., 1, 1].flatten(), levels[..., 1, 2].flatten())))[0, 1]))
            < 0.1
        )

    @torch.no_grad()
    def test_log_prob_is_the_sum_of_the_conditionals(self, p):
        z = p.sample()
        parts = p.conditional(z)
        expected = GaussianUniform(parts.loc, parts.scale).log_prob(z).sum((1, 2, 3))
        torch.testing.assert_close(p.log_prob(z), expected)
        assert p.log_prob(z.expand(3, *z.shape)).shape == (3, 5)
