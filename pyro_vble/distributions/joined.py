"""Distributions of several measurements as one of all their values in a row."""

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_vble.distributions._expand import expanded


class Joined(TorchDistribution):
    r"""Independent elementwise distributions, flattened and put in a row: :math:`p(y) = \prod_k p_k(y_k)`.

    Part k, of batch shape (*batch, *event_k), takes the places of its own values along the last dimension; the batch
    shape of the whole is (*batch, n), n the number of all values.

    Args:
        parts: The distributions, elementwise, of the same batch.
        event_dims: How many dimensions the event of each has.
        validate_args: Whether arguments are checked.

    Raises:
        ValueError: If the parts have different batches.

    Example:
        >>> import torch, pyro.distributions as dist
        >>> from pyro_vble.distributions import Joined
        >>> p = Joined([dist.Normal(torch.zeros(2, 3, 4), 1.0), dist.Laplace(torch.zeros(2, 5), 1.0)], [2, 1])
        >>> p.batch_shape, p.sample((7,)).shape
        (torch.Size([2, 17]), torch.Size([7, 2, 17]))
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support: ClassVar[constraints.Constraint] = constraints.real
    has_rsample = False

    def __init__(self, parts: Sequence[Any], event_dims: Sequence[int], *, validate_args: bool | None = None) -> None:
        self.parts, self.event_dims = tuple(parts), tuple(event_dims)
        batches = {p.batch_shape[: len(p.batch_shape) - d] for p, d in zip(self.parts, self.event_dims, strict=True)}
        if len(batches) != 1:
            raise ValueError(
                f"Distributions that are joined must be of one batch; received batches {sorted(map(tuple, batches))}."
            )
        super().__init__(torch.Size((*batches.pop(), sum(self._sizes))), validate_args=validate_args)

    @property
    def _shapes(self) -> list[torch.Size]:
        return [p.batch_shape[len(p.batch_shape) - d :] for p, d in zip(self.parts, self.event_dims, strict=True)]

    @property
    def _sizes(self) -> list[int]:
        return [shape.numel() for shape in self._shapes]

    def expand(self, batch_shape, _instance=None) -> Self:
        """Return the distribution broadcast to ``batch_shape``, whose last dimension stays."""
        batch = tuple(batch_shape)[:-1]
        parts = tuple(p.expand((*batch, *shape)) for p, shape in zip(self.parts, self._shapes, strict=True))
        parameters = {"parts": parts, "event_dims": self.event_dims}
        return expanded(self, Joined, _instance, batch_shape, parameters)

    def sample(self, sample_shape=()) -> Tensor:
        """Draw from every part."""
        return self._row([p.sample(torch.Size(sample_shape)) for p in self.parts])

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of every value under its part, in nats."""
        own = zip(self.parts, value.split(self._sizes, -1), self._shapes, strict=True)
        return self._row([p.log_prob(v.reshape(*v.shape[:-1], *shape)) for p, v, shape in own])

    @property
    def mean(self) -> Tensor:
        """The means of the parts."""
        return self._row([p.mean.expand(p.batch_shape) for p in self.parts])

    @property
    def variance(self) -> Tensor:
        """The variances of the parts."""
        return self._row([p.variance.expand(p.batch_shape) for p in self.parts])

    def placed(self, part: int, values: Tensor) -> Tensor:
        """Values of one part at their places in the row, zeros elsewhere."""
        rows = [values.new_zeros(p.batch_shape) for p in self.parts]
        rows[part] = values.expand(self.parts[part].batch_shape)
        return self._row(rows)

    def _row(self, values: Sequence[Tensor]) -> Tensor:
        """Values of the parts, each (*, *event), as (*, n)."""
        return torch.cat([v.flatten(v.dim() - d) for v, d in zip(values, self.event_dims, strict=True)], -1)
