"""The density of a measurement given its noiseless signal, by noise model."""

import functools
import itertools
from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import torch
from deepinv.physics import (
    GammaNoise,
    GaussianNoise,
    LaplaceNoise,
    PoissonGaussianNoise,
    PoissonNoise,
    UniformNoise,
    ZeroNoise,
)
from torch import Tensor

from pyro_vble.distributions import GaussianUniform, Joined, PoissonGaussian, ScaledPoisson, SensedNormal
from pyro_vble.physics.joint import JointNoise
from pyro_vble.physics.noises import PhotonNoise, SignalDependentNoise
from pyro_vble.physics.parameters import with_noise_parameters
from pyro_vble.physics.sensors import Sensor, sensor_of

#: Standard deviation given to a measurement without noise: the step of 8-bit quantisation.
QUANTISATION = 1 / 255
# The same in steps of a sensor that rounds, for which its rounding is the noise.
_SOFT_STEP = 1 / 20


def likelihood(
    physics: Any, signal: Tensor, parameters: Mapping[str, Tensor] | None = None, *, event_dim: int | None = None
) -> dist.TorchDistribution:
    """The distribution p(y|x) of a measurement whose noiseless signal is A(x), elementwise.

    A sensor that clips or rounds (``physics.sensor_model``) makes it that of what the sensor returns: at its ends the
    probability of saturation, between them of what is rounded to y (:class:`~pyro_vble.distributions.SensedNormal`).

    Args:
        physics: Operator whose ``noise_model`` decides the family; without one the signal is taken as noise-free.
        signal: A(x), any shape.
        parameters: Noise parameters by name that replace the noise model's own, one value an image, (*, B) for a
            signal (*, B, ...); others are passed over.
        event_dim: Dimensions of one measurement, which tell the batch from particles before it: what the noise model
            itself holds of every image belongs to the batch. Where it is not told, measurements are taken for images.

    Raises:
        TypeError: If the noise model is of an unknown type, or the sensor does something unknown.
        ValueError: If a noise parameter is out of range.

    Example:
        >>> import torch, deepinv
        >>> from pyro_vble.physics import likelihood
        >>> physics = deepinv.physics.Denoising(deepinv.physics.LaplaceNoise(0.1))
        >>> likelihood(physics, torch.zeros(2))
        Laplace(loc: torch.Size([2]), scale: torch.Size([2]))
    """
    noise_model = with_noise_parameters(physics, parameters or {}, signal, event_dim)
    noise_model = ZeroNoise() if noise_model is None else noise_model
    return _sensed(noise_distribution(noise_model, signal), sensor_of(physics), noise_model)


def before_sensor(p_y: dist.TorchDistribution) -> dist.TorchDistribution:
    """The distribution of a measurement before its sensor clips and rounds it."""
    if isinstance(p_y, Joined):
        return Joined([before_sensor(part) for part in p_y.parts], p_y.event_dims, validate_args=False)
    return p_y.unsensed if isinstance(p_y, SensedNormal) else p_y


def _sensed(p_y: dist.TorchDistribution, sensor: Sensor, noise_model: Any) -> dist.TorchDistribution:
    if sensor.is_ideal:
        return p_y
    if not isinstance(p_y, dist.Normal):
        raise TypeError(
            "Behind a sensor that clips or rounds the noise must be Gaussian (of any variance); received "
            f"{type(noise_model).__name__} and {sensor}; mark saturated values as NaN, and set physics.sensor_model = "
            "lambda x: x."
        )
    scale = p_y.scale
    if isinstance(noise_model, ZeroNoise) and sensor.step:
        scale = torch.full_like(scale, _SOFT_STEP * sensor.step)
    return SensedNormal(
        p_y.loc, scale, low=sensor.low, high=sensor.high, step=sensor.step, shift=sensor.shift, validate_args=False
    )


@functools.singledispatch
def noise_distribution(noise_model: Any, signal: Tensor) -> dist.TorchDistribution:
    """The distribution of y given its noiseless signal, dispatched on the type of the noise model.

    A new noise model is one registered function::

        @noise_distribution.register
        def _(noise_model: MyNoise, signal):
            return dist.StudentT(4.0, signal, noise_model.scale)

    Raises:
        TypeError: If no function is registered for the type.
    """
    known = sorted(cls.__name__ for cls in noise_distribution.registry if cls is not object)
    raise TypeError(
        f"The noise model must be one whose density is known ({', '.join(known)}); received "
        f"{type(noise_model).__name__}; register its density with "
        "@pyro_vble.physics.noise_distribution.register."
    )


@noise_distribution.register
def _gaussian(noise_model: GaussianNoise, signal: Tensor) -> dist.TorchDistribution:
    """Normal(Ax, sigma²)."""
    return dist.Normal(signal, _parameter(noise_model, "sigma", signal))


@noise_distribution.register
def _zero(noise_model: ZeroNoise, signal: Tensor) -> dist.TorchDistribution:
    """Normal(Ax, q²) with q the step of 8-bit quantisation."""
    return dist.Normal(signal, torch.full_like(signal, QUANTISATION))


@noise_distribution.register
def _poisson_gaussian(noise_model: PoissonGaussianNoise, signal: Tensor) -> dist.TorchDistribution:
    """Normal(Ax, gain · max(Ax, 0) + sigma²), the usual Gaussian approximation of photon plus read noise."""
    gain = _parameter(noise_model, "gain", signal)
    sigma = _parameter(noise_model, "sigma", signal, minimum_included=True)
    # Counts are whole: without read noise their rounding, gain / sqrt(12), is what is left in the dark.
    variance = gain * signal.clamp_min(0) + torch.maximum(sigma**2, gain**2 / 12)
    return dist.Normal(signal, variance.sqrt())


@noise_distribution.register
def _signal_dependent(noise_model: SignalDependentNoise, signal: Tensor) -> dist.TorchDistribution:
    """Normal(Ax, sigma0² + gain · max(Ax, 0))."""
    gain = _parameter(noise_model, "gain", signal, minimum_included=True)
    variance = _parameter(noise_model, "sigma0", signal) ** 2 + gain * signal.clamp_min(0)
    return dist.Normal(signal, variance.sqrt())


@noise_distribution.register
def _photons(noise_model: PhotonNoise, signal: Tensor) -> dist.TorchDistribution:
    """gain · Poisson(Ax / gain) + N(0, sigma0²)."""
    gain = _parameter(noise_model, "gain", signal)
    return PoissonGaussian(_positive(signal, 0.1 * gain), gain, _parameter(noise_model, "sigma0", signal))


@noise_distribution.register
def _poisson(noise_model: PoissonNoise, signal: Tensor) -> dist.TorchDistribution:
    """gain · Poisson(Ax / gain), or Poisson(Ax / gain) where the noise model does not normalise."""
    gain = _parameter(noise_model, "gain", signal)
    rate = _positive(signal, 0.1 * gain)
    # Whether y is in image units or in counts is a tensor: it is not read back to the host.
    unit = torch.where(torch.as_tensor(noise_model.normalize).to(signal.device), gain, 1.0)
    return ScaledPoisson(rate * (unit / gain), unit)


@noise_distribution.register
def _gamma(noise_model: GammaNoise, signal: Tensor) -> dist.TorchDistribution:
    """Gamma(l, l / Ax), speckle of l looks."""
    looks = _parameter(noise_model, "l", signal).expand_as(signal)
    return dist.Gamma(looks, looks / _positive(signal, signal.new_full((), 1e-3)))


@noise_distribution.register
def _laplace(noise_model: LaplaceNoise, signal: Tensor) -> dist.TorchDistribution:
    """Laplace(Ax, b)."""
    return dist.Laplace(signal, _parameter(noise_model, "b", signal).expand_as(signal))


@noise_distribution.register
def _uniform(noise_model: UniformNoise, signal: Tensor) -> dist.TorchDistribution:
    """U(Ax ± a) convolved with a narrow Gaussian of standard deviation a/20.

    The exact density is zero outside its interval and flat inside: it has no gradient to fit anything with.
    """
    a = _parameter(noise_model, "a", signal).expand_as(signal)
    return GaussianUniform(signal, a / 20, 2 * a)


@noise_distribution.register
def _joint(noise_model: JointNoise, signal: Tensor) -> dist.TorchDistribution:
    """Each part's own, that of its sensor too."""
    dims = [len(shape) for shape in noise_model.shapes]
    parts = [
        likelihood(operator, part, parameters, event_dim=dim)
        for (operator, part, parameters), dim in zip(noise_model.parts(signal), dims, strict=True)
    ]
    return Joined(parts, dims, validate_args=False)


def _parameter(noise_model: Any, name: str, signal: Tensor, *, minimum_included: bool = False) -> Tensor:
    """A checked noise parameter, broadcastable to the signal: a scalar, one value an image, or one a value of y."""
    value = torch.as_tensor(getattr(noise_model, name)).to(signal)
    valid = value >= 0 if minimum_included else value > 0
    # As Pyro checks arguments of distributions: at the first step of a fit, not at each, for which a GPU would wait.
    if dist.is_validation_enabled() and not torch.all(valid & torch.isfinite(value)):
        raise ValueError(
            f"{name} of {type(noise_model).__name__} must be finite and "
            f"{'not negative' if minimum_included else 'positive'}; received {_brief(value)}; for a noise-free "
            "measurement use deepinv.physics.ZeroNoise(), which gets the width of 8-bit quantisation."
        )
    if value.dim() == 1 and value.numel() > 1:
        value = value.reshape(-1, *itertools.repeat(1, _event_dim(signal)))
    try:
        torch.broadcast_shapes(value.shape, signal.shape)
    except RuntimeError as error:
        raise ValueError(
            f"{name} of {type(noise_model).__name__} must be a scalar, one value an image, or broadcastable to the "
            f"measurement {tuple(signal.shape)}; received shape {tuple(value.shape)}."
        ) from error
    return value


def _positive(signal: Tensor, softness: Tensor) -> Tensor:
    """The signal made positive by a softplus of this width: a clamp would leave dark pixels without a gradient."""
    return softness * torch.nn.functional.softplus(signal / softness) + 1e-3 * softness


def _event_dim(signal: Tensor) -> int:
    """Dimensions of one measurement, if it is an image; a signal with particles has the batch one place further in."""
    return min(signal.dim() - 1, 3)


def _brief(value: Tensor) -> str:
    return f"{value.item():g}" if value.numel() == 1 else f"values from {value.min():g} to {value.max():g}"
