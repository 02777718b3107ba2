"""Read noise and gain of a sensor from the flat places of one image."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from deepinv.physics import PoissonGaussianNoise
from scipy.fft import dctn
from scipy.optimize import nnls
from scipy.stats import chi2

from pyro_vble._arguments import CountOrZero, Flag, checked
from pyro_vble._tensors import RealTensor

# Side of a patch, and from which sum of its two frequencies on a coefficient of its cosine transform is for noise.
_SIDE, _HIGH, _HIGHEST = 8, 10, 12
_SUM = np.add.outer(np.arange(_SIDE), np.arange(_SIDE))
# Ranges of brightness in each of which the flattest patches are where the search starts, and which part of them.
_RANGES, _FLATTEST, _FEWEST = 12, 0.02, 5
# Flat patches have less energy of low frequencies than this quantile of what noise alone would give them; and of those
# the ones with more energy of high frequencies than the second quantile are left out, which the estimate allows for.
_FLAT, _KEPT = 0.99, 0.9
_PASSES, _RESAMPLED = 20, 200
# With fewer patches two numbers and their errors are no more than guesses.
_LEAST_PATCHES = 30
# So many times the deviation of rounding are nothing but that; and how many values tell the step.
_ROUNDING, _SAMPLE = 1.5, 200_000


@dataclass(frozen=True)
class NoiseCalibration:
    """Noise of variance sigma0² + gain · signal, on the scale of the image.

    Attributes:
        sigma0: Standard deviation in the dark, of rounding too.
        gain: Increase of the variance with the signal.
        sigma0_error: Standard error of sigma0.
        gain_error: That of the gain.
        correlation: Between the errors of sigma0² and gain: near -1, one grows as the other falls.
        patches: How many flat patches they are read off.
        darkest: Mean of the darkest of these.
        brightest: Of the brightest. Beyond them the noise is extrapolated.
        step: Smallest difference between values of the image; 0 where it has no steps.
    """

    sigma0: float
    gain: float
    sigma0_error: float
    gain_error: float
    correlation: float
    patches: int
    darkest: float
    brightest: float
    step: float

    @property
    def only_rounding(self) -> bool:
        """Whether what was found is no more than the rounding of the values: an image that was resampled or denoised.

        Its real noise is then correlated, and larger.
        """
        return self.std((self.darkest + self.brightest) / 2) < _ROUNDING * self.step / 12**0.5

    def noise_model(self) -> Any:
        """The noise as a deepinv noise model, for an operator."""
        return PoissonGaussianNoise(gain=max(self.gain, 1e-12), sigma=self.sigma0)

    def std(self, signal: float) -> float:
        """Standard deviation of the noise at a signal."""
        return float(np.sqrt(self.sigma0**2 + self.gain * max(signal, 0.0)))


@checked
def calibrate_noise(
    image: RealTensor, *, per_band: Flag = False, seed: CountOrZero = 0
) -> NoiseCalibration | tuple[NoiseCalibration, ...]:
    r"""Estimate the noise of a sensor, of variance sigma0² + K · signal, from one image.

    .. math:: \operatorname{var}(y_i) = \sigma_0^2 + K\,(Ax)_i

    The image is cut into patches of 8x8. Of the cosine coefficients of a patch those of low frequency tell whether it
    is flat, those of high frequency how noisy: in white noise the former say nothing of the latter, so that choosing
    flat patches does not choose quiet ones. Variances are regressed on means, weighted by what they are known to err
    by; patches beyond the 0.9 quantile of what the fit expects, of fine texture, are left out and allowed for
    (a truncated chi-squared). Errors are of a bootstrap over patches, and of the difference between the highest
    frequencies and all high ones, which texture would make.

    The noise must be **white**: of an image that was resampled, compressed or denoised the high frequencies hold too
    little, and what is estimated is too low. Of noise blurred to a transfer of 0.5 at Nyquist it is a third; of
    orthorectified Pléiades crops little more than their rounding, 0.4 to 0.5 of a step (``only_rounding`` says so up to
    0.43). Few patches of a large image are a sign. What a photograph has of its own noise is estimated with it. Patches
    in which the largest or smallest value of a band occurs twice are taken for saturated.

    Measured with known noise added (sigma0 .01 and gain .001; .002 and .0002): on 31 aerial images of 256x256, blurred
    to a transfer of 0.15, the standard deviation at 0.4 was within 4 % (10 % for the low noise), 1 % in the median, and
    intervals of two standard errors held 90 to 100 % of the true values.

    References:
        | Practical Poissonian-Gaussian noise modeling and fitting for single-image raw-data (Foi et al., 2008)
        | https://doi.org/10.1109/TIP.2008.2001399
        | Analysis and extension of the Ponomarenko et al. method (Colom and Buades, 2013), for the two sets of
          frequencies
        | https://doi.org/10.5201/ipol.2013.45

    Args:
        image: Images (*, C, H, W) or (H, W), as they were measured, not restored; NaN where missing.
        per_band: Whether every band has its own noise. Several images are of one sensor.
        seed: Of the bootstrap.

    Returns:
        The calibration; with ``per_band`` one for each.

    Raises:
        TypeError: If the image is no tensor of floating-point numbers.
        ValueError: If less than 30 patches are flat, or the patches have all one brightness.

    Example:
        >>> import torch
        >>> from pyro_vble.physics import calibrate_noise
        >>> ramp = torch.linspace(0.1, 0.9, 256).expand(1, 1, 256, 256)
        >>> noisy = ramp + (0.01**2 + 0.001 * ramp).sqrt() * torch.randn(ramp.shape)
        >>> found = calibrate_noise(noisy)
        >>> abs(found.gain - 0.001) < 4 * found.gain_error, found.patches > 900
        (True, True)
    """
    if image.dim() < 2:
        raise ValueError(f"image must be (*, C, H, W) or (H, W); received shape {tuple(image.shape)}.")
    values = image.detach().cpu().double().numpy()
    values = values.reshape(-1, *(values.shape[-3:] if values.ndim > 2 else (1, *values.shape[-2:])))
    bands = [np.concatenate([_patches(one[band]) for one in values]) for band in range(values.shape[1])]
    step = _step(values)
    if per_band:
        return tuple(_calibrated(patches, step, seed) for patches in bands)
    return _calibrated(np.concatenate(bands), step, seed)


def _step(values: np.ndarray) -> float:
    """The smallest difference between values, where they lie on a grid; 0 where they do not."""
    known = values[np.isfinite(values)]
    sample = known[:: len(known) // _SAMPLE + 1]
    levels = np.unique(sample)
    if len(levels) < 2 or len(levels) > len(sample) / 2:
        return 0.0
    apart = np.diff(levels)
    return float(np.median(apart[apart < 1.5 * apart.min()]))


def _patches(band: np.ndarray) -> np.ndarray:
    """Patches (n, 8, 8) of one band without missing or saturated values."""
    rows, columns = (side // _SIDE for side in band.shape)
    cut = band[: rows * _SIDE, : columns * _SIDE].reshape(rows, _SIDE, columns, _SIDE)
    patches = cut.transpose(0, 2, 1, 3).reshape(-1, _SIDE, _SIDE)
    patches = patches[np.isfinite(patches).all((1, 2))]
    if not len(patches):
        return patches
    patches = patches[np.ptp(patches, (1, 2)) > 0]
    if not len(patches):
        return patches
    ends = [(patches == end).sum((1, 2)) for end in (np.nanmin(band), np.nanmax(band))]
    return patches[(ends[0] < 2) & (ends[1] < 2)]


def _calibrated(patches: np.ndarray, step: float, seed: int) -> NoiseCalibration:
    coefficients = (
        np.zeros((0, _SIDE, _SIDE)) if not len(patches) else np.asarray(dctn(patches, axes=(1, 2), norm="ortho"))
    )
    coefficients, means = coefficients**2, patches.reshape(-1, _SIDE * _SIDE).mean(1)
    low = coefficients[:, (_SUM > 0) & (_SUM < _HIGH)].mean(1)
    flat = _flat(means, low, coefficients[:, _SUM >= _HIGH])
    if int(flat.sum()) < _LEAST_PATCHES:
        raise ValueError(
            f"At least {_LEAST_PATCHES} flat patches of {_SIDE}x{_SIDE} pixels are needed; received an image with "
            f"{int(flat.sum())} (of {len(patches)} without missing or saturated values); use a larger or calmer one."
        )
    means, high, highest = means[flat], coefficients[flat][:, _SUM >= _HIGH], coefficients[flat][:, _SUM >= _HIGHEST]
    found = _line(means, high)
    if not found.any():
        raise ValueError(
            "An image whose noise is estimated must have some; received one that is constant, or the same to rounding, "
            "in its flat places; use deepinv.physics.ZeroNoise()."
        )
    random = np.random.default_rng(seed)
    again = []
    for _ in range(_RESAMPLED):
        chosen = random.integers(len(means), size=len(means))
        again.append(_line(means[chosen], high[chosen], found))
    covariance = np.cov(np.array(again).T)
    # Both are right in white noise; of texture less is left the higher the frequency.
    apart = found - _line(means, highest, found)
    errors = np.sqrt(np.diag(covariance) + apart**2)
    spread = np.sqrt(np.diag(covariance))
    sigma0 = float(np.sqrt(found[0]))
    return NoiseCalibration(
        sigma0=sigma0,
        gain=float(found[1]),
        # Of a root near zero the square's error says more than its derivative.
        sigma0_error=float(min(errors[0] / (2 * max(sigma0, 1e-12)), np.sqrt(errors[0]))),
        gain_error=float(errors[1]),
        correlation=float(covariance[0, 1] / max(spread[0] * spread[1], 1e-300)),
        patches=len(means),
        darkest=float(means.min()),
        brightest=float(means.max()),
        step=step,
    )


def _flat(means: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Which patches are flat: their energy of low frequencies is that of the noise."""
    flat = np.zeros(len(means), dtype=bool)
    if len(means) < _LEAST_PATCHES:
        return flat
    ranges = np.array_split(np.argsort(means, kind="stable"), _RANGES)
    for own in ranges:
        flat[own[np.argsort(low[own], kind="stable")[: max(_FEWEST, round(_FLATTEST * len(own)))]]] = True
    count = int(((_SUM > 0) & (_SUM < _HIGH)).sum())
    limit = chi2.ppf(_FLAT, count) / count
    for _ in range(_PASSES):
        line = _line(means[flat], high[flat])
        now = low < limit * _variance(line, means)
        if int(now.sum()) < _LEAST_PATCHES or bool((now == flat).all()):
            break
        flat = now
    return flat


def _line(means: np.ndarray, squares: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
    """Variance in the dark and gain, (2,), of squared coefficients (n, k) of noise at these means."""
    k = squares.shape[1]
    variances = squares.mean(1)
    limit = chi2.ppf(_KEPT, k) / k
    # The mean of a chi-squared that is cut off there.
    cut = chi2.cdf(limit * k, k + 2) / _KEPT
    design = np.stack([np.ones_like(means), means], 1)
    line = np.array([np.median(variances), 0.0]) if start is None else start
    for _ in range(_PASSES):
        expected = _variance(line, means)
        kept = variances < limit * expected
        if int(kept.sum()) < 2:
            break
        weight = 1 / expected[kept]
        new, _ = nnls(design[kept] * weight[:, None], variances[kept] / cut * weight)
        if np.allclose(new, line, rtol=1e-6, atol=1e-300):
            break
        line = new
    return line


def _variance(line: np.ndarray, means: np.ndarray) -> np.ndarray:
    """The variance at these means; never zero, which no patch would be below."""
    found = line[0] + line[1] * np.maximum(means, 0)
    return np.maximum(found, 1e-6 * max(float(found.max()), 1e-12))
