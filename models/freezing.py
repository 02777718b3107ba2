"""Networks as inference wants them: weights fixed, gradients for the input alone, layouts that processors like."""

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vble.models import networks
from pyro_vble.models.gdn import FrozenGDN, FusedGDN
from pyro_vble.models.masked import MaskedConvolution

_M = TypeVar("_M", bound=nn.Module)

_FEW_CHANNELS = 4


def frozen(module: _M) -> _M:
    """A copy for inference: evaluation mode, no gradients of the weights, convolutions laid out channels-last.

    Layers that spend their time on weights that no longer change, or on too few channels, are exchanged for others of
    the same function, parameters and names. A module that is frozen already comes back as a copy. Nothing is shared:
    the original may be trained further. What layers derive from their weights is made anew by ``load_state_dict``.
    """

    def fixed(p: Tensor) -> Tensor:
        return p.detach().clone(memory_format=torch.channels_last if p.dim() == 4 else torch.preserve_format)

    memo = {id(p): nn.Parameter(fixed(p), requires_grad=False) for p in module.parameters()}
    memo |= {id(b): b.detach().clone() for b in module.buffers()}
    copied = copy.deepcopy(module, memo)
    for parent in copied.modules():
        for name, child in parent.named_children():
            if type(child) is nn.ConvTranspose2d and _upsamples_to_few_channels(child):
                setattr(parent, name, SubpixelConvTranspose2d(child))
            elif networks.is_gdn(child) or isinstance(child, FusedGDN):
                setattr(parent, name, FrozenGDN(child))
            elif networks.is_masked_convolution(child) or isinstance(child, MaskedConvolution):
                setattr(parent, name, _masked_once(child))
    mark_frozen(copied.eval())
    return copied


def mark_frozen(module: nn.Module) -> None:
    """Say of a module that ``frozen`` made it, or that it shares the networks of one that it made."""
    vars(module)["_is_frozen"] = True


def is_frozen(module: nn.Module) -> bool:
    """Whether a module is what ``frozen`` made, and still is: in evaluation mode, no weight with a gradient."""
    if not getattr(module, "_is_frozen", False) or any(part.training for part in module.modules()):
        return False
    return not any(p.requires_grad for p in module.parameters())


def is_for_inference(layer: nn.Module) -> bool:
    """Whether a layer computes from what was derived from its weights, which then learn nothing."""
    return isinstance(layer, SubpixelConvTranspose2d | FrozenGDN)


class SubpixelConvTranspose2d(nn.Module):
    r"""A transposed convolution of stride 2 onto few channels, as a 3x3 convolution onto four times as many.

    .. math:: y_{2i+r} = \sum_{d=-1}^{1} w_{r-2d+2}\, x_{i+d}, \qquad r \in \{0, 1\}, \text{ along each axis}

    The four phases (r, s) of the output are the channels of an ordinary convolution, shuffled into place. Transposed
    convolutions onto three bands leave vector units idle; this one takes half the time, for the same numbers.

    References:
        | Real-time single image and video super-resolution using an efficient sub-pixel convolutional neural network
          (Shi et al., 2016), section 3.2
        | https://arxiv.org/abs/1609.05158

    Args:
        layer: A transposed convolution 5x5, stride 2, padding 2, output padding 1.

    Example:
        >>> import torch
        >>> from pyro_vble.models.freezing import SubpixelConvTranspose2d
        >>> layer = torch.nn.ConvTranspose2d(8, 3, 5, 2, 2, 1)
        >>> x = torch.randn(1, 8, 4, 6)
        >>> bool(torch.allclose(SubpixelConvTranspose2d(layer)(x), layer(x), atol=1e-5))
        True
    """

    _phases: Tensor
    _phase_bias: Tensor | None

    def __init__(self, layer: nn.ConvTranspose2d) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        bias = None if layer.bias is None else layer.bias.detach().repeat_interleave(4)
        self.register_buffer("_phases", _phases(layer.weight.detach()), persistent=False)
        self.register_buffer("_phase_bias", bias, persistent=False)
        self.register_load_state_dict_post_hook(_derive_phases)

    def forward(self, x: Tensor) -> Tensor:
        """From (B, C, H, W) to (B, C', 2H, 2W)."""
        return F.pixel_shuffle(F.conv2d(x, self._phases, self._phase_bias, padding=1), 2)


@torch.no_grad()
def _derive_phases(layer: SubpixelConvTranspose2d, incompatible: object) -> None:
    """Make what is derived from the weights anew, where it lies: a captured step goes on reading it there."""
    layer._phases.copy_(_phases(layer.weight))
    if layer.bias is not None and layer._phase_bias is not None:
        layer._phase_bias.copy_(layer.bias.repeat_interleave(4))


@torch.no_grad()
def _mask(layer: Any, incompatible: object) -> None:
    """Mask weights that were loaded."""
    layer.weight.mul_(layer.mask)


def _masked_once(layer: Any) -> nn.Module:
    """A masked convolution as an ordinary one: CompressAI's gives its weight new memory at every call.

    A captured step would go on reading the memory of the call that was captured.
    """
    shape = layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, layer.dilation
    ordinary = nn.utils.skip_init(nn.Conv2d, *shape, layer.groups, device=layer.weight.device)
    ordinary.weight, ordinary.bias = nn.Parameter(layer.weight * layer.mask, requires_grad=False), layer.bias
    ordinary.register_buffer("mask", layer.mask)  # as the names of the weights have it
    ordinary.register_load_state_dict_post_hook(_mask)
    return ordinary.eval()


def _upsamples_to_few_channels(layer: nn.ConvTranspose2d) -> bool:
    shape = (layer.kernel_size, layer.stride, layer.padding, layer.output_padding, layer.dilation, layer.groups)
    return layer.out_channels <= _FEW_CHANNELS and shape == ((5, 5), (2, 2), (2, 2), (1, 1), (1, 1), 1)


def _phases(weight: Tensor) -> Tensor:
    """Weights (C, C', 5, 5) of a transposed convolution as (4C', C, 3, 3) of an ordinary one."""
    phases = weight.new_zeros(weight.shape[1], 2, 2, weight.shape[0], 3, 3)
    taps = [(r, d, r - 2 * d + 2) for r in (0, 1) for d in (-1, 0, 1) if 0 <= r - 2 * d + 2 < 5]
    for r, d, tap in taps:
        for s, e, other in taps:
            phases[:, r, s, :, d + 1, e + 1] = weight[:, :, tap, other].T
    return phases.flatten(0, 2).contiguous(memory_format=torch.channels_last)
