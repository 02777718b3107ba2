"""Checks of a measurement before anything is computed from it."""

from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vble.distributions import ScaledPoisson
from pyro_vble.physics.likelihood import likelihood
from pyro_vble.physics.operators import measure, observed_mask, real_dtype

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
        ValueError: If no value is observed in some image, or the values are on another scale than [0, 1].
        TypeError: If the noise model is unknown.
    """
    observed = observed_mask(physics, y)
    empty = ~observed.flatten(1).any(1)
    if bool(empty.any()):
        raise ValueError(
            "Every image needs at least one observed value; received only NaN or masked values in "
            f"{int(empty.sum())} of {len(y)} images (first: {int(empty.nonzero()[0])}); check how y was read and the "
            "sense of the mask (1 is observed)."
        )
    signals = [measure(physics, probe.expand(len(y), *image_shape)) for probe in _probes(image_shape, y)]
    with pyro.validation_enabled(True):  # this is where noise parameters are checked, whatever the user set
        p_probes = [likelihood(physics, signal, parameters, event_dim=y.dim() - 1) for signal in signals]
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
    if largest > _SCALE_LIMIT * expected + 6 * max(float(p.variance.max().sqrt()) for p in p_probes):
        raise ValueError(
            f"The image must be on the scale [0, 1]; received a measurement up to {largest:g}, where images in [0, 1] "
            f"give about {expected:g}; divide by the sensor's maximum (255 for 8 bits, 65535 for 16) and state the "
            "noise level on that scale too."
        )


@torch.no_grad()
def noise_level(
    physics: Any, y: Tensor, image_shape: tuple[int, int, int], parameters: Mapping[str, Tensor] | None = None
) -> float:
    """The typical (median) standard deviation of the noise on images in [0, 1]."""
    probe = _probes(image_shape, y)[1].expand(len(y), *image_shape)
    p_y = likelihood(physics, measure(physics, probe), parameters, event_dim=y.dim() - 1)
    return float(p_y.variance.median().sqrt())


def _probes(image_shape: tuple[int, int, int], y: Tensor) -> list[Tensor]:
    """A white image and one of black and white pixels at random: operators that cancel constants answer the second."""
    generator = torch.Generator().manual_seed(0)
    images = torch.ones(image_shape), torch.rand(image_shape, generator=generator).round()
    return [image.to(y.device, real_dtype(y)) for image in images]
