"""Does the posterior explain its measurement?"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pyro_vble._arguments import Count, CountOrZero, Positive, Seed, checked
from pyro_vble.diagnostics import _structure
from pyro_vble.diagnostics._source import OnePosterior, draw_map
from pyro_vble.physics import Jointly, noise_level, observed_mask
from pyro_vble.samples import Posterior


@dataclass(frozen=True)
class PredictiveCheck:
    """Residuals of a measurement, in units of the noise, beside those of measurements replicated from the posterior.

    Attributes:
        discrepancy: Mean squared residual of y for each posterior draw, (n, B).
        replicated: The same of one measurement simulated from each draw, (n, B): near 1 by construction.
        residual: Mean residual of every value of y over the draws, (B, ...); NaN where nothing was observed.
        autocorrelation: Correlation of a draw's residuals at neighbouring pixels, mean over the draws, (B,). NaN where
            y is no image.
        spectrum: Power of a draw's residual in bands of rising spatial frequency over that of white noise, mean over
            the draws, (B, K). NaN where y is no image.
        rise: The largest rise of the spectrum with frequency, less what is chance, as a factor, (B,); NaN where y is no
            image.
        image_residual: Mean square of (x - D(z)) / sigma(z) over the draws, (B,): 1 under the prior. NaN where the
            image is no latent.
        noise: Typical standard deviation of the noise on [0, 1].
        parts: Of several measurements of one image in a row (:func:`~pyro_vble.physics.joined`), the check of each.
    """

    discrepancy: Tensor
    replicated: Tensor
    residual: Tensor
    autocorrelation: Tensor
    spectrum: Tensor
    rise: Tensor
    image_residual: Tensor
    noise: float = math.nan
    parts: "tuple[PredictiveCheck, ...]" = ()

    @property
    def ratio(self) -> Tensor:
        """Root mean square of what is left of each measurement over that of the noise, (B,): 1 is right."""
        return (self.discrepancy.mean(0) / self.replicated.mean(0)).sqrt()

    @property
    def p_value(self) -> Tensor:
        """Share of the draws whose replicated measurement is further off than the real one, (B,)."""
        return (self.replicated >= self.discrepancy).float().mean(0)

    @property
    def frequencies(self) -> tuple[float, ...]:
        """Middle of the bands of ``spectrum``, in cycles per pixel of y."""
        return _structure.centres()

    @property
    def statistics(self) -> dict[str, Tensor]:
        """What :attr:`explained` looks at, by name, each (B,)."""
        return {
            "ratio": self.ratio,
            "autocorrelation": self.autocorrelation,
            "rise": self.rise,
            "image_residual": self.image_residual,
        }

    @property
    def explained(self) -> Tensor:
        """Whether nothing speaks against operator, noise and fit, (B,). It does not say that they are right."""
        broken = [self._beyond(name) for name in LIMITS] + [~part.explained for part in self.parts]
        return ~torch.stack(broken).any(0)

    @checked
    def reasons(self, image: CountOrZero = 0) -> tuple[str, ...]:
        """What speaks against operator, noise and fit of one image of the batch, in words; nothing if it is explained.

        Of noise that is less than any that the limits were found with, the last says so. What speaks against one of
        several measurements names it by its number.

        Raises:
            ValueError: If there is no such image.
        """
        size = self.discrepancy.shape[1]
        if not 0 <= image < size:
            raise ValueError(f"image must be one of the batch, 0 to {size - 1}; received {image}.")
        told = []
        for name, (low, high) in LIMITS.items():
            if bool(self._beyond(name)[image]):
                value = float(self.statistics[name][image])
                told.append(_WORDS[name][value > high].format(value=value, low=low, high=high))
        if told and self.noise < _LEAST_NOISE:
            told.append(_LITTLE_NOISE.format(noise=self.noise, least=_LEAST_NOISE))
        for number, part in enumerate(self.parts, 1):
            told += [f"measurement {number}: {reason}" for reason in part.reasons(image)]
        return tuple(told)

    def _beyond(self, name: str) -> Tensor:
        """Where a statistic is outside its limits; NaN is not."""
        low, high = LIMITS[name]
        value = self.statistics[name]
        return (value < low) | (value > high)


#: Lowest and highest value of each statistic that count as explained. Calibrated on right operators: 17 problems
#: (Gaussian blurs of 1 to 3 pixels, a motion blur, x2, x4, inpainting, denoising, noise .003 to .1), three to six crops
#: of 128x128 of BSDS500's training photographs each, 80 fits by VBLE-xz with a free mean. ``ratio`` was 0.98 to
#: 1.29 (1.25 and below at noise of .01 and more), ``autocorrelation`` 0.01 to 0.33 (0.19), ``rise`` 0.60 to 1.05, and
#: ``image_residual`` 0.82 to 1.00: none was beyond a limit. Of white noise, 1 % of 128x128 images exceed that of
#: ``rise``.
LIMITS = {
    "ratio": (0.85, 1.4),
    "autocorrelation": (-math.inf, 0.4),
    "rise": (-math.inf, 1.08),
    "image_residual": (-math.inf, 1.06),
}

# The least noise on [0, 1] that the limits were found with, and what is to be said of less.
_LEAST_NOISE = 0.003
_LITTLE_NOISE = (
    "but the noise, {noise:.2g}, is less than {least:g}, of which right operators leave as much: this decides nothing"
)

# What a statistic below, and above, its limits means.
_WORDS = {
    "ratio": (
        "the residual is {value:.2g} times the noise (about 1 is expected): the noise level told is too high",
        "the residual is {value:.2g} times the noise (about 1 is expected): noise above the level told, another "
        "operator, or detail that guide and prior have no room for",
    ),
    "autocorrelation": (
        "",
        "neighbouring residuals are correlated ({value:.2f}; right operators stay below {high:.2f}): a wrong blur is "
        "the usual cause",
    ),
    "rise": (
        "",
        "the residual's power rises {value:.2f}-fold with spatial frequency (right operators stay below {high:.2f}): a "
        "blur believed too wide is the usual cause",
    ),
    "image_residual": (
        "",
        "the image departs {value:.2f} times as much from its decoding as the prior allows (at most {high:.2f} is "
        "expected): noise above the level told, or another operator",
    ),
}


@checked
def predictive_check(posterior: OnePosterior, *, num_samples: Count = 100, seed: Seed | None = None) -> PredictiveCheck:
    r"""Compare a measurement with what its own posterior would measure: no truth is needed.

    .. math:: T(y, x) = \operatorname{mean}_i \frac{(y_i - E[y_i|x])^2}{\operatorname{var}[y_i|x]}, \qquad
        x \sim q(x|y), \qquad p = P\big(T(y', x) \ge T(y, x)\big), \quad y' \sim p(y'|x)

    Three things are looked at, and ``explained`` and ``reasons`` sum them up: the size of the residual (``ratio``), its
    structure, if y is an image (``autocorrelation`` and ``spectrum``: noise is white, and what a right operator leaves
    falls with frequency), and, with VBLE-xz, how far the image departs from its decoding (``image_residual``).

    They find a noise level that is wrong by a factor of two (by 1.4 in deblurring, seldom in denoising), a blur
    believed far too wide, and one a little so where the noise is low. They do **not** find what some other image
    explains as well as the truth: a blur believed too narrow (its restoration is smooth, as some photographs are), a
    point-spread function turned by 180 degrees, another factor of downscaling. Nor do they find a fit that has not
    converged. So "explained" does not mean that the operator is right. ``docs/diagnostics.md`` has the measured table.

    Limits are for noise of 0.003 and more on [0, 1]; below, right operators are told as unexplained too, and
    ``reasons`` says so. VBLE, and
    VBLE-xz without a free mean, leave what the decoder has no room for, in denoising above all, which is told as well.
    With as many values as an image has, p is 0 or 1 for deviations far too small to matter.

    References:
        | Posterior predictive assessment of model fitness via realized discrepancies (Gelman, Meng and Stern, 1996),
          section 2
        | https://www.jstor.org/stable/24306036
        | Bayesian model assessment using pivotal quantities (Johnson, 2007), for the image's own residual
        | https://doi.org/10.1214/07-BA229

    Args:
        posterior: A posterior whose operator is known.
        num_samples: Number of draws.
        seed: Seed of the draws; that of the posterior by default.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If the model has no operator, as after loading without one.

    Example:
        >>> import torch, deepinv
        >>> import pyro_vble as pv
        >>> from pyro_vble.diagnostics import predictive_check
        >>> from pyro_vble.guides import VBLE
        >>> physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))
        >>> y = 0.5 + 0.2 * torch.randn(1, 3, 64, 64)  # twice the noise that the operator tells of
        >>> posterior = pv.restore(y, physics, "cae-bsd", VBLE, seed=0, num_steps=30, progress=False)
        >>> check = predictive_check(posterior, num_samples=20)
        >>> bool(check.ratio > 1.5), bool(check.explained)
        (True, False)
        >>> print(check.reasons()[0][:15])
        the residual is
    """
    chunks = posterior.mapped(_residuals, num_samples, seed=posterior.lasting_seed(seed))
    physics, y, device = posterior.model.physics, posterior.y, posterior.output_device
    whole, *parts = [
        _summed_up(list(view), values, observed, device)
        for view, values, observed in zip(
            zip(*chunks, strict=True), _views(physics, y), _views(physics, observed_mask(physics, y)), strict=True
        )
    ]
    parameters = posterior.model.initial_parameters(y)
    noise = noise_level(physics, y, posterior.shape[1:], parameters)
    if isinstance(physics, Jointly):
        parts = [
            replace(part, noise=noise_level(one, values, posterior.shape[1:], physics.parameters_of(k, parameters)))
            for k, (part, one, values) in enumerate(zip(parts, physics.physics_list, physics.split(y), strict=True))
        ]
    return replace(whole, noise=noise, parts=tuple(parts))


def _views(physics: Any, values: Tensor) -> list[Tensor]:
    """A measurement, or what has its shape, and after it each of those that it is made of, if it is of several."""
    return [values, *physics.split(values)] if isinstance(physics, Jointly) else [values]


def _summed_up(chunks: list[tuple[Tensor, ...]], y: Tensor, observed: Tensor, device: torch.device) -> PredictiveCheck:
    """The statistics of all draws, of one measurement."""
    real, replicated, sums, neighbours, power, image_residual = zip(*chunks, strict=True)
    residual = torch.where(observed, sum(sums) / sum(map(len, real)), torch.nan)
    spectrum = torch.cat(power).mean(0)
    is_image = _structure.is_image(y.shape)
    rise = _structure.rise(spectrum, tuple(y.shape[1:])) if is_image else spectrum.new_full((len(y),), torch.nan)
    return PredictiveCheck(
        discrepancy=torch.cat(real).to(device),
        replicated=torch.cat(replicated).to(device),
        residual=residual.to(device),
        autocorrelation=torch.cat(neighbours).mean(0).to(device),
        spectrum=spectrum.to(device),
        rise=rise.to(device),
        image_residual=torch.cat(image_residual).mean(0).to(device),
    )


@checked
def plot_residual(check: PredictiveCheck, image: CountOrZero = 0, *, ax: Any = None, limit: Positive = 4.0) -> Any:
    """Draw the residual of one measurement (an image), bands averaged; returns the axes."""
    if not 0 <= image < len(check.residual) or check.residual.dim() < 3:
        raise ValueError(
            f"image must be one of a batch of images, 0 to {len(check.residual) - 1}; received {image} for residuals "
            f"of shape {tuple(check.residual.shape)}."
        )
    title = f"Residual, {float(check.ratio[image]):.2f} times the noise"
    label = "residual / standard deviation of the noise"
    return draw_map(check.residual[image], ax, title=title, label=label, cmap="RdBu_r", vmin=-limit, vmax=limit)


@torch.no_grad()
def _residuals(fit: Posterior, n: int) -> list[tuple[Tensor, ...]]:
    """Statistics of n draws of each view of the measurement, each (n, B) or (n, B, K), and the sum of their residuals.

    Mean squared residuals of the measurement and of replications, the sum, autocorrelation, spectrum, and the mean
    square of the image's own residual, which belongs to the first view alone.
    """
    y, physics = fit.y, fit.model.physics
    p_y, latents = fit.replay(fit.model.measurement, n)
    p_y = p_y.expand((n, *y.shape))
    observed = observed_mask(physics, y).expand(p_y.batch_shape)
    mean, std = p_y.mean, p_y.variance.sqrt()
    residual, noise = (torch.where(observed, (value - mean) / std, 0.0) for value in (y, p_y.sample()))
    unknown = residual.new_full((n, len(y)), torch.nan)
    own = latents.get("x_decentered")
    own = unknown if own is None else own.expand(n, len(y), *own.shape[2:]).square().flatten(2).mean(2)
    views = zip(*(_views(physics, value) for value in (residual, noise, observed)), strict=True)
    return [(*_statistics(*view), own if number == 0 else unknown) for number, view in enumerate(views)]


def _statistics(residual: Tensor, noise: Tensor, observed: Tensor) -> tuple[Tensor, ...]:
    """Mean squares of residual and noise (n, B, ...), the sum of the former, its autocorrelation and spectrum."""
    count = observed.flatten(2).sum(2)
    squares = [value.square().flatten(2).sum(2) / count for value in (residual, noise)]
    if _structure.is_image(residual.shape[1:]):
        structure = _structure.autocorrelation(residual, observed), _structure.spectrum(residual, observed)
    else:
        unknown = residual.new_full(residual.shape[:2], torch.nan)
        structure = unknown, unknown[..., None].expand(-1, -1, len(_structure.centres()))
    return *squares, residual.sum(0), *structure
