"""Whether gradients pass through an operator: without them a fit learns nothing of the measurement."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_vble.physics.operators import measure
from pyro_vble.physics.parameters import operator_arguments

# Steps of the central differences, and how well two of them must agree for A to be smooth there.
_STEPS, _SMOOTH = (2e-2, 1e-2), 0.05
# Part of the change along a direction that automatic differentiation may miss or add.
_TOLERANCE = 0.1


def check_gradients(physics: Any, x: Tensor, parameters: Mapping[str, Tensor]) -> None:
    r"""Raise unless automatic differentiation finds the change of A(x) along a random direction d.

    .. math:: v^T \frac{A(x + \epsilon d) - A(x - \epsilon d)}{2 \epsilon} \approx v^T \nabla A(x)\, d, \qquad
        v = \mathrm{sign}\big(A(x + \epsilon d) - A(x - \epsilon d)\big)

    The sign makes every value of the measurement count: what goes through NumPy, is detached or rounded is missing on
    the right.

    Args:
        physics: Forward operator.
        x: Images (B, C, H, W) to try it on.
        parameters: Parameters of noise and operator that are inferred, (B,) each; those of the operator are tried too.

    Raises:
        ValueError: If it does not.
    """
    arguments = operator_arguments(physics, parameters)
    generator = torch.Generator("cpu").manual_seed(1)
    direction = torch.randn(x.shape, generator=generator, device="cpu").to(x)
    with torch.no_grad():
        larger, smaller = (_change(physics, x, step * direction, arguments) / (2 * step) for step in _STEPS)
    sign = smaller.sign()
    change = float((sign * smaller).sum())
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        learnt = {name: value.detach().clone().requires_grad_() for name, value in arguments.items()}
        signal = measure(physics, x, learnt)
        if not signal.requires_grad:
            raise ValueError(_said("has none at all"))
        gradients = torch.autograd.grad((sign * signal).sum(), [x, *learnt.values()], allow_unused=True)
    for name, gradient in zip(learnt, gradients[1:], strict=True):
        if gradient is None:
            raise ValueError(
                f"A parameter that is inferred needs a gradient through physics.A; received one of {name!r} that has "
                "none; compute with it in torch, not with float() or .item()."
            )
    found = 0.0 if gradients[0] is None else float((gradients[0] * direction).sum())
    smooth = abs(float((sign * (larger - smaller)).sum())) <= _SMOOTH * abs(change)
    if found == 0.0 != change:
        raise ValueError(_said("has none, though its values change"))
    if smooth and abs(found - change) > _TOLERANCE * abs(change):
        raise ValueError(_said(f"gives {found:.3g} along a direction in which its values change by {change:.3g}"))


def _change(physics: Any, x: Tensor, step: Tensor, arguments: Mapping[str, Tensor]) -> Tensor:
    return measure(physics, x + step, arguments) - measure(physics, x - step, arguments)


def _said(what: str) -> str:
    return (
        f"physics.A must pass gradients on, by which an image is fitted; received an operator whose automatic "
        f"derivative {what}; write A in torch, without NumPy, detach, rounding or .item()."
    )
