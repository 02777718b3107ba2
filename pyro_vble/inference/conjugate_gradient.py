"""Preconditioned conjugate gradients for many systems of one kind at once."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

#: A vector of every system, in parts by name, each (*systems, *event).
Vectors = dict[str, Tensor]


# Fewer channels are those of an image, not of latents.
_FEW_CHANNELS = 16

# By a rough product solutions go so much closer than they need to, in squares; and to leave more than this is to gain
# little.
_CLOSER, _LITTLE = 0.8, 1 / 16


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
    precondition: Callable[[Vectors], Vectors],
    *,
    systems: int,
    tolerance: float,
    max_iterations: int,
    eliminated: float = 0.0,
    rough: Callable[[Vectors], Vectors] | None = None,
) -> Solution:
    r"""Solve :math:`\Lambda x = b` for symmetric, positive definite :math:`\Lambda`, each system for itself.

    A system that has converged stands still while the others go on, so that its solution does not depend on them.

    References:
        | Methods of conjugate gradients for solving linear systems (Hestenes and Stiefel, 1952)

    Args:
        product: The product with the matrix.
        b: Right-hand sides.
        precondition: The product with an approximation of its inverse, symmetric and positive definite.
        systems: Leading dimensions that number the systems.
        tolerance: Largest relative residual.
        max_iterations: Most products to be made.
        eliminated: Squared size of the right-hand side in unknowns that were eliminated, in the same norm: residuals
            are relative to the whole of it.
        rough: A cheaper product, that is nearly the one with the matrix. It makes solutions, and the product itself
            what is left of them; where little is gained so, solutions go on with the product itself.

    Example:
        >>> import torch
        >>> from pyro_vble.inference.conjugate_gradient import conjugate_gradient
        >>> matrix = torch.tensor([[2.0, 1.0], [1.0, 3.0]])
        >>> found = conjugate_gradient(
        ...     lambda v: {"v": v["v"] @ matrix}, {"v": torch.tensor([[3.0, 4.0]])}, dict,
        ...     systems=1, tolerance=1e-6, max_iterations=10)
        >>> found.x["v"].round(decimals=4), found.iterations
        (tensor([[1., 1.]]), 2)
    """
    whole = _inner(b, precondition(b), systems) + eliminated
    goal = whole * tolerance**2
    x, left, size, iterations = dict.fromkeys(b, 0.0), b, whole, 0
    while True:
        # After a rough product one is left for the matrix, which tells what is left.
        rough = rough if iterations + 1 < max_iterations else None
        close, most = (goal, 0) if rough is None else (_CLOSER * goal, 1)
        found, size_left, count = _steps(
            rough or product, left, precondition, systems, close, max_iterations - iterations - most
        )
        x, iterations = {name: x[name] + part for name, part in found.items()}, iterations + count
        if rough is None:
            return Solution(x, iterations, _relative(size_left, whole))
        image, iterations = product(x), iterations + 1
        left = {name: part - image[name] for name, part in b.items()}
        before, size = size, _inner(left, precondition(left), systems)
        going = size > goal
        if iterations >= max_iterations or not bool(going.any()):
            return Solution(x, iterations, _relative(size, whole))
        rough = rough if bool((size < _LITTLE * before)[going].all()) else None


def _steps(
    product: Callable[[Vectors], Vectors],
    b: Vectors,
    precondition: Callable[[Vectors], Vectors],
    systems: int,
    goal: Tensor,
    most: int,
) -> tuple[Vectors, Tensor, int]:
    """Steps until what is left of b is within the goal: the solutions, what is left, how many steps."""
    x = {name: torch.zeros_like(part) for name, part in b.items()}
    r = dict(b)
    direction = precondition(r)
    size = _inner(r, direction, systems)
    iterations = 0
    while iterations < most and bool((going := size > goal).any()):
        image = product(direction)
        iterations += 1
        curvature = _inner(direction, image, systems)
        step = torch.where(going, size / curvature, 0.0)
        for name in x:
            own = _like(step, x[name])
            x[name].addcmul_(own, direction[name])
            r[name] = r[name].addcmul(own, image[name], value=-1)  # what it was may be the direction
        scaled = precondition(r)
        new = torch.where(going, _inner(r, scaled, systems), size)
        ratio = torch.where(going, new / size, 0.0)
        direction = {name: scaled[name].addcmul(_like(ratio, direction[name]), direction[name]) for name in x}
        size = new
    return x, size, iterations


class ChannelPreconditioner:
    """An approximate inverse of a matrix that is seen through draws of N(0, matrix).

    Their squares tell the diagonal. What is left, as a correlation, is taken to be the same at every place between the
    channels of an image of latents, and none between places.

    Args:
        drawn: The draws, each (n, B, *event); an event (..., C, h, w) has channels.
        least: A lower bound of the diagonal, each (B, *event).
    """

    def __init__(self, drawn: Vectors, least: Mapping[str, Tensor]) -> None:
        self._scale, self._inverse = {}, {}
        for name, values in drawn.items():
            diagonal = torch.maximum(values.square().mean(0), least[name])
            self._scale[name] = diagonal.rsqrt()
            if values.dim() >= 5 and values.shape[-3] > _FEW_CHANNELS:
                self._inverse[name] = _inverse_correlation(values * self._scale[name])

    def __call__(self, vectors: Vectors) -> Vectors:
        """The product with the inverse."""
        found = {}
        for name, part in vectors.items():
            scaled = part * self._scale[name]
            if name in self._inverse:
                scaled = (self._inverse[name] @ scaled.flatten(-2)).reshape(part.shape)
            found[name] = scaled * self._scale[name]
        return found


def _inverse_correlation(values: Tensor) -> Tensor:
    """Of channels, (C, C), shrunk towards none by as much as there are too few values to tell."""
    rows = values.movedim(-3, 0).flatten(1)
    channels, count = rows.shape
    covariance = rows @ rows.T / count
    std = covariance.diagonal().sqrt()
    trusted = count / (count + channels)
    correlation = trusted * covariance / (std[:, None] * std)
    return torch.linalg.inv(correlation + (1 - trusted) * torch.eye(channels).to(correlation))


def _inner(a: Vectors, b: Vectors, systems: int) -> Tensor:
    """Inner products, one a system."""
    return torch.stack([(a[name] * b[name]).flatten(systems).sum(systems) for name in a]).sum(0)


def _relative(size: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, size / whole, 0.0).sqrt()


def _like(scalars: Tensor, part: Tensor) -> Tensor:
    return scalars.reshape(*scalars.shape, *[1] * (part.dim() - scalars.dim()))
