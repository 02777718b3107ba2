"""True errors beside the size that was predicted for them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vble._arguments import Count, CountOrZero, Probability, Seed, checked
from pyro_vble._tensors import RealTensor
from pyro_vble.diagnostics._source import SamplesLike, Source, draw_map
from pyro_vble.diagnostics.pit import known_values
from pyro_vble.metrics import BORDER, inner


@dataclass(frozen=True)
class ErrorQuantile:
    """Predicted and true errors of MMSE-x.

    Attributes:
        probability: That with which the error is predicted to stay below ``predicted``.
        predicted: The quantile of |sample - MMSE-x|, (B, C, H, W).
        error: |truth - MMSE-x|, (B, C, H, W).
        share: Share of the pixels, border left out, whose error does stay below.
    """

    probability: float
    predicted: Tensor
    error: Tensor
    share: float


@checked
def error_quantile(
    samples: SamplesLike,
    truth: RealTensor,
    probability: Probability = 0.9,
    *,
    num_samples: Count = 100,
    seed: Seed | None = None,
    border: CountOrZero = BORDER,
) -> ErrorQuantile:
    """The predicted 90 % quantile of the error at every pixel, beside the error itself.

    Args:
        samples: A posterior (calibrated, its calibrated quantile is taken), or samples (n, B, C, H, W).
        truth: The true image (B, C, H, W); NaN where it is unknown, which is left out of the share.
        probability: Which quantile.
        num_samples: Number of samples.
        seed: Seed of the samples.
        border: Pixels left out of the share.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If ``probability`` is not one, the truth has another shape or no known value inside its border, or a
            sample is not finite.

    Example:
        >>> import torch, deepinv
        >>> import pyro_vble as pv
        >>> from pyro_vble.diagnostics import error_quantile
        >>> physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))
        >>> posterior = pv.restore(torch.rand(1, 3, 64, 64), physics, "cae-bsd", num_steps=2, seed=0, progress=False)
        >>> found = error_quantile(posterior, torch.rand(1, 3, 64, 64), num_samples=8)
        >>> found.predicted.shape, 0 <= found.share <= 1
        (torch.Size([1, 3, 64, 64]), True)
    """
    source = Source(samples, truth, num_samples, seed)
    mean, truth = source.moments().mean, source.truth
    predicted = source.samples.error_quantile(probability, source.num_samples, seed=source.seed)
    error = (truth - mean).abs()
    below = torch.where(error.isfinite(), (error <= predicted).to(error), torch.nan)
    share = float(known_values(inner(below, border)).mean(dtype=float))
    return ErrorQuantile(probability, predicted, error, share)


@checked
def plot_error_quantile(found: ErrorQuantile, *, index: CountOrZero = 0, axs: Any = None) -> Any:
    """Draw true error and predicted quantile of one image of the batch side by side, on one scale; returns the axes."""
    if index >= len(found.error):
        raise ValueError(f"index must be one of the batch, 0 to {len(found.error) - 1}; received {index}.")
    if axs is None:
        import matplotlib.pyplot as plt

        axs = plt.subplots(1, 2, figsize=(8.6, 3.8), layout="constrained")[1]
    maps = (found.error[index], found.predicted[index])
    top = max(float(np.nanquantile(m.mean(0).cpu().numpy(), 0.995)) for m in maps)
    titles = ("true error |x - MMSE-x|", f"predicted {found.probability:.0%} quantile: holds {found.share:.1%}")
    for ax, image, title in zip(axs, maps, titles, strict=True):
        draw_map(image, ax, title=title, label="error (image in [0, 1])", cmap="magma", vmin=0, vmax=top)
    return axs
