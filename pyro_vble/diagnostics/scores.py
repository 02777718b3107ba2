"""Proper scores: accuracy and honesty in one number."""

from typing import Any

import torch
from torch import Tensor

from pyro_vble._arguments import Count, Seed, checked
from pyro_vble._extras import extra
from pyro_vble._tensors import OpenProbability, RealTensor
from pyro_vble.diagnostics._source import SamplesLike, Source, draw_map


@checked
def crps(samples: SamplesLike, truth: RealTensor, *, num_samples: Count = 100, seed: Seed | None = None) -> Tensor:
    r"""The continuous ranked probability score of every pixel, (B, C, H, W), in image units; less is better.

    .. math:: \mathrm{CRPS} = E|X - x| - \tfrac12 E|X - X'|

    with the unbiased estimator of both expectations ("fair"). Of a point estimate it is the absolute error. NaN where
    the truth is (unknown).

    References:
        | Strictly proper scoring rules, prediction, and estimation (Gneiting and Raftery, 2007), section 4.2
        | https://doi.org/10.1198/016214506000001437

    Args:
        samples: A posterior, or samples (n, B, C, H, W), all of which are held in memory.
        truth: The true image (B, C, H, W).
        num_samples: How many samples to draw from a posterior.
        seed: Seed of the samples.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If there are fewer than two samples, one is not finite, or the truth has another shape or no known
            value.

    Example:
        >>> import torch
        >>> from pyro_vble.diagnostics import crps
        >>> score = crps(torch.randn(300, 1, 1, 40, 40), torch.zeros(1, 1, 40, 40))
        >>> round(float(score.mean()), 1)                # 2 phi(0) - 1/sqrt(pi) = 0.234
        0.2
    """
    with extra("diagnostics"):
        import scoringrules
    source = Source(samples, truth, num_samples, seed)
    if source.num_samples < 2:
        raise ValueError(f"The score needs at least 2 samples; received {source.num_samples}.")
    # A few rows at a time: the estimator sorts every pixel's samples. It makes tensors of its own on the CPU.
    everything, truth = source.all().flatten(1).cpu(), source.truth.cpu()
    pieces: list[Any] = [
        scoringrules.crps_ensemble(part, members.T, m_axis=-1, estimator="pwm", backend="torch")
        for part, members in zip(truth.flatten().split(1 << 16), everything.split(1 << 16, dim=1), strict=True)
    ]
    return torch.cat(pieces).reshape(truth.shape).to(source.truth.device)


@checked
def interval_score(
    samples: SamplesLike,
    truth: RealTensor,
    probability: OpenProbability = 0.9,
    *,
    num_samples: Count = 100,
    seed: Seed | None = None,
) -> Tensor:
    r"""The interval score of the central interval [l, u] of every pixel, (B, C, H, W), in image units; less is better.

    .. math:: (u - l) + \tfrac2\alpha (l - x)_+ + \tfrac2\alpha (x - u)_+, \qquad \alpha = 1 - p

    Narrow intervals are rewarded, misses are punished. NaN where the truth is (unknown).

    References:
        | Strictly proper scoring rules, prediction, and estimation (Gneiting and Raftery, 2007), section 6.2
        | https://doi.org/10.1198/016214506000001437

    Args:
        samples: A posterior, or samples (n, B, C, H, W).
        truth: The true image (B, C, H, W).
        probability: That of the interval.
        num_samples: How many samples to draw from a posterior.
        seed: Seed of the samples.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If ``probability`` is not between 0 and 1, a sample is not finite, or the truth has another shape or
            no known value.

    Example:
        >>> import torch
        >>> from pyro_vble.diagnostics import interval_score
        >>> score = interval_score(torch.rand(99, 1, 1, 20, 20), torch.full((1, 1, 20, 20), 0.5), 0.8)
        >>> round(float(score.mean()), 1)
        0.8
    """
    with extra("diagnostics"):
        import scoringrules
    source = Source(samples, truth, num_samples, seed)
    source.check_stored()
    low, high = source.samples.interval(probability, source.num_samples, seed=source.seed)
    return scoringrules.interval_score(source.truth, low, high, 1 - probability, backend="torch")


@checked
def plot_score_map(score: RealTensor, *, ax: Any = None, title: str = "CRPS") -> Any:
    """Draw the scores of one image (C, H, W), bands averaged; returns the axes."""
    return draw_map(score, ax, title=title, label=f"{title} (image in [0, 1])", cmap="magma", vmin=0)
