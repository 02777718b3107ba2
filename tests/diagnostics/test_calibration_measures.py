"""Diagnostics of samples whose calibration is known."""

import math

import matplotlib
import numpy as np
import pytest
import torch
from scipy import stats

from pyro_vble import diagnostics as d

matplotlib.use("Agg")

SHAPE = (2, 3, 90, 80)
N = math.prod(SHAPE)
NO_BORDER = {"border": 0, "spacing": 1}


@pytest.fixture
def truth():
    return torch.randn(SHAPE)


def samples(n: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(n, *SHAPE)


@pytest.mark.parametrize("n", [1, 9, 60])
def test_the_transform_of_calibrated_samples_is_uniform_whatever_their_number(truth, n):
    u = d.pit(samples(n), truth, seed=0)
    # Truths are independent but samples of a pixel are its own: all u are independent.
    assert stats.kstest(u.flatten().numpy(), "uniform").pvalue > 1e-3


def test_ties_are_broken_at_random():
    u = d.pit(torch.zeros(9, 1, 1, 50, 50), torch.zeros(1, 1, 50, 50), seed=0)
    assert stats.kstest(u.flatten().numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_coverage_is_that_of_gaussian_theory(truth, scale):
    curve = d.coverage_curve(samples(400, scale), truth, levels=[0.5, 0.9], **NO_BORDER)
    for nominal, observed in zip(curve.nominal, curve.observed, strict=True):
        expected = 1 - 2 * stats.norm.cdf(-scale * stats.norm.ppf(0.5 + nominal / 2))
        # Binomial error of 43,200 pixels, and the quantiles' own error with 400 samples, second order.
        assert abs(observed - expected) < 5 * math.sqrt(expected * (1 - expected) / N) + 0.005


def test_bands_are_binomial(truth):
    curve = d.coverage_curve(samples(20), truth, levels=[0.9], **NO_BORDER)
    assert curve.num_independent == N // 3, "bands of a pixel go together"
    half = stats.norm.ppf(0.975) * math.sqrt(0.09 / (N // 3))
    np.testing.assert_allclose([curve.low[0], curve.high[0]], [0.9 - half, 0.9 + half], atol=6 / N)
    thinned = d.coverage_curve(samples(20), truth, levels=[0.9], border=0, spacing=8)
    assert thinned.num_independent == N // 3 // 64
    assert curve.at(0.45) == pytest.approx(float(np.interp(0.45, [0, 0.9], [0, curve.observed[0]])))


def test_histograms_show_intervals_too_narrow_and_too_wide(truth):
    low, high = d.pit_histogram(samples(60), truth, bins=10, probability=0.9999, **NO_BORDER).band
    calibrated = d.pit_histogram(samples(60), truth, bins=10, **NO_BORDER)
    assert ((calibrated.density > low) & (calibrated.density < high)).all()
    assert calibrated.density.mean() == pytest.approx(1)
    narrow = d.pit_histogram(samples(60, 0.5), truth, bins=10, **NO_BORDER).density
    wide = d.pit_histogram(samples(60, 2.0), truth, bins=10, **NO_BORDER).density
    assert narrow[0] > 1.5 > 1 > narrow[5]
    assert wide[0] < 1 < wide[5]


def test_z_scores(truth):
    zeta = d.z_score_map(3 + samples(200, 2.0), truth)
    # Mean 3 of 200 samples of standard deviation 2.
    assert float(zeta.mean()) == pytest.approx(-1.5, abs=0.02)
    assert float(zeta.std()) == pytest.approx(0.5, abs=0.02)


def test_error_by_predicted_standard_deviation():
    std = torch.linspace(0.1, 1.0, 90 * 80).reshape(1, 1, 90, 80).expand(SHAPE)
    found = d.error_by_std(std * samples(200) * 0.5, std * torch.randn(SHAPE), bins=5, border=0)
    # Half the spread: error 1, predicted 1/2, and the mean of 200 samples adds 1/800.
    np.testing.assert_allclose(found.ratio, 4, rtol=0.1)
    assert (np.diff(found.std) > 0).all()


def test_crps_of_gaussian_samples_is_the_closed_form(truth):
    # Gneiting and Raftery (2007), section 4.2, for N(0, 1).
    expected = truth * (2 * torch.special.ndtr(truth) - 1) + 2 * torch.exp(-(truth**2) / 2) / (2 * math.pi) ** 0.5
    expected -= math.pi**-0.5
    score = d.crps(samples(300), truth)
    assert score.shape == truth.shape
    # The estimator is unbiased; a pixel's standard error is below 1 / sqrt(300).
    assert float((score - expected).mean().abs()) < 5 / math.sqrt(300 * N)
    assert float((score - expected).std()) < 300**-0.5
    with pytest.raises(ValueError, match="at least 2 samples"):
        d.crps(samples(1), truth)


def test_the_interval_score_punishes_misses():
    inside, outside = (torch.full((1, 1, 30, 30), v) for v in (0.5, 1.5))
    uniform = torch.rand(2000, 1, 1, 30, 30)
    assert float(d.interval_score(uniform, inside, 0.8).mean()) == pytest.approx(0.8, abs=0.01)
    # 0.8 wide, and missed by 0.6 at 2 / 0.2 each.
    assert float(d.interval_score(uniform, outside, 0.8).mean()) == pytest.approx(0.8 + 6, abs=0.1)
    with pytest.raises(ValueError, match="between 0 and 1"):
        d.interval_score(uniform, inside, 90)


def test_a_posterior_and_its_samples_are_measured_alike(cae, denoising):
    import pyro_vble as pv
    from pyro_vble.guides import VBLExz

    x = torch.rand(1, 3, 64, 64)
    posterior = pv.restore(x, denoising, cae, VBLExz, num_steps=2, seed=0, progress=False)
    drawn = posterior.sample(20)
    torch.testing.assert_close(d.pit(posterior, x, num_samples=20), d.pit(drawn, x, seed=0))
    torch.testing.assert_close(
        d.z_score_map(posterior, x, num_samples=20), d.z_score_map(drawn, x), rtol=1e-3, atol=1e-3
    )
    torch.testing.assert_close(d.crps(posterior, x, num_samples=20), d.crps(drawn, x))
    torch.testing.assert_close(d.interval_score(posterior, x, num_samples=20), d.interval_score(drawn, x))
    found = d.error_quantile(posterior, x, num_samples=20)
    torch.testing.assert_close(found.error, (x - drawn.mean(0)).abs())
    assert found.share == pytest.approx(
        float((found.error <= found.predicted)[..., 5:-5, 5:-5].double().mean()), abs=1e-12
    )


def test_figures_are_labelled(truth, cae, denoising):
    import matplotlib.pyplot as plt

    import pyro_vble as pv

    n = samples(20)
    posterior = pv.restore(truth.sigmoid()[..., :64, :64], denoising, cae, num_steps=2, seed=0, progress=False)
    quantile = d.error_quantile(posterior, truth.sigmoid()[..., :64, :64], num_samples=5)
    drawn = [
        d.plot_coverage({"a": d.coverage_curve(n, truth), "b": d.coverage_curve(2 * n, truth)}),
        d.plot_pit_histogram(d.pit_histogram(n, truth)),
        d.plot_z_score_map(d.z_score_map(n, truth)[0]),
        d.plot_error_by_std(d.error_by_std(n, truth)),
        d.plot_score_map(d.crps(n, truth)[0]),
        *d.plot_error_quantile(quantile),
    ]
    for ax in drawn:
        assert ax.get_title()
        labels = [other.get_ylabel() for other in ax.figure.axes] + [ax.get_xlabel()]
        assert any(labels), "axes or colour bar are labelled"
    plt.close("all")


def test_errors(truth):
    with pytest.raises(ValueError, match="shape of one sample"):
        d.pit(samples(3), truth[:1])
    with pytest.raises(TypeError, match="a posterior, or a tensor"):
        d.pit([1, 2], truth)
    with pytest.raises(ValueError, match="levels must be a list of probabilities"):
        d.coverage_curve(samples(3), truth, levels=[90])
    unknown = truth.clone()
    unknown[..., :45, :] = torch.nan
    curve = d.coverage_curve(samples(60), unknown, levels=[0.9], **NO_BORDER)
    assert abs(float(curve.observed[0]) - 0.9) < 0.02, "what is not known is no miss"
    assert curve.num_pixels == N // 2
    assert np.isfinite(d.error_by_std(samples(20), unknown).ratio).all()
    with pytest.raises(ValueError, match="spacing must be a whole number of at least 1"):
        d.coverage_curve(samples(3), truth, spacing=0)


def few_scores(count: int) -> d.Calibration:
    """A calibration of one group of so many scores, those of a standard normal."""
    levels = (np.arange(count) + 0.5) / count
    return d.Calibration((), (tuple(stats.halfnorm.ppf(levels).tolist()),), 10, 10 * count)


def test_the_curve_of_a_calibration_has_the_levels_that_its_scores_can_tell(cae, denoising):
    import pyro_vble as pv

    x = torch.rand(1, 3, 64, 64)
    posterior = pv.restore(x, denoising, cae, num_steps=2, seed=0, progress=False)
    curve = d.coverage_curve(posterior.calibrated(few_scores(30)), x, num_samples=10)
    assert curve.nominal.max() == 0.95, "0.99 would need 99 scores"
    assert d.coverage_curve(posterior.calibrated(few_scores(500)), x, num_samples=10).nominal.max() == 0.99
    with pytest.raises(ValueError, match="levels must have one that the calibration can tell, at most"):
        d.coverage_curve(posterior.calibrated(few_scores(1)), x, levels=[0.9], num_samples=10)


OF_SAMPLES = [d.pit, d.pit_histogram, d.coverage_curve, d.crps, d.interval_score, d.error_by_std, d.error_quantile]


@pytest.mark.parametrize("measure", [*OF_SAMPLES, d.z_score_map])
class TestUnknown:
    def test_samples_must_be_finite(self, truth, measure):
        broken = samples(20)
        broken[3, 0, 0, 5, 5] = torch.nan
        with pytest.raises(ValueError, match="samples must be finite"):
            measure(broken, truth)

    def test_a_truth_of_which_nothing_is_known(self, truth, measure):
        with pytest.raises(ValueError, match="truth must have a known value"):
            measure(samples(20), torch.full_like(truth, torch.nan))

    def test_only_the_border_is_known(self, truth, measure):
        border = truth.clone()
        border[..., 5:-5, 5:-5] = torch.nan
        if measure in (d.pit, d.crps, d.interval_score, d.z_score_map):
            found = measure(samples(20), border)
            assert torch.equal(found.isnan(), border.isnan())
        else:
            with pytest.raises(ValueError, match="known value"):
                measure(samples(20), border)

    def test_junk(self, truth, measure):
        for wrong in (None, "posterior", truth.numpy(), truth.long(), truth.to(torch.complex64)):
            with pytest.raises(TypeError, match="samples must be a posterior, or a tensor"):
                measure(wrong, truth)
            with pytest.raises(TypeError, match="truth must be a tensor of floating-point numbers"):
                measure(samples(3), wrong)
        with pytest.raises(TypeError, match="num_samples must be a whole number"):
            measure(samples(3), truth, num_samples="many")
