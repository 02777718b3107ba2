"""Layers whose gradient's gradient is a product with their Jacobian, and nothing more."""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pyro_vble.models.gdn import divisive_normalisation

_CONVOLUTIONS = (torch.conv1d, torch.conv2d, torch.conv3d)
_TRANSPOSED = (torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d)


class TransposableLayers(TorchFunctionMode):
    """A scope in which layers of fixed weights know their Jacobians, whoever calls them.

    The gradient of a gradient is the product with a Jacobian. PyTorch's own for convolutions also computes what only a
    weight's gradient would need, at twice to three times the cost; that of a divisive normalisation takes a dozen
    passes over its pixels where four do. Under autocast both keep to its precision. There is no third derivative.

    Args:
        copies: All that layers see is so many times the same, along the first dimension.

    Example:
        >>> import torch
        >>> from pyro_vble.inference.transposition import TransposableLayers
        >>> layer, x = torch.nn.Conv2d(1, 2, 3).requires_grad_(False), torch.randn(1, 1, 8, 8, requires_grad=True)
        >>> with TransposableLayers():
        ...     y = layer(x)
        >>> bool(torch.equal(y, layer(x)))
        True
    """

    def __init__(self, copies: int = 1) -> None:
        super().__init__()
        self.copies = copies

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Exchange a layer of one tensor that has a gradient."""
        kwargs = kwargs or {}
        if func in _CONVOLUTIONS or func in _TRANSPOSED:
            given = _arguments(func, *args, **kwargs)
            if given is not None:
                x, weight, bias, *options = given
                x, weight, bias = (None if t is None else _autocast(t) for t in (x, weight, bias))
                return _Convolution.apply(x, weight, bias, *options)
        if func is divisive_normalisation:
            x, gamma, beta, inverse = args
            if x.requires_grad and not (gamma.requires_grad or beta.requires_grad):
                return _Normalisation.apply(_autocast(x), gamma, beta, inverse, self.copies)
        return func(*args, **kwargs)


def _autocast(x: Tensor) -> Tensor:
    # What an autograd node of one's own computes, autocast does not see.
    enabled = torch.is_autocast_enabled(x.device.type)
    return x.to(torch.get_autocast_dtype(x.device.type)) if enabled else x


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


class _Normalisation(torch.autograd.Function):
    """y = x f with f = n^(1/2) or n^(-1/2), n = x² γᵀ + β, whose Jacobian is diag(f) + diag(s) γ diag(x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, inverse: bool, copies: int) -> Tensor:
        one = x[: len(x) // copies].to(gamma.dtype)
        root = torch.addmm(beta, one * one, gamma.T).sqrt_()
        factor = root if inverse else 1 / root
        slope = one / root if inverse else -one * factor**3
        ctx.linear = tuple(part.to(x.dtype) for part in (slope, one, gamma, factor))
        return x * ctx.linear[-1].repeat(copies, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        return _Weighted.apply(grad, *ctx.linear), None, None, None, None


class _Weighted(torch.autograd.Function):
    """Rows v times diag(before) matrix diag(after) + diag(factor)."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, before: Tensor, after: Tensor, matrix: Tensor, factor: Tensor) -> Tensor:
        ctx.transposed = after, before, matrix.T, factor
        copies = v.reshape(-1, *before.shape)
        return ((before * copies) @ matrix).mul_(after).addcmul_(factor, copies).view_as(v)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        return _Weighted.apply(grad, *ctx.transposed), None, None, None, None
