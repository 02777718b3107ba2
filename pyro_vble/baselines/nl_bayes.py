"""NL-Bayes: denoising by Gaussians of similar patches."""

from typing import Annotated, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_vble._arguments import BrokenRuleError, Count, Positive, Rule, checked, whole

# A group of patches is flat if its values vary by no more than this many times the noise's variance.
_FLAT = 1.05
# Reference patches at a time: their groups are what memory goes to.
_AT_ONCE = 1024


def _odd(value: Any) -> int:
    number = whole(value)
    if number < 1 or number % 2 == 0:
        raise BrokenRuleError("value")
    return number


Odd = Annotated[int, Rule("an odd whole number of at least 1", _odd)]


@checked
@torch.no_grad()
def nl_bayes(
    x: Any,
    sigma: Positive,
    *,
    patch: Count | None = None,
    window: Odd = 21,
    num_similar: Count | None = None,
    stride: Count = 2,
) -> Tensor:
    r"""Images denoised of white Gaussian noise, by the patches that look alike.

    .. math:: \hat p^{(1)} = \bar p + (C - \sigma^2 I)_+\, C^{-1} (p - \bar p), \qquad
        \hat p^{(2)} = \bar p_1 + C_1 (C_1 + \sigma^2 I)^{-1} (p - \bar p_1)

    For each reference patch the most similar ones around it are taken for draws of one Gaussian: of its mean and
    covariance C as the noisy patches have them, then, in a second pass, as the first pass' patches have them. A group
    that varies no more than the noise is flat: its mean. All patches of a group are denoised, and the patches that
    cover a pixel averaged. All bands of an image are in a patch.

    Args:
        x: Images (B, C, H, W), on any scale.
        sigma: Standard deviation of the noise.
        patch: Rows and columns of a patch; 5 for one band, 3 for several.
        window: Rows and columns of the places, about a patch, where similar ones are searched.
        num_similar: Patches in a group; by default three for every value of a patch.
        stride: Distance of the reference patches.

    Returns:
        Denoised images (B, C, H, W).

    Raises:
        ValueError: If the images are smaller than a patch, or an argument is out of range.

    References:
        | A nonlocal Bayesian image denoising algorithm (Lebrun, Buades, Morel, 2013), algorithm 1
        | https://doi.org/10.1137/120874989

    Example:
        >>> import torch
        >>> from pyro_vble.baselines.nl_bayes import nl_bayes
        >>> noisy = 0.5 + 0.1 * torch.randn(1, 1, 24, 24)
        >>> bool(nl_bayes(noisy, 0.1).std() < 0.03)
        True
    """
    bands, *sides = x.shape[1:]
    side = patch or (5 if bands == 1 else 3)
    if min(sides) < side:
        raise ValueError(
            f"patch must fit into the image of {sides[0]}x{sides[1]} pixels; received {side}; take larger images."
        )
    num_similar = num_similar or 3 * bands * side**2
    settings = {"side": side, "window": window, "num_similar": num_similar, "stride": stride}
    done = []
    for image in x:
        first = _pass(image, image, sigma, **settings)
        done.append(_pass(image, first, sigma, oracle=True, **settings))
    return torch.stack(done)


def _pass(
    noisy: Tensor, guide: Tensor, sigma: float, *, side: int, window: int, num_similar: int, stride: int,
    oracle: bool = False,
) -> Tensor:  # fmt: skip
    """One pass over an image (C, H, W): similar patches of the guide, and Gaussians of them."""
    bands, height, width = noisy.shape
    patches = F.unfold(noisy[None], side)[0].T  # (positions, C side²)
    guides = patches if guide is noisy else F.unfold(guide[None], side)[0].T
    found = similar(guide, side, window, num_similar, stride)
    total, count = torch.zeros_like(patches), patches.new_zeros(len(patches), 1)
    for group in found.split(_AT_ONCE):
        p = patches[group]
        estimate = _oracle(p, guides[group], sigma) if oracle else _first(p, sigma, bands)
        total.index_add_(0, group.flatten(), estimate.flatten(0, 1))
        count.index_add_(0, group.flatten(), count.new_ones(group.numel(), 1))
    fold = lambda columns: F.fold(columns.T[None], (height, width), side)[0]  # noqa: E731
    return fold(total) / fold(count.expand(-1, patches.shape[1]).contiguous())


def similar(image: Tensor, side: int, window: int, num_similar: int, stride: int) -> Tensor:
    """Positions of the patches most like each reference patch, (references, n), itself among them.

    Positions count patches row by row. n is what was asked for, or as many as every reference has in its window.
    """
    rows, columns = (size - side + 1 for size in image.shape[-2:])
    reach = window // 2
    at = [_every(size, stride, image.device) for size in (rows, columns)]
    distances, places = [], []
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            y, x = at[0] + dy, at[1] + dx
            inside = ((y >= 0) & (y < rows))[:, None] & ((x >= 0) & (x < columns))[None, :]
            moved = image.roll((-dy, -dx), (-2, -1))
            squares = F.avg_pool2d((image - moved).square().sum(0)[None, None], side, stride=1)[0, 0]
            distance = squares[at[0]][:, at[1]]
            distances.append(torch.where(inside, distance, torch.inf).flatten())
            places.append((y[:, None] * columns + x[None, :]).flatten())
    distance, place = torch.stack(distances, -1), torch.stack(places, -1)
    most = min(num_similar, int(distance.isfinite().sum(-1).min()))
    return place.gather(-1, distance.topk(most, largest=False).indices)


def _every(size: int, stride: int, device: torch.device) -> Tensor:
    """Positions a stride apart, the last one among them."""
    return torch.unique(torch.cat([torch.arange(0, size, stride), torch.tensor([size - 1])])).to(device)


def _first(p: Tensor, sigma: float, bands: int) -> Tensor:
    """Groups (references, n, values) by the Gaussian that the noisy patches have, its noise taken off."""
    mean = p.mean(1, keepdim=True)
    values, vectors = torch.linalg.eigh(_covariance(p, mean))
    # Where noise alone is left of a direction, nothing is: the covariance of an image is not negative.
    kept = (values - sigma**2).clamp_min(0) / values.clamp_min(sigma**2 * 1e-3)
    shrunk = mean + ((p - mean) @ vectors * kept[:, None, :]) @ vectors.transpose(-1, -2)
    by_band = p.unflatten(-1, (bands, -1))
    flat_mean = by_band.mean((1, 3), keepdim=True)
    variance = (by_band - flat_mean).square().mean((1, 2, 3))
    flat = flat_mean.expand_as(by_band).flatten(2)
    return torch.where((variance < _FLAT * sigma**2)[:, None, None], flat, shrunk)


def _oracle(p: Tensor, guide: Tensor, sigma: float) -> Tensor:
    """Groups by the Gaussian that the first pass' patches have."""
    mean = guide.mean(1, keepdim=True)
    values, vectors = torch.linalg.eigh(_covariance(guide, mean))
    values = values.clamp_min(0)
    kept = values / (values + sigma**2)
    return mean + ((p - mean) @ vectors * kept[:, None, :]) @ vectors.transpose(-1, -2)


def _covariance(p: Tensor, mean: Tensor) -> Tensor:
    centred = p - mean
    return centred.transpose(-1, -2) @ centred / max(p.shape[1] - 1, 1)
