"""Products with a Jacobian that is never formed."""

import torch
from torch import Tensor

from pyro_vble.inference.conjugate_gradient import Vectors


class Jacobian:
    """The Jacobian J of outputs in inputs, by name, where their graph was made.

    A product with J is the gradient of a gradient, and so works for whatever autograd differentiates twice. What was
    computed runs once, for all products.

    Args:
        inputs: Leaves that require a gradient.
        outputs: What was computed of them.

    Example:
        >>> import torch
        >>> from pyro_vble.inference.jacobian import Jacobian
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> jacobian = Jacobian({"x": x}, {"y": x**2})
        >>> jacobian.forward({"x": torch.ones(2)}), jacobian.transposed({"y": torch.ones(2)})
        ({'y': tensor([2., 4.])}, {'x': tensor([2., 4.])})
    """

    def __init__(self, inputs: Vectors, outputs: Vectors) -> None:
        self._inputs, self._outputs = inputs, outputs
        # The gradient as a function of what it is multiplied with: its own gradient is the product with J.
        with torch.enable_grad():
            self._probes = {name: torch.zeros_like(out).requires_grad_() for name, out in outputs.items()}
            gradients = self._gradient(self._probes, create_graph=True)
        self._linear = {name: g for name, g in gradients.items() if g is not None and g.requires_grad}

    def forward(self, vectors: Vectors) -> Vectors:
        """J v, by output."""
        found = torch.autograd.grad(
            list(self._linear.values()),
            list(self._probes.values()),
            [vectors[name] for name in self._linear],
            retain_graph=True,
            allow_unused=True,
        )
        pairs = zip(self._probes.items(), found, strict=True)
        return {name: torch.zeros_like(probe) if f is None else f for (name, probe), f in pairs}

    def transposed(self, cotangents: Vectors) -> Vectors:
        """Jᵀ u, by input."""
        found = self._gradient(cotangents)
        return {name: torch.zeros_like(v) if (f := found[name]) is None else f for name, v in self._inputs.items()}

    def _gradient(self, cotangents: Vectors, *, create_graph: bool = False) -> dict[str, Tensor | None]:
        found = torch.autograd.grad(
            list(self._outputs.values()),
            list(self._inputs.values()),
            [cotangents[name] for name in self._outputs],
            retain_graph=True,
            create_graph=create_graph,
            allow_unused=True,
        )
        return dict(zip(self._inputs, found, strict=True))
