"""Operators of some images of a batch."""

from typing import Any

import torch
from torch import Tensor

from pyro_vble._one_at_a_time import program_lock
from pyro_vble._precision import exact_convolutions
from pyro_vble.physics.likelihood import likelihood
from pyro_vble.physics.operators import copy_of, tensors_of


def part_of(physics: Any, images: slice, num_images: int) -> Any:
    """The operator of some images of a batch: what it holds for every image, a filter or a mask, is cut likewise.

    Args:
        physics: Operator of the batch.
        images: Which images.
        num_images: How many there are, more than one.
    """
    part = copy_of(physics)
    if isinstance(part, torch.nn.Module):
        for value in tensors_of(part):
            if value.dim() and len(value) == num_images:
                value.data = value.data[images]
    return part


@torch.no_grad()
def is_divisible(physics: Any, y: Tensor, image_shape: tuple[int, int, int]) -> bool:
    """Whether operator and noise of one image, cut out of the batch's, measure it as the batch's do."""
    if physics is None or len(y) == 1:
        return False
    generator = torch.Generator("cpu").manual_seed(0)
    x = torch.rand(1, *image_shape, generator=generator, device="cpu").to(y.device, y.dtype)
    x = x.expand(len(y), *image_shape)
    try:
        with program_lock, exact_convolutions(y.device):
            whole = _moments(physics, x)
            return all(
                torch.allclose(of_all[image], of_one, atol=1e-4, equal_nan=True)
                for image in (slice(0, 1), slice(len(y) - 1, len(y)))
                for of_all, of_one in zip(whole, _moments(part_of(physics, image, len(y)), x[image]), strict=True)
            )
    except Exception:  # an operator may object in any way; then the batch stays whole
        return False


def _moments(physics: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """A(x), and the standard deviation of its measurement."""
    signal = physics.A(x)
    return signal, likelihood(physics, signal, event_dim=signal.dim() - 1).variance.expand_as(signal).sqrt()
