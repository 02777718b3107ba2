"""Bands that are weighted sums of others."""

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from deepinv.physics import LinearPhysics
from torch import Tensor

from pyro_vble._arguments import BrokenRuleError, Rule, checked, real


def _weights(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        value = value.tolist()
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise BrokenRuleError("type")
    rows = value if isinstance(value[0], Sequence) else [value]
    if any(not isinstance(row, Sequence) or len(row) != len(rows[0]) for row in rows):
        raise BrokenRuleError("value")
    return torch.tensor([[real(one) for one in row] for row in rows])


Weights = Annotated[
    Any,
    Rule("finite numbers, one a band, or rows of them, one a band that is measured", _weights, "write [0.3, 0.4, 0.3]"),
]


@checked
class SpectralResponse(LinearPhysics):
    r"""Bands that are weighted sums of the image's: :math:`y_k = \sum_c w_{kc} x_c`.

    A panchromatic band is one row of weights, not negative, of sum 1. deepinv's ``Decolorize`` is one row too, which
    must have sum 1.

    Args:
        weights: (C,), or (K, C) for K bands.
        noise_model: A deepinv noise model.

    Raises:
        TypeError: If the weights are no numbers.
        ValueError: If their rows have different lengths.

    Example:
        >>> import torch
        >>> from pyro_vble.physics import SpectralResponse
        >>> SpectralResponse([0.25, 0.5, 0.25]).A(torch.ones(1, 3, 8, 8)).shape
        torch.Size([1, 1, 8, 8])
    """

    weights: Tensor

    def __init__(self, weights: Weights, *, noise_model: Any = None) -> None:
        super().__init__(**({} if noise_model is None else {"noise_model": noise_model}))
        # With a dimension before it: one value a band is not one an image.
        self.register_buffer("weights", weights[None])

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        """Weighted sums (B, K, H, W) of the bands of images (B, C, H, W)."""
        return torch.einsum("kc,bchw->bkhw", self.weights[0].to(x.dtype), x)

    def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:
        """The adjoint of A."""
        return torch.einsum("kc,bkhw->bchw", self.weights[0].to(y.dtype), y)
