"""Errors in units of their predicted size."""

from typing import Any

from torch import Tensor

from pyro_vble.diagnostics._source import Samples, Source, draw_map


def z_score_map(samples: Samples, truth: Tensor, *, num_samples: int = 100, seed: int | None = None) -> Tensor:
    r"""The error of MMSE-x over the predicted standard deviation, (B, C, H, W).

    .. math:: \zeta = \frac{x - E[x|y]}{\mathrm{std}[x|y]}

    Structure in it is what the posterior does not know of.

    Args:
        samples: A posterior, or samples (n, B, C, H, W).
        truth: The true image (B, C, H, W).
        num_samples: How many samples to draw from a posterior.
        seed: Seed of the samples.

    Example:
        >>> import torch
        >>> from pyro_vble.diagnostics import z_score_map
        >>> zeta = z_score_map(2 * torch.randn(500, 1, 1, 40, 40), 2 * torch.randn(1, 1, 40, 40))
        >>> bool(0.9 < zeta.std() < 1.1)
        True
    """
    moments = Source(samples, truth, num_samples, seed).moments()
    return (truth - moments.mean) / moments.std.clamp_min(1e-12)


def plot_z_score_map(zeta: Tensor, *, ax: Any = None, limit: float = 4.0) -> Any:
    """Draw the z-scores of one image (C, H, W), bands averaged; returns the axes."""
    label = "error / predicted standard deviation"
    return draw_map(zeta, ax, title="z-scores", label=label, cmap="RdBu_r", vmin=-limit, vmax=limit)
