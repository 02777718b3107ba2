"""Which parts of a model may run in reduced precision."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor


def full_precision(x: Tensor) -> torch.autocast:
    """A scope for what must stay in the precision of its inputs while a caller's autocast is on."""
    return torch.autocast(x.device.type, enabled=False)


@contextlib.contextmanager
def exact_convolutions(device: torch.device) -> Iterator[None]:
    """A scope in which convolutions in float32 keep its 24 bits on CUDA too, where PyTorch lets them have TF32's 11.

    Bfloat16 is there for speed; what is asked to be in float32, a decoder beneath a small noise or a forward operator,
    is asked so because eleven bits are too few. Backward passes belong inside. The setting is the whole process's:
    threads take turns by ``program_lock``.
    """
    if device.type != "cuda":
        yield
        return
    # Not torch's own scopes: cudnn.flags fails once a caller has used fp32_precision, and backends.flags does nothing
    # to cuDNN once a caller has used allow_tf32.
    # An attribute that the module is given as it is imported.
    convolutions = torch.backends.cudnn.conv  # pyright: ignore[reportAttributeAccessIssue]
    before = convolutions.fp32_precision
    convolutions.fp32_precision = "ieee"
    try:
        yield
    finally:
        convolutions.fp32_precision = before
