"""Which parts of a model may run in reduced precision."""

import contextlib

import torch
from torch import Tensor

from pyro_vble._shared_scope import SharedScope


def full_precision(x: Tensor) -> torch.autocast:
    """A scope for what must stay in the precision of its inputs while a caller's autocast is on."""
    return torch.autocast(x.device.type, enabled=False)


def exact_convolutions(device: torch.device) -> contextlib.AbstractContextManager:
    """A scope in which convolutions in float32 keep its 24 bits on CUDA too, where PyTorch lets them have TF32's 11.

    Bfloat16 is there for speed; what is asked to be in float32, a decoder beneath a small noise or a forward operator,
    is asked so because eleven bits are too few. Backward passes belong inside. Scopes may be nested: the last to end
    restores what was.
    """
    return _scope if device.type == "cuda" else contextlib.nullcontext()


class _TF32:
    """The switch of TF32, and whether it was on."""

    was_on = False

    def off(self) -> None:
        try:
            self.was_on = torch.backends.cudnn.allow_tf32
        except RuntimeError:  # chosen for each kind of layer, by the caller: that stands
            self.was_on = False
        if self.was_on:
            torch.backends.cudnn.allow_tf32 = False

    def restore(self) -> None:
        if self.was_on:
            torch.backends.cudnn.allow_tf32 = True


_tf32 = _TF32()
_scope = SharedScope(_tf32.off, _tf32.restore)
