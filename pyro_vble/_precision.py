"""Which parts of a model may run in reduced precision."""

import torch
from torch import Tensor


def full_precision(x: Tensor) -> torch.autocast:
    """A scope for what must stay in the precision of its inputs while a caller's autocast is on."""
    return torch.autocast(x.device.type, enabled=False)
