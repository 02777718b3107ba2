"""Random numbers that are reproducible and leave the global generator alone."""

import contextlib
import hashlib
import operator
from collections.abc import Iterator
from typing import Any

import torch


def as_seed(seed: Any) -> int | None:
    """A seed as a Python integer: NumPy's would overflow in arithmetic.

    Raises:
        TypeError: If it is no whole number.
        ValueError: If it has more than 64 bits, which is what torch's generators take.
    """
    if seed is None:
        return None
    try:
        number = operator.index(seed)
    except TypeError:
        raise TypeError(f"seed must be a whole number or None; received {seed!r}.") from None
    if not -(2**63) <= number < 2**64:
        raise ValueError(f"seed must fit in 64 bits; received {number}.")
    return number


def derived_seed(seed: int | None, purpose: str, index: int = 0) -> int | None:
    """A seed for one part of what has a seed, unrelated to those of other purposes and indices; None stays None.

    Example:
        >>> from pyro_vble.seeding import derived_seed
        >>> derived_seed(0, "noise", 1) == derived_seed(0, "fit", 1)
        False
    """
    if seed is None:
        return None
    digest = hashlib.blake2b(f"{seed} {purpose} {index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def fresh_seed() -> int:
    """A seed drawn from the global generator."""
    return int(torch.randint(2**62, ()))


@contextlib.contextmanager
def forked_generators(device: torch.device | None = None) -> Iterator[None]:
    """A scope that leaves torch's default generators as they were.

    Those of the CPU and, as a seed is one for all, of every GPU once this process uses any; before that, of the one to
    be computed on. PyTorch's own default would wake every GPU of the machine.
    """
    if torch.cuda.is_initialized():
        devices: list[Any] = list(range(torch.cuda.device_count()))
    else:
        devices = [device] if device is not None and device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        if not devices:  # a seed that is set before CUDA wakes waits for it, and would be the next user's
            torch.cuda.manual_seed_all(torch.initial_seed())


@contextlib.contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """A scope whose random numbers start from ``seed``; None goes on with the global generator.

    Example:
        >>> import torch
        >>> from pyro_vble.seeding import seeded
        >>> with seeded(0):
        ...     a = torch.rand(1)
        >>> with seeded(0):
        ...     b = torch.rand(1)
        >>> bool(a == b)
        True
    """
    if seed is None:
        yield
        return
    with forked_generators():
        torch.manual_seed(seed)
        yield
