"""Convolutions whose gradient's gradient is a convolution, and nothing more."""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_CONVOLUTIONS = (torch.conv1d, torch.conv2d, torch.conv3d)
_TRANSPOSED = (torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d)


class TransposableConvolutions(TorchFunctionMode):
    """A scope in which a convolution of fixed weights knows that it is linear, whoever calls it.

    The gradient of a gradient is the product with a Jacobian. PyTorch's own for convolutions also computes what only a
    weight's gradient would need, at twice to three times the cost.

    Example:
        >>> import torch
        >>> from pyro_vble.inference.transposition import TransposableConvolutions
        >>> layer, x = torch.nn.Conv2d(1, 2, 3).requires_grad_(False), torch.randn(1, 1, 8, 8, requires_grad=True)
        >>> with TransposableConvolutions():
        ...     y = layer(x)
        >>> bool(torch.equal(y, layer(x)))
        True
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Exchange a convolution of one tensor that has a gradient."""
        kwargs = kwargs or {}
        if func in _CONVOLUTIONS or func in _TRANSPOSED:
            given = _arguments(func, *args, **kwargs)
            if given is not None:
                return _Convolution.apply(*given)
        return func(*args, **kwargs)


def _arguments(func: Any, input: Tensor, weight: Tensor, bias: Tensor | None = None, *rest: Any, **named: Any) -> Any:
    """What ``torch.convolution`` takes; None of a call that is to stay as it is."""
    names = ("stride", "padding", "dilation", "groups")
    if func in _TRANSPOSED:
        names = ("stride", "padding", "output_padding", "groups", "dilation")
    named |= dict(zip(names, rest, strict=False))
    learnt = weight.requires_grad or (bias is not None and bias.requires_grad)
    dims = weight.dim() - 2
    if named.get("padding") == "valid":
        named["padding"] = 0
    if learnt or not input.requires_grad or input.dim() != weight.dim() or isinstance(named.get("padding"), str):
        return None
    each = {name: _several(named.get(name, 0 if "padding" in name else 1), dims) for name in (*names, "output_padding")}
    return (
        input,
        weight,
        bias,
        each["stride"],
        each["padding"],
        each["dilation"],
        func in _TRANSPOSED,
        each["output_padding"],
        named.get("groups", 1),
    )


def _several(value: Any, dims: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * dims if len(values) == 1 else values


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *options: Any) -> Tensor:
        ctx.weight, ctx.options, ctx.shape = weight, options, x.shape
        return torch.convolution(x, weight, bias, *options)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        return _Transposed.apply(grad, ctx.weight, ctx.shape, *ctx.options), None, None, *[None] * len(ctx.options)


class _Transposed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grad: Tensor, weight: Tensor, shape: torch.Size, *options: Any) -> Tensor:
        ctx.weight, ctx.options = weight, options
        # Of the input only its shape is asked.
        like = grad.new_empty(1).expand(shape)
        return torch.ops.aten.convolution_backward(grad, like, weight, None, *options, [True, False, False])[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        options = [None] * (len(ctx.options) + 2)
        return torch.convolution(grad, ctx.weight, None, *ctx.options), *options
