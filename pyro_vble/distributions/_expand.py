"""How a distribution of this package becomes one of another batch shape."""

from collections.abc import Mapping
from typing import Any

import torch
from pyro.distributions import TorchDistribution


def expanded(
    own: Any,
    kind: type,
    instance: Any,
    batch_shape: Any,
    parameters: Mapping[str, Any],
    *,
    event_shape: tuple[int, ...] = (),
) -> Any:
    """What ``expand`` returns: a distribution like ``own``, with these parameters, and its arguments not looked at.

    Args:
        own: The distribution.
        kind: The class whose ``expand`` this is.
        instance: What a subclass passes to have filled; None for a new one.
        batch_shape: The batch shape.
        parameters: Attributes of the new one.
        event_shape: The shape of an event.
    """
    new = own._get_checked_instance(kind, instance)
    for name, value in parameters.items():
        setattr(new, name, value)
    TorchDistribution.__init__(new, torch.Size(batch_shape), torch.Size(event_shape), validate_args=False)
    new._validate_args = own._validate_args
    return new
