"""A Gaussian whose channels are correlated, against torch's Gaussian of every position."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from pyro_vble.distributions import ChannelCorrelation, ChannelGaussian

CHANNELS, HEIGHT, WIDTH = 5, 3, 2
SHAPE = (2, CHANNELS, HEIGHT, WIDTH)


@pytest.fixture(params=[1, 3, 7])
def parts(request):
    generator = torch.Generator().manual_seed(request.param)
    normal = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return normal(*SHAPE), normal(*SHAPE).exp(), normal(*SHAPE), normal(2, CHANNELS, request.param)


@pytest.fixture
def q(parts):
    loc, scale, gain, factor = parts
    return ChannelGaussian(loc, scale, ChannelCorrelation(gain, factor))


@pytest.fixture
def reference(parts):
    loc, scale, gain, factor = (value.movedim(1, -1) if value.dim() == 4 else value for value in parts)
    common = gain[..., None] * factor[:, None, None]
    covariance = torch.linalg.inv(torch.eye(CHANNELS, dtype=torch.float64) + common @ common.mT)
    scale = scale / covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    return MultivariateNormal(loc, scale[..., None] * covariance * scale[..., None, :])


def test_log_prob_is_that_of_every_position(q, reference):
    value = torch.randn(4, *SHAPE, dtype=torch.float64)
    torch.testing.assert_close(q.log_prob(value), reference.log_prob(value.movedim(2, -1)).sum((-2, -1)))


def test_moments(q, reference):
    torch.testing.assert_close(q.mean, reference.mean.movedim(-1, 1))
    torch.testing.assert_close(q.variance, reference.variance.movedim(-1, 1))


def test_the_root_is_one_of_the_covariance(q, reference):
    """The covariance of what the columns of the identity become, which is exact."""
    size = CHANNELS * HEIGHT * WIDTH
    columns = torch.eye(size, dtype=torch.float64).reshape(size, 1, *SHAPE[1:]).expand(-1, 2, -1, -1, -1)
    root = (q.scale * q.correlation.correlated(columns)).flatten(2)
    covariance = torch.einsum("kbi,kbj->bij", root, root).reshape(2, CHANNELS, -1, CHANNELS, HEIGHT * WIDTH)
    for p in range(HEIGHT * WIDTH):
        found, expected = covariance[:, :, p, :, p], reference.covariance_matrix.flatten(1, 2)[:, p]
        torch.testing.assert_close(found, expected)
    assert float(covariance[:, :, 0, :, 1].abs().max()) < 1e-12


def test_draws_have_its_moments(q):
    drawn = q.rsample((20_000,))
    error = q.variance.sqrt() / math.sqrt(20_000)
    assert bool(((drawn.mean(0) - q.mean).abs() < 5 * error).all())
    torch.testing.assert_close(drawn.var(0), q.variance, rtol=0.06, atol=0)


def test_expanded_it_is_the_same(q):
    wide = q.expand((6, 2))
    value = wide.rsample()
    assert value.shape == (6, *SHAPE)
    torch.testing.assert_close(wide.log_prob(value), q.log_prob(value))
    assert wide.variance.shape == value.shape


def test_the_gradient_of_the_entropy(parts):
    """The entropy is a constant and the logarithms of the standard deviations."""
    loc, scale, gain, factor = parts
    scale.requires_grad_()
    q = ChannelGaussian(loc, scale, ChannelCorrelation(gain, factor))
    (-q.log_prob(q.rsample())).sum().backward()
    torch.testing.assert_close(scale.grad, 1 / scale.detach())


def test_without_gain_values_are_independent(parts):
    loc, scale, gain, factor = parts
    q = ChannelGaussian(loc, scale, ChannelCorrelation(0 * gain, factor))
    value = torch.randn(SHAPE, dtype=torch.float64)
    expected = torch.distributions.Normal(loc, scale).log_prob(value).sum((-3, -2, -1))
    torch.testing.assert_close(q.log_prob(value), expected)


def test_precision_is_kept_under_autocast(parts):
    loc, scale, gain, factor = (value.float() for value in parts)
    value = torch.randn(SHAPE)
    expected = ChannelGaussian(loc, scale, ChannelCorrelation(gain, factor)).log_prob(value)
    with torch.autocast("cpu", torch.bfloat16):
        found = ChannelGaussian(loc, scale, ChannelCorrelation(gain, factor)).log_prob(value)
    torch.testing.assert_close(found, expected)


def test_arguments_are_checked(parts):
    loc, scale, gain, factor = parts
    with pytest.raises(ValueError, match="scale"):
        ChannelGaussian(loc, -scale, ChannelCorrelation(gain, factor), validate_args=True)
