import pytest
import torch
from scipy import stats

from pyro_vble.distributions import FactorizedEntropy
from pyro_vble.models import networks


@pytest.fixture
def bottleneck():
    bottleneck = networks.compressai().entropy_models.EntropyBottleneck(2).double()
    with torch.no_grad():  # away from its symmetric initial state
        for bias in bottleneck.biases:
            bias.add_(torch.randn_like(bias))
        for factor in bottleneck.factors:
            factor.add_(0.3 * torch.randn_like(factor))
    return bottleneck.requires_grad_(False)


def entropy_model(bottleneck, shape=(2, 1, 1)):
    return FactorizedEntropy(
        lambda t: bottleneck._logits_cumulative(t, stop_gradient=False), shape, dtype=torch.float64
    )


def test_agrees_with_compressai_where_that_is_not_clamped(bottleneck):
    t = torch.linspace(-40, 40, 161, dtype=torch.float64)
    theirs = bottleneck._likelihood(t.expand(2, 1, -1))[0].reshape(2, 1, -1)
    ours = entropy_model(bottleneck, (2, 1, 161)).log_prob(t.expand(2, 1, -1)).exp()
    kept = theirs > 1e-9
    torch.testing.assert_close(ours[kept], theirs[kept], rtol=1e-5, atol=0)


def test_density_integrates_to_one_with_the_stated_moments_and_cdf(bottleneck):
    t = torch.linspace(-1000, 1000, 400_001, dtype=torch.float64)
    p = entropy_model(bottleneck, (2, 1, len(t)))
    density = p.log_prob(t.expand(2, 1, -1)).exp()
    torch.testing.assert_close(torch.trapezoid(density, t), torch.ones(2, 1, dtype=torch.float64), rtol=0, atol=1e-6)
    few = entropy_model(bottleneck)
    mean = torch.trapezoid(t * density, t)
    torch.testing.assert_close(few.mean.squeeze(-1), mean, rtol=0, atol=2e-3)
    variance = torch.trapezoid((t - mean[..., None]) ** 2 * density, t)
    torch.testing.assert_close(few.variance.squeeze(-1), variance, rtol=2e-3, atol=0)
    integral = torch.cumulative_trapezoid(density, t)
    at = torch.arange(150_000, 250_000, 1000)
    cdf = entropy_model(bottleneck, (2, 1, len(at))).cdf(t[at + 1].expand(2, 1, -1))
    torch.testing.assert_close(cdf, integral[..., at], rtol=0, atol=1e-5)


def test_samples_follow_the_cdf(bottleneck):
    p = entropy_model(bottleneck)
    samples = p.sample((5000,))
    for channel in range(2):
        values = samples[:, channel, 0, 0]
        cdf = entropy_model(bottleneck, (5000, 2, 1, 1)).cdf(samples)[:, channel, 0, 0]
        assert stats.kstest(cdf.numpy(), "uniform").pvalue > 1e-3, values


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_is_finite_fifty_standard_deviations_out(bottleneck, dtype):
    bottleneck = bottleneck.to(dtype)
    p = FactorizedEntropy(lambda t: bottleneck._logits_cumulative(t, stop_gradient=False), (2, 1, 1), dtype=dtype)
    for sign in (-1, 1):
        h = (p.mean + sign * 50 * p.variance.sqrt()).detach().requires_grad_()
        log_p = p.log_prob(h)
        log_p.sum().backward()
        assert torch.isfinite(log_p).all()
        assert torch.isfinite(h.grad).all()
        assert (sign * h.grad < 0).all(), "the gradient must lead back to the mass"


def test_samples_carry_the_gradient_of_the_cdf():
    location = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    p = FactorizedEntropy(lambda t: 3.0 * (t - location), (1, 1, 1), dtype=torch.float64)
    draws = p.rsample((7,))
    (gradient,) = torch.autograd.grad(draws.sum(), location)
    assert float(gradient) == pytest.approx(7, rel=1e-6)  # shifting c shifts every draw


def test_expand_and_shape_check(bottleneck):
    p = entropy_model(bottleneck).expand((3, 2, 4, 4))
    assert p.sample().shape == (3, 2, 4, 4)
    assert p.log_prob(torch.zeros(3, 2, 4, 4, dtype=torch.float64)).shape == (3, 2, 4, 4)
    with pytest.raises(ValueError, match="channels, height, width"):
        entropy_model(bottleneck, (2,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_uniform_number_of_zero_is_no_outlier(dtype, monkeypatch):
    """Both ends are as far out, although torch.rand may give 0 and never 1."""
    step = torch.finfo(dtype).eps / 2
    p = FactorizedEntropy(lambda t: t, (1, 1, 2), dtype=dtype)  # c is a logistic cdf
    levels = iter([torch.tensor([[[0.0, 1 - step]]], dtype=dtype), torch.full((1, 1, 2), 0.5, dtype=dtype)])
    monkeypatch.setattr(torch, "rand", lambda *_, **__: next(levels))
    low, high = p.rsample().flatten().tolist()
    assert -low == pytest.approx(high, abs=1)
