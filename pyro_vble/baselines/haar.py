"""Haar wavelets at all positions."""

import torch
from torch import Tensor


def haar(x: Tensor, levels: int) -> Tensor:
    r"""Details of the translation-invariant Haar transform, (B, C, H, W, 3 levels, 1), of images (B, C, H, W).

    .. math:: a_{j+1} = \tfrac14 \sum_{s, t \in \{0, 1\}} T^{s}_{2^j} T^{t}_{2^j} a_j, \qquad
        d_{j+1}^{(p, q)} = \tfrac14 \sum_{s, t} (-1)^{ps + qt}\, T^{s}_{2^j} T^{t}_{2^j} a_j

    T moves along rows or columns by a power of two, around the border. With the last mean a the details are a tight
    frame: their squares sum to those of the image.

    Args:
        x: Images.
        levels: Number of scales.

    Example:
        >>> import torch
        >>> from pyro_vble.baselines.haar import haar
        >>> haar(torch.ones(1, 1, 8, 8), levels=2).abs().max()
        tensor(0.)
    """
    details = []
    for level in range(levels):
        x, *three = _split(x, 2**level)
        details += three
    return torch.stack(details, -1)[..., None]


def haar_adjoint(details: Tensor) -> Tensor:
    """The adjoint of :func:`haar`."""
    details = details[..., 0]
    x = torch.zeros_like(details[..., 0])
    for level in reversed(range(details.shape[-1] // 3)):
        x = _joined([x, *details[..., 3 * level : 3 * level + 3].unbind(-1)], 2**level)
    return x


def _split(x: Tensor, shift: int) -> list[Tensor]:
    """Mean and the three differences of every pixel and its neighbours at this distance."""
    low, high = _both(x, shift, -2)
    return [part for half in (low, high) for part in _both(half, shift, -1)]


def _both(x: Tensor, shift: int, axis: int) -> tuple[Tensor, Tensor]:
    moved = x.roll(-shift, axis)
    return (x + moved) / 2, (x - moved) / 2


def _joined(parts: list[Tensor], shift: int) -> Tensor:
    """The adjoint of the split."""
    mean, across, along, both = parts
    low, high = _both_adjoint(mean, across, shift, -1), _both_adjoint(along, both, shift, -1)
    return _both_adjoint(low, high, shift, -2)


def _both_adjoint(low: Tensor, high: Tensor, shift: int, axis: int) -> Tensor:
    return ((low + high) + (low - high).roll(shift, axis)) / 2
