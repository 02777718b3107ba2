"""Errors in units of their predicted size."""

from typing import Any

from torch import Tensor

from pyro_vble._arguments import Count, Positive, Seed, checked
from pyro_vble._tensors import RealTensor
from pyro_vble.diagnostics._source import SamplesLike, Source, draw_map


@checked
def z_score_map(
    samples: SamplesLike, truth: RealTensor, *, num_samples: Count = 100, seed: Seed | None = None
) -> Tensor:
    r"""The error of MMSE-x over the predicted standard deviation, (B, C, H, W).

    .. math:: \zeta = \frac{x - E[x|y]}{\mathrm{std}[x|y]}

    Structure in it is what the posterior does not know of. NaN where the truth is (unknown).

    Args:
        samples: A posterior, or samples (n, B, C, H, W).
        truth: The true image (B, C, H, W).
        num_samples: How many samples to draw from a posterior.
        seed: Seed of the samples.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If the truth has another shape or no known value, or a sample is not finite.

    Example:
        >>> import torch
        >>> from pyro_vble.diagnostics import z_score_map
        >>> zeta = z_score_map(2 * torch.randn(500, 1, 1, 40, 40), 2 * torch.randn(1, 1, 40, 40))
        >>> bool(0.9 < zeta.std() < 1.1)
        True
    """
    source = Source(samples, truth, num_samples, seed)
    moments = source.moments()
    return (source.truth - moments.mean) / moments.std.clamp_min(1e-12)


@checked
def plot_z_score_map(zeta: RealTensor, *, ax: Any = None, limit: Positive = 4.0) -> Any:
    """Draw the z-scores of one image (C, H, W), bands averaged; returns the axes."""
    label = "error / predicted standard deviation"
    return draw_map(zeta, ax, title="z-scores", label=label, cmap="RdBu_r", vmin=-limit, vmax=limit)
