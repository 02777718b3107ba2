"""Preconditioned conjugate gradients for many systems of one kind at once."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

#: A vector of every system, in parts by name, each (*systems, *event).
Vectors = dict[str, Tensor]


class Solution(NamedTuple):
    """What conjugate gradients ended in.

    Attributes:
        x: The solutions.
        iterations: How many products were made.
        residual: Size of what is left of the right-hand side, relative to it, of every system, in the norm of the
            preconditioner.
    """

    x: Vectors
    iterations: int
    residual: Tensor


@torch.no_grad()
def conjugate_gradient(
    product: Callable[[Vectors], Vectors],
    b: Vectors,
    precision: Mapping[str, Tensor],
    *,
    systems: int,
    tolerance: float,
    max_iterations: int,
) -> Solution:
    r"""Solve :math:`\Lambda x = b` for symmetric, positive definite :math:`\Lambda`, each system for itself.

    A system that has converged stands still while the others go on, so that its solution does not depend on them.

    References:
        | Methods of conjugate gradients for solving linear systems (Hestenes and Stiefel, 1952)

    Args:
        product: The product with the matrix.
        b: Right-hand sides.
        precision: An approximation of the matrix's diagonal, broadcastable: the preconditioner.
        systems: Leading dimensions that number the systems.
        tolerance: Largest relative residual.
        max_iterations: Most products to be made.

    Example:
        >>> import torch
        >>> from pyro_vble.inference.conjugate_gradient import conjugate_gradient
        >>> matrix = torch.tensor([[2.0, 1.0], [1.0, 3.0]])
        >>> found = conjugate_gradient(
        ...     lambda v: {"v": v["v"] @ matrix}, {"v": torch.tensor([[3.0, 4.0]])}, {"v": torch.ones(2)},
        ...     systems=1, tolerance=1e-6, max_iterations=10)
        >>> found.x["v"], found.iterations
        (tensor([[1., 1.]]), 2)
    """
    x = {name: torch.zeros_like(part) for name, part in b.items()}
    r = {name: part.clone() for name, part in b.items()}
    direction = {name: part / precision[name] for name, part in r.items()}
    size = start = _inner(r, direction, systems)
    goal = start * tolerance**2
    iterations = 0
    while iterations < max_iterations and bool((going := size > goal).any()):
        image = product(direction)
        iterations += 1
        curvature = _inner(direction, image, systems)
        step = torch.where(going, size / curvature, 0.0)
        for name in x:
            own = _like(step, x[name])
            x[name].addcmul_(own, direction[name])
            r[name].addcmul_(own, image[name], value=-1)
        scaled = {name: part / precision[name] for name, part in r.items()}
        new = torch.where(going, _inner(r, scaled, systems), size)
        ratio = torch.where(going, new / size, 0.0)
        direction = {name: scaled[name].addcmul_(_like(ratio, direction[name]), direction[name]) for name in x}
        size = new
    return Solution(x, iterations, torch.where(start > 0, size / start, 0.0).sqrt())


def _inner(a: Vectors, b: Vectors, systems: int) -> Tensor:
    """Inner products, one a system."""
    return torch.stack([(a[name] * b[name]).flatten(systems).sum(systems) for name in a]).sum(0)


def _like(scalars: Tensor, part: Tensor) -> Tensor:
    return scalars.reshape(*scalars.shape, *[1] * (part.dim() - scalars.dim()))
