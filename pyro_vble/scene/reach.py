"""How far networks and operators reach, found by asking them."""

from typing import Any

import torch
from torch import Tensor

from pyro_vble.models import CAE
from pyro_vble.scene.operators import SceneOperator

# Latents on either side of the one that is asked about; a decoder that reaches further is refused.
_AROUND = 8
# Of operators a gradient that is this much less than the largest is none: those in the Fourier domain leave rounding
# errors. Values that are measured alike may differ by this part of the largest, for the same reason.
_NONE, _ALIKE = 1e-6, 1e-4
_LARGEST_REACH = 256
# By how many measured values images are cut to see whether they are measured alike; tiles are cut at multiples of it.
_CUT = 64


def decoder_reach(prior: CAE) -> int:
    """Latents on either side that a pixel depends on, through the decoder of means or that of standard deviations.

    Found from gradients, of sums over the pixels of one latent's place, with respect to all latents about it.

    Raises:
        ValueError: If it reaches further than eight.
    """
    network = prior.network
    side = 2 * _AROUND + 1
    channels = network.g_s[0].weight.shape[0] if hasattr(network.g_s[0], "weight") else network.M
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        z = torch.randn(1, channels, side, side, dtype=prior.tensor_options()["dtype"], requires_grad=True)
        z_on = z.to(prior.tensor_options()["device"])
        decoded = prior.decode(z_on)
        step = decoded[0].shape[-1] // side
        rows = slice(_AROUND * step, (_AROUND + 1) * step)
        reach = 0
        for x in decoded:
            if not x.requires_grad:
                continue  # one standard deviation for all
            # Squares: of a sum, positive and negative weights could cancel.
            (slope,) = torch.autograd.grad(x[..., rows, rows].square().sum(), z, retain_graph=True)
            reach = max(reach, _extent(slope, _AROUND))
    if reach >= _AROUND:
        raise ValueError(
            f"A scene needs a prior whose decoder reaches less than {_AROUND} latents; {prior.name or 'this one'} "
            "reaches further; restore the image in one piece."
        )
    return reach


def operator_reach(operator: SceneOperator, bands: int, *, side: int = 64) -> int:
    """Pixels on either side that a measured value depends on, from gradients of values in the middle.

    Args:
        operator: The operator.
        bands: Bands of the image.
        side: Side of the images that it is asked about, at first; doubled until they are large enough.

    Raises:
        ValueError: If it reaches further than 256 pixels, or measures a part of an image otherwise than the whole:
            such an operator cannot be applied tile by tile.
    """
    ratio = operator.ratio
    while side < 8 * _LARGEST_REACH:
        size = side * ratio
        with torch.enable_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            x = torch.rand(1, bands, size, size, requires_grad=True)
            try:
                y = operator.physics((bands, size, size)).A(x)
            except Exception:  # the border of a small image cannot be reflected as far as a wide kernel reaches
                side *= 2
                if side < 8 * _LARGEST_REACH:
                    continue
                raise
            middle = y.shape[-1] // 2
            (slope,) = torch.autograd.grad(y[..., middle, middle].square().sum(), x)
        if not slope.any():  # a value that is masked; whether all are, the parts tell
            _check_parts(operator, bands, 0)
            return 0
        # The measured pixel covers ``ratio`` of the image's.
        first, last = ratio * middle, ratio * middle + ratio - 1
        rows, columns = _support(slope, _NONE)
        found = [first - rows[0], rows[1] - last, first - columns[0], columns[1] - last]
        reach = max(0, *found)
        if reach < ratio * middle // 2:
            if reach > _LARGEST_REACH:
                break
            _check_parts(operator, bands, -(-reach // ratio))
            return reach
        side *= 2
    raise ValueError(
        f"A scene is restored tile by tile, which needs an operator that reaches at most {_LARGEST_REACH} pixels; "
        "received one that reaches further; use a narrower point-spread function, or restore the image in one piece."
    )


@torch.no_grad()
def _check_parts(operator: SceneOperator, bands: int, edge: int) -> None:
    """Raise unless parts of an image are measured as in the whole, but for the values next to where they were cut.

    A padding that wraps around makes one edge depend on the other, which a part does not have; a mask, or a blur that
    changes over the image, belongs to places, of which a part does not know.

    Raises:
        ValueError: If not.
    """
    ratio, side = operator.ratio, _CUT + 2 * edge + 32
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, bands, ratio * side, ratio * side, generator=generator)

    def measured(image: Tensor) -> Tensor:
        return operator.physics((bands, image.shape[-2], image.shape[-1])).A(image)

    y, kept = measured(x), side - _CUT
    lower, upper = (measured(x[..., rows, rows]) for rows in (slice(ratio * _CUT, None), slice(ratio * kept)))
    pairs = (
        (lower[..., edge:, edge:], y[..., _CUT + edge :, _CUT + edge :]),
        (upper[..., : kept - edge, : kept - edge], y[..., : kept - edge, : kept - edge]),
    )
    if all(bool(((part - whole).abs() <= _ALIKE * y.abs().amax()).all()) for part, whole in pairs):
        return
    raise ValueError(
        "A scene is restored tile by tile, which needs an operator that measures a part of an image as it does in the "
        "whole; received one whose values depend on the other end of the image, or on their own place; choose a "
        'padding that does not wrap around, such as "reflect", and mark missing pixels by NaN in place of a mask.'
    )


def _support(slope: Tensor, none: float = 0.0) -> tuple[tuple[int, int], tuple[int, int]]:
    """First and last row, and column, where there is a gradient."""
    large = slope.abs().flatten(0, -3).amax(0)
    large = large > none * large.amax()
    rows, columns = large.any(1).nonzero().flatten(), large.any(0).nonzero().flatten()
    return (int(rows[0]), int(rows[-1])), (int(columns[0]), int(columns[-1]))


def _extent(slope: Any, middle: int) -> int:
    rows, columns = _support(slope)
    return max(middle - rows[0], rows[1] - middle, middle - columns[0], columns[1] - middle)
