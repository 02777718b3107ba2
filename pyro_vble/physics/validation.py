"""Checks of a measurement before anything is computed from it."""

from typing import Any

import torch
from torch import Tensor

from pyro_vble.physics.likelihood import likelihood
from pyro_vble.physics.operators import measure, observed_mask

# A measurement this many times brighter than that of a white image is on another scale, not a bright image.
_SCALE_LIMIT = 4.0


@torch.no_grad()
def validate_measurement(physics: Any, y: Tensor, image_shape: tuple[int, int, int]) -> None:
    """Raise unless y is a plausible measurement, under the operator, of images in [0, 1].

    Args:
        physics: Forward operator with its noise model.
        y: Measurement (B, ...), NaN where unobserved.
        image_shape: (C, H, W) of the image.

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
    white = torch.ones(1, *image_shape, dtype=y.real.dtype if y.is_complex() else y.dtype, device=y.device)
    try:
        p_white = likelihood(physics, measure(physics, white))
    except (RuntimeError, IndexError):  # an operator with parameters per image takes whole batches only
        p_white = likelihood(physics, measure(physics, white.expand(len(y), *image_shape)))
    limit = float(_SCALE_LIMIT * p_white.mean.abs().max() + 6 * p_white.variance.max().sqrt())
    largest = float(y[observed].abs().max())
    if largest > limit:
        raise ValueError(
            f"The image must be on the scale [0, 1]; received a measurement up to {largest:g}, where a white image "
            f"would give {float(p_white.mean.abs().max()):g}; divide by the sensor's maximum (255 for 8 bits, 65535 "
            "for 16) and state the noise level on that scale too."
        )
