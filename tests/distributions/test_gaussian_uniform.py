import math

import mpmath
import pytest
import torch
from scipy import stats
from torch.distributions import constraints

from pyro_vble.distributions import GaussianUniform
from pyro_vble.models import networks

VALUES = torch.linspace(-6, 6, 97, dtype=torch.float64)


@pytest.mark.parametrize("scale", [0.11, 0.5, 1.0, 7.0])
def test_agrees_with_compressai_where_that_is_not_clamped(scale):
    conditional = networks.compressai().entropy_models.GaussianConditional(None).double()
    scales, means = torch.full_like(VALUES, scale), torch.full_like(VALUES, 0.3)
    theirs = conditional._likelihood(VALUES, scales, means)
    kept = theirs > 1e-6  # their difference of two erfc loses digits below
    ours = GaussianUniform(means, scales).log_prob(VALUES).exp()
    torch.testing.assert_close(ours[kept], theirs[kept], rtol=1e-5, atol=0)


@pytest.mark.parametrize(("scale", "width"), [(0.11, 1.0), (1.0, 1.0), (0.05, 0.2), (30.0, 1.0)])
def test_density_integrates_to_one_and_cdf_is_its_integral(scale, width):
    p = GaussianUniform(torch.tensor(0.4, dtype=torch.float64), torch.tensor(scale, dtype=torch.float64), width)
    t = torch.linspace(0.4 - 12 * scale - width, 0.4 + 12 * scale + width, 200_001, dtype=torch.float64)
    density = p.log_prob(t).exp()
    integral = torch.cumulative_trapezoid(density, t)
    assert float(integral[-1]) == pytest.approx(1, abs=1e-9)
    torch.testing.assert_close(p.cdf(t[1:]), integral, rtol=0, atol=1e-7)
    mean = torch.trapezoid(t * density, t)
    assert float(mean) == pytest.approx(float(p.mean), abs=1e-8)
    assert float(torch.trapezoid((t - mean) ** 2 * density, t)) == pytest.approx(float(p.variance), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("distance", [0.0, 1.0, 50.0, 1000.0])
def test_gradient_is_finite_and_points_home_in_the_tail(dtype, distance):
    loc = torch.zeros((), dtype=dtype, requires_grad=True)
    scale = torch.ones((), dtype=dtype, requires_grad=True)
    value = torch.tensor(distance, dtype=dtype, requires_grad=True)
    GaussianUniform(loc, scale).log_prob(value).backward()
    for parameter in (loc, scale, value):
        assert torch.isfinite(parameter.grad)
    # Far out, d log p / dv tends to -(|v| - w/2) / sigma^2.
    if distance >= 50:
        assert float(value.grad) == pytest.approx(-(distance - 0.5), rel=0.03)


def test_samples_follow_the_cdf():
    p = GaussianUniform(torch.tensor(-1.0, dtype=torch.float64), torch.tensor(0.2, dtype=torch.float64))
    samples = p.sample((20_000,))
    statistic, p_value = stats.kstest(samples.numpy(), lambda t: p.cdf(torch.as_tensor(t)).numpy())
    assert p_value > 1e-3, statistic


def test_reparameterised_gradient_of_the_variance():
    scale = torch.full((400_000,), 0.7, dtype=torch.float64, requires_grad=True)
    (GaussianUniform(torch.zeros_like(scale), scale).rsample() ** 2).mean().backward()
    # d E[v^2] / d sigma = 2 sigma; its Monte Carlo error is below 0.01 at this many draws.
    assert float(scale.grad.sum()) == pytest.approx(1.4, abs=0.02)


def test_expand_and_validation():
    p = GaussianUniform(torch.zeros(3), torch.ones(3))
    q = p.expand((2, 3))
    assert q.batch_shape == (2, 3)
    assert q.sample((5,)).shape == (5, 2, 3)
    assert q.support is constraints.real
    torch.testing.assert_close(q.log_prob(torch.ones(2, 3))[0], p.log_prob(torch.ones(3)))
    with pytest.raises(ValueError, match="scale"):
        GaussianUniform(torch.zeros(1), -torch.ones(1), validate_args=True)


def test_narrow_gaussian_tends_to_the_uniform_density():
    p = GaussianUniform(torch.tensor(0.0, dtype=torch.float64), torch.tensor(1e-4, dtype=torch.float64), 0.5)
    assert float(p.log_prob(torch.tensor(0.1, dtype=torch.float64))) == pytest.approx(math.log(2), abs=1e-12)


@pytest.mark.parametrize("width", [0.3, 1.0, 4.0])
def test_first_and_second_derivatives(width):
    """By finite differences: the gradient is written by hand."""
    loc = torch.linspace(-3, 3, 7, dtype=torch.float64, requires_grad=True)
    scale = torch.linspace(0.2, 2, 7, dtype=torch.float64, requires_grad=True)
    value = torch.full((7,), 0.4, dtype=torch.float64, requires_grad=True)

    def log_density(loc, scale, value):
        return GaussianUniform(loc, scale, width, validate_args=False).log_prob(value)

    assert torch.autograd.gradcheck(log_density, (loc, scale, value))
    assert torch.autograd.gradgradcheck(log_density, (loc, scale, value))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_body_and_tail_meet(dtype, tolerance, scale):
    """Density where erfc has a value, beyond it, and at the change, against log_ndtr in double precision."""
    value = torch.linspace(0, 40 * scale + 1, 4001, dtype=torch.float64)
    upper, lower = (0.5 - value) / scale, (-0.5 - value) / scale
    larger, smaller = (torch.special.log_ndtr(t) for t in (upper, lower))
    expected = larger + torch.log(-torch.expm1(smaller - larger))
    found = GaussianUniform(torch.zeros((), dtype=dtype), torch.tensor(scale, dtype=dtype)).log_prob(value.to(dtype))
    # The rounding of the value itself moves the density by its slope, value / scale².
    rounding = torch.finfo(dtype).eps * value**2 / scale**2
    assert ((found.double() - expected).abs() <= tolerance * (1 + expected.abs()) + 2 * rounding).all()


def exact_gradient(value: float, scale: float, width: float) -> float:
    """d log p / dv to forty digits."""
    mpmath.mp.dps = 40
    v, s, w = (mpmath.mpf(t) for t in (value, scale, width))
    upper, lower = (w / 2 - abs(v)) / s, (-w / 2 - abs(v)) / s
    density = [mpmath.exp(-t * t / 2) / mpmath.sqrt(2 * mpmath.pi) for t in (lower, upper)]
    share = (mpmath.erfc(-upper / mpmath.sqrt(2)) - mpmath.erfc(-lower / mpmath.sqrt(2))) / 2
    return float(mpmath.sign(v) * (density[0] - density[1]) / share / s)


# Of a latent; of a wide one; of uniform noise of half width a, whose edges are Gaussian tails of a / 20.
FAR_OUT = [(0.11, 1.0, v) for v in (0.3, 0.5, 0.7, 1.6, 1.7, 10.0, 100.0, 1000.0)]
FAR_OUT += [(30.0, 1.0, v) for v in (3.0, 299.0, 301.0, 750.0, 760.0, 30_000.0)]
FAR_OUT += [(a / 20, 2 * a, v) for a in (0.01, 0.002, 0.001) for v in (1.01 * a, 1.6 * a, 0.2, 0.5, 1.0)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("scale", "width", "distance"), FAR_OUT)
@pytest.mark.parametrize("sign", [-1, 1])
def test_gradient_is_exact_however_far_out(dtype, scale, width, distance, sign):
    value, s, w = (torch.tensor(t, dtype=dtype) for t in (sign * distance, scale, width))
    value.requires_grad_()
    GaussianUniform(torch.zeros((), dtype=dtype), s, w).log_prob(value).backward()
    expected = exact_gradient(value.item(), s.item(), w.item())
    assert value.grad.item() == pytest.approx(expected, rel=1e-3 if dtype is torch.float32 else 1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_uniform_part_lost_in_rounding_gives_no_wild_gradient(dtype):
    value = torch.tensor([0.0, 500.0, 5e3, 2e4, 1e5, 1e6], dtype=dtype, requires_grad=True)
    GaussianUniform(torch.zeros((), dtype=dtype), torch.tensor(1e3, dtype=dtype), 1e-3).log_prob(value).sum().backward()
    assert bool(value.grad.isfinite().all())
    assert bool((value.grad.abs() <= 1.1 * value.abs() / 1e6 + 1e-3).all())
