"""Transposed convolutions in training on a CPU."""

from typing import Any

import torch
from torch import Tensor, nn

from pyro_vble.models import networks

_conv, _backward = torch.ops.aten.convolution, torch.ops.aten.convolution_backward


class TransposedConvolution(nn.Module):
    """PyTorch's transposed convolution, the gradient of its bias as a product of matrices.

    PyTorch's own sums over the pixels of every channel apart, which on a CPU takes longer than the two other gradients
    together where the channels lie last.

    Args:
        layer: ``torch.nn.ConvTranspose2d`` with a bias; its parameters are taken over under their names.

    Example:
        >>> import torch
        >>> from pyro_vble.models.transposed import TransposedConvolution
        >>> layer, x = torch.nn.ConvTranspose2d(4, 3, 5, stride=2, padding=2, output_padding=1), torch.randn(1, 4, 5, 5)
        >>> bool(torch.allclose(TransposedConvolution(layer)(x), layer(x), atol=1e-6))
        True
    """

    def __init__(self, layer: nn.ConvTranspose2d) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        paddings = layer.padding, layer.dilation, True, layer.output_padding
        self.geometry = (layer.stride, *paddings, layer.groups)

    def forward(self, x: Tensor) -> Tensor:
        """Upsample x (B, C, H, W)."""
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        return _TransposedConvolution.apply(x, self.weight, self.bias, self.geometry, dtype)


def apart_biases(module: nn.Module) -> None:
    """Exchange PyTorch's layers within a module for :class:`TransposedConvolution`, of the same weights and names."""
    chosen = lambda layer: type(layer) is nn.ConvTranspose2d and layer.bias is not None  # noqa: E731
    networks.exchange(module, chosen, TransposedConvolution)


class _TransposedConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, geometry: tuple, dtype: torch.dtype) -> Tensor:
        # Backward runs outside a caller's autocast: what it needs is kept in the precision of the product.
        ctx.dtypes, ctx.geometry = (x.dtype, weight.dtype, bias.dtype), geometry
        x, weight = x.to(dtype), weight.to(dtype)
        ctx.save_for_backward(x, weight)
        return _conv(x, weight, bias.to(dtype), *geometry)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needed = ctx.needs_input_grad
        of_x, of_weight, _ = _backward(grad, x, weight, None, *ctx.geometry, [needed[0], needed[1], False])
        of_bias = None
        if needed[2]:
            rows = grad.movedim(1, -1).reshape(-1, grad.shape[1])
            of_bias = (rows.new_ones(1, len(rows)) @ rows)[0]
        found = zip((of_x, of_weight, of_bias), ctx.dtypes, strict=True)
        return *(None if each is None else each.to(dtype) for each, dtype in found), None, None
