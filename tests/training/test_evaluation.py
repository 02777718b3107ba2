import math

import pytest
import torch
from helpers import linear_vae, small_network

from pyro_vble.models import CAE
from pyro_vble.training import calibration, evaluate


class Scale(torch.nn.Module):
    """A standard deviation for every pixel, known beforehand."""

    def __init__(self, std):
        super().__init__()
        self.std = std

    def forward(self, z):
        return self.std.expand(len(z), *self.std.shape).to(z.dtype)


def noisy_flat_prior(std, claimed):
    """A VAE that decodes 1/2 everywhere, images of it with errors of ``std``, and a claim about those errors."""
    prior = linear_vae(torch.zeros(std.numel(), 2), torch.full((std.numel(),), 0.5), 1.0, tuple(std.shape))
    prior.decoder_std = Scale(claimed)
    images = [0.5 + std * torch.randn(std.shape, dtype=torch.float64) for _ in range(20)]
    return prior, images


@pytest.mark.parametrize("factor", [1.0, 0.5, 2.0])
def test_calibration_is_the_ratio_of_true_to_predicted_variance(factor):
    std = torch.linspace(0.01, 0.2, 64 * 64, dtype=torch.float64).reshape(1, 64, 64)
    prior, images = noisy_flat_prior(std, factor * std)
    result = calibration(prior, images)
    assert list(result.std) == sorted(result.std)
    # A mean of n squares of normals has a relative standard error of sqrt(2/n); five of them, in each of ten deciles.
    count = 20 * 64 * 64 / 10
    # Within a decile the larger variances weigh more: the two widest ones differ by a factor of 400 in the first.
    error = 5 * math.sqrt(2 / count) * 1.5
    assert result.ratio == pytest.approx([1 / factor**2] * 10, rel=error)


def test_calibration_of_a_constant_does_not_follow_the_order_of_pixels():
    """All predicted variances are equal, the errors are not: every decile sees all of them."""
    std = torch.linspace(0.01, 0.2, 64 * 64, dtype=torch.float64).reshape(1, 64, 64)
    prior, images = noisy_flat_prior(std, torch.full_like(std, float(std.square().mean().sqrt())))
    ratio = calibration(prior, images).ratio
    # Fourth moment over squared second, of the mixture: Var(e²)/E[e²]² = 3 E[s⁴]/E[s²]² - 1.
    spread = 3 * float(std.pow(4).mean() / std.square().mean() ** 2) - 1
    assert ratio == pytest.approx([1.0] * 10, abs=5 * math.sqrt(spread / (20 * 64 * 64 / 10)))


def test_evaluation_of_known_errors():
    std = torch.full((1, 32, 32), 0.05, dtype=torch.float64)
    prior, _ = noisy_flat_prior(std, std)
    images = [
        torch.full((1, 32, 32), 0.5 + 0.1, dtype=torch.float64),
        torch.full((1, 32, 32), 0.4, dtype=torch.float64),
    ]
    result = evaluate(prior, images)
    assert result.num_images == 2
    assert result.psnr == pytest.approx(20.0)
    # What is not rate is -log2 of a Gaussian at two standard deviations.
    assert result.loss - result.rate == pytest.approx(
        (0.5 * 4 + math.log(0.05) + 0.5 * math.log(2 * math.pi)) / math.log(2), rel=1e-6
    )
    assert result.bpp_quantised is None


@pytest.mark.parametrize("scale", [1.0, 0.5])
@torch.no_grad()
def test_the_quantised_figures_are_compressais(cae, scale):
    x = torch.rand(1, 3, 70, 100)
    result = evaluate(cae.with_rate_scale(scale), [x])
    network = small_network()
    padded = torch.nn.functional.pad(x, (0, 28, 0, 58), mode="replicate")
    out = network(scale * padded)
    mse = float(((out["x_hat"][..., :70, :100] / scale).clamp(0, 1) - x).square().mean())
    assert result.psnr_quantised == pytest.approx(-10 * math.log10(mse), rel=1e-5)
    bits = float(sum(-likelihood.log2().sum() for likelihood in out["likelihoods"].values()))
    assert result.bpp_quantised == pytest.approx(bits / 7000, rel=1e-5)


def test_evaluation_is_repeatable_and_leaves_the_generator_alone(cae):
    images = [torch.rand(3, 64, 64)]
    state = torch.random.get_rng_state()
    assert evaluate(cae, images) == evaluate(cae, images)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_no_image():
    prior = CAE(small_network(), 0.025)
    with pytest.raises(ValueError, match="at least one image"):
        evaluate(prior, [])
    with pytest.raises(ValueError, match="at least one image"):
        calibration(prior, [])
