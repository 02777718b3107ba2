"""Rules of tensors that public functions take, for :func:`pyro_vble._arguments.checked`."""

from typing import Annotated, Any

import torch
from torch import Tensor

from pyro_vble._arguments import BrokenRuleError, Rule, brief, real


def real_tensor(value: Any) -> Tensor:
    """The value, if it is a dense tensor of real floating-point numbers, of a dimension and a value at least."""
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.layout != torch.strided:
        raise BrokenRuleError("type")
    if not value.numel() or not value.dim() or value.is_meta:
        raise BrokenRuleError("value")
    return value


def _interval(value: Any) -> tuple[Tensor, Tensor]:
    if not isinstance(value, tuple | list):
        raise BrokenRuleError("type")
    if len(value) != 2:
        raise BrokenRuleError("value")
    return real_tensor(value[0]), real_tensor(value[1])


def _inside(value: Any) -> float:
    number = real(value)
    if not 0 < number < 1:
        raise BrokenRuleError("value")
    return number


RealTensor = Annotated[
    Tensor,
    Rule("a tensor of floating-point numbers that is not empty", real_tensor, "an array x becomes one by "
         "torch.from_numpy(x).float()"),
]  # fmt: skip
Interval = Annotated[
    tuple[Tensor, Tensor],
    Rule("a pair of floating-point tensors, lower and upper end", _interval, "posterior.interval(0.9) gives one"),
]
OpenProbability = Annotated[float, Rule("a number between 0 and 1, neither of them", _inside, "write 90 % as 0.9")]


def shape_of_image(x: Tensor) -> tuple[int, int, int]:
    """(C, H, W) of images (*, C, H, W)."""
    bands, height, width = x.shape[-3:]
    return bands, height, width


def same_shape(**tensors: Tensor) -> None:
    """Refuse tensors of different shapes or on different devices, by name.

    Raises:
        ValueError: If they differ.
    """
    (first, one), *others = tensors.items()
    for name, other in others:
        if other.shape != one.shape:
            raise ValueError(
                f"{name} must have the shape of {first}, {tuple(one.shape)}; received {brief(other)}; nothing is "
                "broadcast."
            )
        if other.device != one.device:
            raise ValueError(
                f"{name} must be where {first} is, on {one.device}; received one on {other.device}; move it there: "
                f"{name}.to({str(one.device)!r})."
            )
