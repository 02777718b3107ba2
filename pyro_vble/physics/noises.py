"""Noise of photons and electronics together: a variance that grows with the signal."""

from typing import Annotated, Any

import torch
from deepinv.physics import NoiseModel
from torch import Tensor

from pyro_vble._arguments import BrokenRuleError, Rule, checked, real

_SHAPES = "one for all, one an image (B,), or one a band (C, 1, 1)"


def _level(value: Any, *, zero: bool) -> Tensor:
    level = value if isinstance(value, Tensor) else torch.tensor(real(value))
    if not level.is_floating_point() or not level.numel():
        raise BrokenRuleError("type")
    if not bool(((level >= 0) if zero else (level > 0)).all() & level.isfinite().all()):
        raise BrokenRuleError("value")
    # With a dimension of the batch first nobody takes three bands for three images.
    return level[None] if level.dim() == 3 else level


def _positive(value: Any) -> Tensor:
    return _level(value, zero=False)


def _not_negative(value: Any) -> Tensor:
    return _level(value, zero=True)


PositiveLevel = Annotated[Any, Rule(f"positive and finite, a number or a floating-point tensor ({_SHAPES})", _positive)]
Level = Annotated[Any, Rule(f"finite and not negative, a number or a floating-point tensor ({_SHAPES})", _not_negative)]


class _PhotonNoise(NoiseModel):
    """What the Gaussian and the exact model share: their two numbers, of every kind of shape."""

    sigma0: Tensor
    gain: Tensor

    def __init__(self, sigma0: Tensor, gain: Tensor, rng: Any) -> None:
        super().__init__(rng=rng)
        self.register_buffer("sigma0", sigma0)
        self.register_buffer("gain", gain)

    def _levels(self, x: Tensor, seed: Any, given: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """sigma0 and gain beside a signal (B, ...), after deepinv's updates of them."""
        self.update_parameters(**given)
        self.rng_manual_seed(seed)
        self.to(x.device)
        sigma0, gain = (
            value.reshape(-1, *[1] * (x.dim() - 1)) if value.dim() == 1 else value for value in (self.sigma0, self.gain)
        )
        return sigma0.to(x), gain.to(x)


@checked
class SignalDependentNoise(_PhotonNoise):
    r"""Gaussian noise whose variance grows with the signal, band by band if wanted: a deepinv noise model.

    .. math:: y \sim \mathcal N\big(Ax,\ \sigma_0^2 + K \max(Ax, 0)\big)

    sigma0 is the noise in the dark, of reading and of dark current; K, the gain, the signal that one photon makes. What
    this Gaussian costs against photons that are counted tells :class:`PhotonNoise`.

    References:
        | Practical Poissonian-Gaussian noise modeling and fitting for single-image raw-data (Foi et al., 2008)
        | https://doi.org/10.1109/TIP.2008.2001399

    Args:
        sigma0: Standard deviation in the dark: one for all, one an image (B,), or one a band (C, 1, 1).
        gain: K, in the same shapes; 0 leaves the noise in the dark alone.
        rng: Generator of the samples.

    Raises:
        TypeError: If a level is no number.
        ValueError: If sigma0 is not positive, or the gain negative.

    Example:
        >>> import deepinv, torch
        >>> from pyro_vble.physics import SignalDependentNoise, likelihood
        >>> physics = deepinv.physics.Denoising(SignalDependentNoise(0.03, 0.0016))
        >>> likelihood(physics, torch.ones(1)).scale
        tensor([0.0500])
    """

    def __init__(self, sigma0: PositiveLevel, gain: Level, *, rng: torch.Generator | None = None) -> None:
        super().__init__(sigma0, gain, rng)

    def forward(
        self, x: Tensor, sigma0: Any = None, gain: Any = None, seed: int | None = None, **kwargs: Any
    ) -> Tensor:
        """The signal with noise."""
        sigma0, gain = self._levels(x, seed, {"sigma0": sigma0, "gain": gain})
        return x + (sigma0**2 + gain * x.clamp_min(0)).sqrt() * self.randn_like(x)


@checked
class PhotonNoise(_PhotonNoise):
    r"""Photons that are counted, read out with Gaussian noise: a deepinv noise model with the exact density.

    .. math:: y = K n + w, \qquad n \sim \mathrm{Poisson}\big(\max(Ax, 0) / K\big),\quad
        w \sim \mathcal N(0, \sigma_0^2)

    Its likelihood is :class:`~pyro_vble.distributions.PoissonGaussian`, where a table tells what the Gaussian of
    :class:`SignalDependentNoise` costs: from 10 photons a pixel on less than 0.01 nats a value. Two aerial images were
    denoised better by 0.3 and 0.5 dB with 10 photons at white, by 0.03 dB with 30, in five times the time on a CPU. A
    converter that clips or rounds does not go with it.

    Args:
        sigma0: Standard deviation of reading: one for all, one an image (B,), or one a band (C, 1, 1).
        gain: K, the signal of one photon, in the same shapes.
        rng: Generator of the samples.

    Raises:
        TypeError: If a level is no number.
        ValueError: If one is not positive.

    Example:
        >>> import deepinv, torch
        >>> from pyro_vble.physics import PhotonNoise, likelihood
        >>> physics = deepinv.physics.Denoising(PhotonNoise(0.02, 0.1))
        >>> likelihood(physics, torch.ones(1)).variance
        tensor([0.1004])
    """

    def __init__(self, sigma0: PositiveLevel, gain: PositiveLevel, *, rng: torch.Generator | None = None) -> None:
        super().__init__(sigma0, gain, rng)

    def forward(
        self, x: Tensor, sigma0: Any = None, gain: Any = None, seed: int | None = None, **kwargs: Any
    ) -> Tensor:
        """The signal with noise."""
        sigma0, gain = self._levels(x, seed, {"sigma0": sigma0, "gain": gain})
        return torch.poisson(x.clamp_min(0) / gain, generator=self.rng) * gain + sigma0 * self.randn_like(x)
