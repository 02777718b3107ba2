"""Coverage by land: what intervals hold where an image is flat, and where it is textured."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_vble._arguments import Count, CountOrZero, Probability, Seed, checked
from pyro_vble._tensors import RealTensor
from pyro_vble.diagnostics._source import SamplesLike, Source, samples_of
from pyro_vble.metrics import BORDER, inner

_NAMES = {2: ("flat", "textured"), 3: ("flat", "middling", "textured")}


@dataclass(frozen=True)
class CoverageByTexture:
    """What intervals hold in parts of an image of like texture, from the flattest to the most textured.

    Attributes:
        probability: That of the intervals.
        names: Of the parts.
        texture: Largest local standard deviation of the estimate in each part.
        observed: Share of the part's values that the intervals hold.
        width: Mean width of the intervals.
        rms_error: Root of the mean squared error of the estimate.
        num_values: Values with a truth in each part.
    """

    probability: float
    names: tuple[str, ...]
    texture: tuple[float, ...]
    observed: tuple[float, ...]
    width: tuple[float, ...]
    rms_error: tuple[float, ...]
    num_values: tuple[int, ...]

    def rows(self) -> list[dict[str, Any]]:
        """A dict a part, for a table."""
        names = ("part", "texture up to", "coverage", "mean width", "rms error", "values")
        columns = self.names, self.texture, self.observed, self.width, self.rms_error, self.num_values
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


@checked
def coverage_by_texture(
    samples: SamplesLike,
    truth: RealTensor,
    *,
    probability: Probability = 0.9,
    parts: Count = 3,
    radius: Count = 4,
    num_samples: Count = 100,
    seed: Seed | None = None,
    border: CountOrZero = BORDER,
) -> CoverageByTexture:
    r"""What central intervals hold where the estimate is flat, and where it is textured.

    .. math:: c_g = \frac{\#\{i \in g : l_i \le x_i \le h_i\}}{\# g}

    with g parts of equally many pixels by the estimate's own local standard deviation, over squares of 2r + 1 pixels,
    which is seen without a truth too. An interval that holds a share p of an image may hold less of its towns and more
    of its fields.

    Args:
        samples: A posterior, of a scene's window too, or samples (n, B, C, H, W); calibrated ones have their calibrated
            intervals.
        truth: The true image (B, C, H, W); NaN where it is unknown, which is left out.
        probability: Of the intervals.
        parts: How many parts.
        radius: r, in pixels.
        num_samples: How many samples to draw from a posterior.
        seed: Seed.
        border: Pixels left out at the border.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If the truth has another shape, or fewer known values within its border than there are parts.

    Example:
        >>> import torch
        >>> from pyro_vble.diagnostics import coverage_by_texture
        >>> samples = torch.randn(99, 1, 1, 64, 64)
        >>> found = coverage_by_texture(samples, torch.randn(1, 1, 64, 64), parts=2)
        >>> found.names, [round(share, 1) for share in found.observed]
        (('flat', 'textured'), [0.9, 0.9])
    """
    source = Source(samples_of(samples), truth, num_samples, seed)
    source.check_stored()
    ends = source.samples.interval(probability, source.num_samples, seed=source.seed)
    mean = source.moments().mean
    return _by_texture(mean, ends, source.truth, probability, parts, radius, border)


@checked
def intervals_by_texture(
    mean: RealTensor,
    low: RealTensor,
    high: RealTensor,
    truth: RealTensor,
    *,
    probability: Probability = 0.9,
    parts: Count = 3,
    radius: Count = 4,
    border: CountOrZero = BORDER,
) -> CoverageByTexture:
    r"""The same of intervals that were made already, such as those that a scene's restoration writes.

    Args:
        mean: The estimate (B, C, H, W).
        low: Lower ends of the intervals.
        high: Their upper ends.
        truth: The true image; NaN where it is unknown, which is left out.
        probability: What the intervals claim to hold.
        parts, radius, border: As in :func:`coverage_by_texture`.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If the shapes differ, or there are fewer known values within the border than there are parts.

    Example:
        >>> import torch
        >>> from pyro_vble.diagnostics import intervals_by_texture
        >>> mean, truth = torch.zeros(1, 1, 64, 64), torch.rand(1, 1, 64, 64)
        >>> found = intervals_by_texture(mean, mean, mean + 0.5, truth, parts=1, probability=0.5)
        >>> [round(share, 1) for share in found.observed]
        [0.5]
    """
    shapes = {tuple(value.shape) for value in (mean, low, high, truth)}
    if len(shapes) != 1 or truth.dim() != 4:
        raise ValueError(
            "mean, low, high and truth must be of one shape (B, C, H, W); received "
            f"{', '.join(str(tuple(value.shape)) for value in (mean, low, high, truth))}."
        )
    if 2 * border >= min(truth.shape[-2:]):
        raise ValueError(
            f"border must leave some of every image; received {border} for {tuple(truth.shape[-2:])} pixels."
        )
    return _by_texture(mean, (low, high), truth, probability, parts, radius, border)


def _by_texture(
    mean: Tensor,
    ends: tuple[Tensor, Tensor],
    truth: Tensor,
    probability: float,
    parts: int,
    radius: int,
    border: int,
) -> CoverageByTexture:
    texture = _local_std(mean, radius).expand_as(mean)
    stacked = [inner(value, border).flatten() for value in (texture, *ends, mean, truth)]
    known = torch.isfinite(stacked[-1])
    texture, low, high, mean, truth = (value[known] for value in stacked)
    if len(truth) < parts:
        raise ValueError(
            f"truth must have at least {parts} known values within its border, one a part; received {len(truth)}; ask "
            "for fewer parts, or border=0."
        )
    order = texture.argsort(stable=True).tensor_split(parts)
    inside, error = (low <= truth) & (truth <= high), (mean - truth).square()
    return CoverageByTexture(
        probability,
        _NAMES.get(parts, tuple(f"part {k + 1}" for k in range(parts))),
        tuple(float(texture[part].amax()) for part in order),
        tuple(float(inside[part].double().mean()) for part in order),
        tuple(float((high - low)[part].double().mean()) for part in order),
        tuple(float(error[part].double().mean().sqrt()) for part in order),
        tuple(len(part) for part in order),
    )


def _local_std(x: Tensor, radius: int) -> Tensor:
    """The standard deviation of every square of 2r + 1 pixels, of the mean over bands, (B, 1, H, W)."""
    grey = x.double().mean(1, keepdim=True)
    size = 2 * radius + 1
    padded = F.pad(grey, (radius,) * 4, mode="replicate")
    mean, square = (F.avg_pool2d(value, size, stride=1) for value in (padded, padded.square()))
    return (square - mean.square()).clamp_min(0).sqrt()
