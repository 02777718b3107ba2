"""Checks of a measurement before anything is computed from it."""

from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vble.distributions import ScaledPoisson
from pyro_vble.physics.gradients import check_gradients
from pyro_vble.physics.joint import Jointly
from pyro_vble.physics.likelihood import before_sensor, likelihood
from pyro_vble.physics.operators import measure, observed_mask

# A measurement this many times larger than those of images in [0, 1] is on another scale. The factor is generous: it
# is to catch 0-255 and sensor counts, not priors whose images leave [0, 1].
_SCALE_LIMIT = 32.0


@torch.no_grad()
def validate_measurement(
    physics: Any, y: Tensor, image_shape: tuple[int, int, int], parameters: Mapping[str, Tensor] | None = None
) -> None:
    """Raise unless y is a plausible measurement, under the operator, of images in [0, 1].

    Args:
        physics: Forward operator with its noise model.
        y: Measurement (B, ...), NaN where unobserved.
        image_shape: (C, H, W) of the image.
        parameters: Noise parameters that replace the noise model's own, one value an image.

    Raises:
        ValueError: If no value is observed in some image, the values are on another scale than [0, 1], or the operator
            returns NaN or no gradient.
        TypeError: If the noise model or the sensor is unknown.
    """
    observed = observed_mask(physics, y)
    empty = ~observed.flatten(1).any(1)
    if bool(empty.any()):
        raise ValueError(
            "Every image needs at least one observed value; received only NaN or masked values in "
            f"{int(empty.sum())} of {len(y)} images (first: {int(empty.nonzero()[0])}); check how y was read and the "
            "sense of the mask (1 is observed)."
        )
    if isinstance(physics, Jointly):
        for k, (one, part) in enumerate(zip(physics.physics_list, physics.split(y), strict=True)):
            try:
                _validate_values(one, part, image_shape, physics.parameters_of(k, parameters or {}))
            except (ValueError, TypeError) as error:
                raise type(error)(f"Measurement {k + 1} of {len(physics)}: {error}") from error
    else:
        _validate_values(physics, y, image_shape, parameters)


def _validate_values(
    physics: Any, y: Tensor, image_shape: tuple[int, int, int], parameters: Mapping[str, Tensor] | None
) -> None:
    """Raise unless operator, noise and values of one measurement are plausible; it may miss in some images."""
    observed = observed_mask(physics, y)
    probes = [probe.expand(len(y), *image_shape) for probe in _probes(image_shape, y)]
    _check_finite(physics, probes, observed)
    check_gradients(physics, probes[-1], parameters or {})
    signals = [measure(physics, probe) for probe in probes]
    with pyro.validation_enabled(True):  # this is where noise parameters are checked, whatever the user set
        p_probes = [likelihood(physics, signal, parameters, event_dim=y.dim() - 1) for signal in signals]
    if not bool(observed.any()):  # another measurement of the image observes it
        return
    if isinstance(p_probes[0], dist.Gamma | ScaledPoisson):
        smallest, name = float(y[observed].min()), type(physics.noise_model).__name__
        if smallest < 0:
            raise ValueError(
                f"Under {name} a measurement is not negative; received values down to {smallest:g}; clip them, or use "
                "PoissonGaussianNoise if the sensor's offset was subtracted."
            )
        if smallest == 0 and isinstance(p_probes[0], dist.Gamma):
            raise ValueError(
                f"Under {name} a measurement is positive; received zeros in {int((y[observed] == 0).sum())} values; "
                "mark those that were not measured as NaN."
            )
    expected = max(float(p.mean.abs().max()) for p in p_probes)
    largest = float(y[observed].abs().max())
    noise = max(float(before_sensor(p).variance.max().sqrt()) for p in p_probes)
    if noise == 0:
        raise ValueError(
            f"The noise's variance must be more than 0 in {y.dtype}; received one that is rounded to it; use ZeroNoise "
            "for noise-free measurements, which has a floor of its own."
        )
    if largest > _SCALE_LIMIT * expected + 6 * noise:
        raise ValueError(
            f"The image must be on the scale [0, 1]; received a measurement up to {largest:g}, where images in [0, 1] "
            f"give about {expected:g}; divide by the sensor's maximum (255 for 8 bits, 65535 for 16) and state the "
            "noise level on that scale too."
        )


@torch.no_grad()
def noise_level(
    physics: Any, y: Tensor, image_shape: tuple[int, int, int], parameters: Mapping[str, Tensor] | None = None
) -> float:
    """The typical (median) standard deviation of the noise on images in [0, 1]; of several measurements the least."""
    if isinstance(physics, Jointly):
        return min(noise_levels(physics, y, image_shape, parameters))
    probe = _probes(image_shape, y)[1].expand(len(y), *image_shape)
    p_y = before_sensor(likelihood(physics, measure(physics, probe), parameters, event_dim=y.dim() - 1))
    return float(p_y.variance.median().sqrt())


def noise_levels(
    physics: Jointly, y: Tensor, image_shape: tuple[int, int, int], parameters: Mapping[str, Tensor] | None = None
) -> list[float]:
    """The :func:`noise_level` of each of several measurements."""
    parts = enumerate(zip(physics.physics_list, physics.split(y), strict=True))
    return [noise_level(one, part, image_shape, physics.parameters_of(k, parameters or {})) for k, (one, part) in parts]


def _check_finite(physics: Any, probes: list[Tensor], observed: Tensor) -> None:
    """Raise where images in [0, 1], or a little beyond, have no finite measurement."""
    beyond = 1.2 * probes[-1] - 0.1
    for image, where in ((probes[-1], "in [0, 1]"), (beyond, "a little beyond [0, 1], as decoded ones are")):
        signal = measure(physics, image)
        if signal.dtype != image.dtype:
            remedy = "convert in A what it holds: self.kernel.to(x)"
            if signal.is_complex():
                remedy = "give real and imaginary part as numbers of their own (torch.view_as_real), in A and in y"
            raise ValueError(
                f"physics.A must return numbers of its images' data type; received {signal.dtype} for {image.dtype}; "
                f"{remedy}."
            )
        if signal.shape == observed.shape and not bool(signal[observed].isfinite().all()):
            raise ValueError(
                f"physics.A must return finite values; received NaN or infinity for images {where}; clip them in A "
                "(x.clamp_min(0), for example), and mark what is not measured as NaN in y."
            )


def _probes(image_shape: tuple[int, int, int], y: Tensor) -> list[Tensor]:
    """A white image, one of black and white pixels at random, and one of greys at random.

    Operators that cancel constants answer the second, those that are periodic in brightness the third.
    """
    generator = torch.Generator("cpu").manual_seed(0)
    white = torch.ones(image_shape, device="cpu")
    images = [white, *(torch.rand(image_shape, generator=generator, device="cpu") for _ in range(2))]
    images[1] = images[1].round()
    return [image.to(y.device, y.dtype) for image in images]
