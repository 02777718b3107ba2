"""Which parts of a model may run in reduced precision."""

import contextlib
import threading
from collections.abc import Iterator

import torch
from torch import Tensor

_lock = threading.Lock()
_scopes = 0
_allowed = True


def full_precision(x: Tensor) -> torch.autocast:
    """A scope for what must stay in the precision of its inputs while a caller's autocast is on."""
    return torch.autocast(x.device.type, enabled=False)


@contextlib.contextmanager
def exact_convolutions(device: torch.device) -> Iterator[None]:
    """A scope in which convolutions in float32 keep its 24 bits on CUDA too, where PyTorch lets them have TF32's 11.

    Bfloat16 is there for speed; what is asked to be in float32, a decoder beneath a small noise or a forward operator,
    is asked so because eleven bits are too few. Backward passes belong inside. Scopes may be nested, and overlap in
    several threads: the last to end restores what was.
    """
    if device.type != "cuda":
        yield
        return
    _enter()
    try:
        yield
    finally:
        _leave()


def _enter() -> None:
    global _scopes, _allowed
    with _lock:
        _scopes += 1
        if _scopes == 1:
            try:
                _allowed = torch.backends.cudnn.allow_tf32
            except RuntimeError:  # chosen for each kind of layer, by the caller: that stands
                _allowed = False
            if _allowed:
                torch.backends.cudnn.allow_tf32 = False


def _leave() -> None:
    global _scopes
    with _lock:
        _scopes -= 1
        if _scopes == 0 and _allowed:
            torch.backends.cudnn.allow_tf32 = True
