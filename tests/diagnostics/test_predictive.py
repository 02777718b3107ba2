"""Residuals of a measurement, where a linear model tells what they must be."""

from dataclasses import replace
from functools import partial

import deepinv
import matplotlib
import pytest
import torch
from deepinv.physics import Denoising, GaussianNoise
from helpers import linear_vae

import pyro_vble as pv
from pyro_vble import Posterior
from pyro_vble import diagnostics as d
from pyro_vble.diagnostics._structure import autocorrelation, is_image, rise, spectrum
from pyro_vble.diagnostics.predictive import LIMITS
from pyro_vble.guides import VBLE, VBLExz
from pyro_vble.models import RestorationModel
from pyro_vble.physics.problems import deblurring, gaussian_kernel

matplotlib.use("Agg")

SIDE, SIGMA = 16, 0.5
N = SIDE**2


def exact(told: float, made: float, physics=None) -> Posterior:
    """The exact posterior of x = z ~ N(0, 1), y = x + noise, for a level that is told and another that was made."""
    prior = linear_vae(torch.eye(N), torch.zeros(N), 0.1, (1, SIDE, SIDE))
    model = RestorationModel(prior, physics or Denoising(GaussianNoise(told)))
    y = torch.randn(3, 1, SIDE, SIDE, dtype=torch.float64)
    y = y + made * torch.randn_like(y)
    guide = VBLE(model, y.clamp(0, 1))
    with torch.no_grad():
        guide.factors["z"].loc.copy_(y.flatten(1) / (1 + told**2))
        guide.factors["z"].free_std = torch.full((3, N), told / (1 + told**2) ** 0.5, dtype=torch.float64)
    return Posterior(model, guide, y, precision="float64", seed=0)


def expected(y: torch.Tensor, told: float) -> torch.Tensor:
    """T's mean over the posterior: its square of bias, and its variance, over that of the noise."""
    return y.square().mean((1, 2, 3)) * told**2 / (1 + told**2) ** 2 + 1 / (1 + told**2)


@pytest.mark.parametrize("made", [SIGMA, 2 * SIGMA, SIGMA / 2])
def test_the_ratio_is_that_of_the_closed_form(made):
    posterior = exact(SIGMA, made)
    check = d.predictive_check(posterior, num_samples=200)
    assert check.discrepancy.shape == check.replicated.shape == (200, 3)
    # Of N values and 200 draws: T's own standard error is about sqrt(2 / (200 N)), that of a replicated one likewise.
    error = 5 * (2 / (200 * N)) ** 0.5
    torch.testing.assert_close(check.discrepancy.mean(0), expected(posterior.y, SIGMA), atol=error * 2, rtol=0)
    torch.testing.assert_close(check.replicated.mean(0), torch.ones(3).double(), atol=error, rtol=0)
    torch.testing.assert_close(check.ratio, (check.discrepancy.mean(0) / check.replicated.mean(0)).sqrt())
    bias = posterior.y * SIGMA / (1 + SIGMA**2)
    torch.testing.assert_close(check.residual, bias, atol=5 * (1 + SIGMA**2) ** -0.5 / 200**0.5, rtol=0)


def test_where_model_and_measurement_agree_p_is_no_extreme_and_where_not_it_is():
    assert all(0.001 < float(p) < 0.999 for p in d.predictive_check(exact(SIGMA, SIGMA), num_samples=1000).p_value)
    # T is 2.4 in the mean, sixteen standard deviations of a replicated one.
    assert d.predictive_check(exact(SIGMA, 6 * SIGMA), num_samples=100).p_value.tolist() == [0, 0, 0]


def test_what_was_not_observed_does_not_count():
    mask = (torch.arange(N).reshape(1, SIDE, SIDE) % 2).double()
    physics = deepinv.physics.Inpainting((1, SIDE, SIDE), mask=mask, noise_model=GaussianNoise(SIGMA))
    posterior = exact(SIGMA, SIGMA, physics)
    posterior.y[0, 0, 3] = torch.nan
    check = d.predictive_check(posterior, num_samples=50)
    unseen = (mask == 0).expand(3, -1, -1, -1).clone()
    unseen[0, 0, 3] = True
    assert torch.equal(check.residual.isnan(), unseen)
    assert bool((check.ratio - 1).abs().max() < 0.2)


def test_several_fits_a_seed_and_a_figure(bundled):
    physics = Denoising(GaussianNoise(0.1))
    options = {"num_steps": 4, "seed": 0, "progress": False, "num_fits": 2}
    posterior = pv.restore(torch.rand(1, 3, 64, 64), physics, bundled, **options)
    checks = [d.predictive_check(posterior, num_samples=6) for _ in range(2)]
    assert checks[0].discrepancy.shape == (6, 1)
    assert torch.equal(checks[0].discrepancy, checks[1].discrepancy)
    axes = d.plot_residual(checks[0])
    assert axes.get_title().startswith("Residual, ")


def test_without_an_operator_it_says_what_to_do(bundled):
    posterior = pv.restore(
        torch.rand(1, 3, 64, 64), Denoising(GaussianNoise(0.1)), bundled, num_steps=1, progress=False
    )
    posterior.model.physics = None
    with pytest.raises(ValueError, match="pass physics="):
        d.predictive_check(posterior)


class TestStructure:
    SHAPE = (40, 3, 64, 64)

    def test_white_noise_has_none(self):
        noise, seen = torch.randn(self.SHAPE), torch.ones(self.SHAPE, dtype=torch.bool)
        power = spectrum(noise, seen)
        torch.testing.assert_close(power.mean(0), torch.ones(power.shape[1]), atol=0.1, rtol=0)
        assert float(autocorrelation(noise, seen).abs().max()) < 5 / (2 * noise[0].numel()) ** 0.5
        # Three standard errors are taken off: few of the largest of many rises are left.
        assert float((rise(power, self.SHAPE[1:]) > LIMITS["rise"][1]).float().mean()) < 0.1

    def test_unobserved_values_do_not_count(self):
        seen = torch.rand(self.SHAPE) < 0.5
        noise = torch.randn(self.SHAPE) * seen
        assert float(spectrum(noise, seen).mean()) == pytest.approx(1, abs=0.02)
        smooth = (noise + noise.roll(1, -1)) * 0.5**0.5
        mask = torch.ones_like(seen)
        mask[..., :32, :] = False
        assert float(autocorrelation(smooth * mask, mask).mean()) == pytest.approx(0.25, abs=0.02)

    def test_smooth_and_rough_noise(self):
        noise, seen = torch.randn(self.SHAPE), torch.ones(self.SHAPE, dtype=torch.bool)
        for sign, correlation in ((1, 0.25), (-1, -0.25)):  # rows alone are correlated, by 1/2
            found = (noise + sign * noise.roll(1, -1)) * 0.5**0.5
            assert float(autocorrelation(found, seen).mean()) == pytest.approx(correlation, abs=0.01)
            rises = rise(spectrum(found, seen), self.SHAPE[1:])
            assert bool((rises > LIMITS["rise"][1]).all()) == (sign < 0)

    def test_what_is_no_image_or_too_small_has_no_structure(self):
        assert not is_image((2, 100))
        assert not is_image((2, 3, 8, 64))
        assert bool(rise(torch.ones(2, 13), (1, 16, 16)).isnan().all())


def photograph(side: int = 96) -> torch.Tensor:
    import skimage.data

    x = torch.from_numpy(skimage.data.astronaut().copy()).permute(2, 0, 1)[None].float() / 255
    return x[..., 60 : 60 + side, 180 : 180 + side].contiguous()


def checked_with(true, believed, prior) -> d.PredictiveCheck:
    y = true(photograph())
    guide = partial(VBLExz, free_mean=True)
    return d.predictive_check(pv.restore(y, believed, prior, guide, seed=0, progress=False), num_samples=8)


@pytest.mark.slow
def test_a_blur_believed_too_wide_is_found_and_the_right_one_is_explained(bundled):
    right, wide = (deblurring(0.01, gaussian_kernel(width)) for width in (1.5, 2.5))
    check = checked_with(right, right, bundled)
    assert check.explained.tolist() == [True]
    assert check.reasons() == ()
    assert set(check.statistics) == set(LIMITS)
    assert check.spectrum.shape == (1, len(check.frequencies))
    wrong = checked_with(right, wide, bundled)
    assert wrong.explained.tolist() == [False]
    assert any("blur believed too wide" in reason for reason in wrong.reasons(0))
    with pytest.raises(ValueError, match="image must be one of the batch, 0 to 0; received 1"):
        wrong.reasons(1)


@pytest.mark.slow
def test_noise_that_the_image_takes_up_is_found(bundled):
    check = checked_with(Denoising(GaussianNoise(0.06)), Denoising(GaussianNoise(0.03)), bundled)
    assert bool(check.ratio < 1.4), "a free mean explains y"
    assert bool(check.image_residual > LIMITS["image_residual"][1])
    assert any("departs" in reason for reason in check.reasons())
    assert not bool(check.explained)


def test_without_a_latent_image_the_rest_is_looked_at():
    check = d.predictive_check(exact(SIGMA, SIGMA), num_samples=20)
    assert bool(check.image_residual.isnan().all())
    assert check.explained.tolist() == [True] * 3
    assert not bool(d.predictive_check(exact(SIGMA, 10 * SIGMA), num_samples=20).explained.any())


def test_less_noise_than_the_limits_know_of_is_told():
    """Of a measurement that is not explained, and of noise that the limits were found with nothing is added."""
    for told, caveat in ((0.001, True), (0.01, False)):
        check = d.predictive_check(exact(told, told), num_samples=20)
        check = replace(check, discrepancy=4 * check.discrepancy)
        reasons = check.reasons()
        assert reasons
        assert ("this decides nothing" in reasons[-1]) == caveat
        assert check.noise == pytest.approx(told)


def test_of_several_measurements_the_one_that_is_not_explained_is_named():
    """Two of the same image, the second four times as noisy as told: both have a check of their own."""
    prior = linear_vae(torch.eye(N), torch.zeros(N), 0.1, (1, SIDE, SIDE))
    x = torch.randn(3, 1, SIDE, SIDE, dtype=torch.float64)
    measured = [x + level * torch.randn_like(x) for level in (SIGMA, 4 * SIGMA)]
    y, physics = pv.physics.joined(measured, [Denoising(GaussianNoise(SIGMA)) for _ in measured])
    model = RestorationModel(prior, physics)
    guide = VBLE(model, y)
    precision = 1 + 2 / SIGMA**2
    with torch.no_grad():
        guide.factors["z"].loc.copy_(sum(measured).flatten(1) / SIGMA**2 / precision)
        guide.factors["z"].free_std = torch.full((3, N), precision**-0.5, dtype=torch.float64)
    check = d.predictive_check(Posterior(model, guide, y, precision="float64", seed=0), num_samples=50)
    assert [part.residual.shape for part in check.parts] == [(3, 1, SIDE, SIDE)] * 2
    # The whole is the mean of the two, which are equally large.
    both = torch.stack([part.discrepancy for part in check.parts]).mean(0)
    torch.testing.assert_close(check.discrepancy, both)
    assert all(part.noise == pytest.approx(SIGMA, rel=1e-6) for part in check.parts)
    # Half of the second's deviation is believed to be the image's: two of its four sigmas are left, and two are there.
    assert bool((check.parts[1].ratio > 1.5).all())
    assert not check.explained.any()
    named = [reason for reason in check.reasons() if reason.startswith("measurement 2: the residual is")]
    assert len(named) == 1
    assert bool(check.parts[1].autocorrelation.isfinite().all())
    assert bool(check.autocorrelation.isnan().all())
