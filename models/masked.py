"""The masked convolution of a context model, for training."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vble.models import networks


class MaskedConvolution(nn.Conv2d):
    r"""A convolution that reads only what comes before a pixel in raster order, of the same parameters and names.

    .. math:: y = (w \odot m) * x + b

    CompressAI's own assigns the masked weight at every call, and so gives it new memory: a step of training that is
    captured in a CUDA graph would go on reading, and moving, the memory of the call that was captured.

    References:
        | Conditional image generation with PixelCNN decoders (van den Oord et al., 2016)
        | https://arxiv.org/abs/1606.05328

    Args:
        layer: A ``compressai.layers.MaskedConv2d``.

    Example:
        >>> import torch
        >>> from compressai.layers import MaskedConv2d
        >>> from pyro_vble.models.masked import MaskedConvolution
        >>> layer, x = MaskedConv2d(2, 3, 5, padding=2), torch.rand(1, 2, 8, 8)
        >>> bool((MaskedConvolution(layer)(x) == layer(x)).all())
        True
    """

    mask: Tensor

    def __init__(self, layer: Any) -> None:
        shape = layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, layer.dilation
        super().__init__(*shape, layer.groups, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.register_buffer("mask", layer.mask)
        with torch.no_grad():
            self.weight.mul_(self.mask)
        self.train(layer.training)

    def forward(self, x: Tensor) -> Tensor:
        """From (B, C, H, W) to (B, C', H, W)."""
        return F.conv2d(x, self.weight * self.mask, self.bias, self.stride, self.padding, self.dilation, self.groups)


def mask_in_place(module: nn.Module) -> None:
    """Exchange CompressAI's layers within a module for :class:`MaskedConvolution`."""
    networks.exchange(module, networks.is_masked_convolution, MaskedConvolution)
