"""Random numbers that are reproducible and leave the global generator alone."""

import contextlib
from collections.abc import Iterator

import torch


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
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
