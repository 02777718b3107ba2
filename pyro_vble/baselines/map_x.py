r"""MAP in the image: the likelihood and a prior that is sparse after a linear transform, total variation or wavelets.

.. math:: \hat x = \arg\min_x\; \frac{1}{2\sigma^2} \lVert Ax - y \rVert^2 + w\, \lVert Kx \rVert_{1,2}
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from deepinv.optim import L12Prior, TVPrior
from torch import Tensor

from pyro_vble._arguments import Count, Positive, checked
from pyro_vble.baselines.haar import haar, haar_adjoint
from pyro_vble.baselines.linear import LinearProblem
from pyro_vble.baselines.point import point
from pyro_vble.inference.precision import Device
from pyro_vble.samples import StoredSamples

# By how much an image is expected to change on its way, which balances the steps of image and dual variable.
_CHANGE = 0.1


class Analysis(NamedTuple):
    """A linear transform K of images whose groups of coefficients, along the last axis, a prior wants to be few.

    Attributes:
        forward: K, from (B, C, H, W) to (B, C, H, W, groups' members) or with further axes before the last.
        adjoint: Its adjoint.
        square: A bound of its squared norm.
    """

    forward: Callable[[Tensor], Tensor]
    adjoint: Callable[[Tensor], Tensor]
    square: float


_TV = TVPrior()
#: Differences to the neighbours below and to the right: isotropic total variation.
GRADIENT = Analysis(_TV.nabla, _TV.nabla_adjoint, 8.0)


@checked
def map_tv(
    y: Any,
    physics: Any,
    *,
    weight: Positive = 10.0,
    noise: Positive | None = None,
    num_iterations: Count = 300,
    device: Device = "auto",
) -> StoredSamples:
    r"""The image of highest posterior density under the total-variation prior, :math:`p(x) \propto e^{-w\,TV(x)}`.

    .. math:: \hat x = \arg\min_x\; \frac{1}{2\sigma^2} \lVert M(Ax - y) \rVert^2
        + w \sum_i \sqrt{(\partial_1 x)_i^2 + (\partial_2 x)_i^2}

    band by band, by Chambolle's and Pock's algorithm, which needs no inner loop.

    Args:
        y: Measurement (B, C, H', W') of images in [0, 1]; NaN where unobserved.
        physics: A linear deepinv operator with its noise model; what is not white is taken as white.
        weight: w, in nats for a step from black to white between two pixels.
        noise: σ, in place of the noise model's.
        num_iterations: Steps of the algorithm.
        device: "auto" (CUDA where there is one) or a torch device.

    Returns:
        One image (1, B, C, H, W), as samples.

    Raises:
        TypeError: If the operator is not linear, or an argument of a wrong kind.
        ValueError: If y does not fit the operator or its scale.

    References:
        | Nonlinear total variation based noise removal algorithms (Rudin et al., 1992)
        | A first-order primal-dual algorithm for convex problems (Chambolle and Pock, 2011), algorithm 1

    Example:
        >>> import torch, deepinv
        >>> from pyro_vble.baselines import map_tv
        >>> physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))
        >>> map_tv(torch.rand(1, 3, 16, 16), physics, num_iterations=5).mmse_x().shape
        torch.Size([1, 3, 16, 16])
    """
    problem = LinearProblem.of(y, physics, noise=noise, device=device)
    x, _ = sparsest(problem, GRADIENT, weight, num_iterations)
    return point(x, y, physics, f"map_tv, weight {weight:g}")


@checked
def map_wavelet(
    y: Any,
    physics: Any,
    *,
    weight: Positive = 5.0,
    levels: Count = 3,
    noise: Positive | None = None,
    num_iterations: Count = 300,
    device: Device = "auto",
) -> StoredSamples:
    r"""The image of highest posterior density under a prior of sparse Haar wavelets, of all positions.

    .. math:: \hat x = \arg\min_x\; \frac{1}{2\sigma^2} \lVert M(Ax - y) \rVert^2 + w \sum_j \lVert (W x)_j \rVert_1

    W are the details of the translation-invariant Haar transform (``pyro_vble.baselines.haar``), a tight
    frame together with its coarsest mean, which is left alone.

    Args:
        y: Measurement (B, C, H', W') of images in [0, 1]; NaN where unobserved.
        physics: A linear deepinv operator with its noise model; what is not white is taken as white.
        weight: w, in nats for a coefficient of 1.
        levels: Scales of the transform.
        noise: σ, in place of the noise model's.
        num_iterations: Steps of Chambolle's and Pock's algorithm.
        device: "auto" (CUDA where there is one) or a torch device.

    Returns:
        One image (1, B, C, H, W), as samples.

    Raises:
        TypeError: If the operator is not linear, or an argument of a wrong kind.
        ValueError: If y does not fit the operator or its scale, or the image is smaller than the coarsest wavelet.

    References:
        | Translation-invariant de-noising (Coifman and Donoho, 1995)
        | Analysis versus synthesis in signal priors (Elad et al., 2007)

    Example:
        >>> import torch, deepinv
        >>> from pyro_vble.baselines import map_wavelet
        >>> physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))
        >>> map_wavelet(torch.rand(1, 3, 16, 16), physics, num_iterations=5).mmse_x().shape
        torch.Size([1, 3, 16, 16])
    """
    problem = LinearProblem.of(y, physics, noise=noise, device=device)
    sides = problem.start.shape[-2:]
    if min(sides) < 2**levels:
        raise ValueError(
            f"levels must be so few that the coarsest wavelet, of 2**levels pixels, fits the image of {sides[0]}x"
            f"{sides[1]}; received {levels}; take at most {int(math.log2(min(sides)))}."
        )
    wavelets = Analysis(lambda x: haar(x, levels), haar_adjoint, 1.0)
    x, _ = sparsest(problem, wavelets, weight, num_iterations)
    return point(x, y, physics, f"map_wavelet, weight {weight:g}, {levels} levels")


@torch.no_grad()
def sparsest(problem: LinearProblem, analysis: Analysis, weight: float, num_iterations: int) -> tuple[Tensor, Tensor]:
    """The image that minimises data term plus weighted prior, and the dual variable that proves it.

    Where the two have converged, Aᵀ(Ax - y) + Kᵀu = 0, no group of u is longer than the weight, and groups where
    Kx is not 0 point along it with just this length.
    """
    balance = _CHANGE / weight
    tau, sigma = balance / math.sqrt(analysis.square), 1 / (balance * math.sqrt(analysis.square))
    shrink = L12Prior()
    x = problem.start
    ahead, u = x, torch.zeros_like(analysis.forward(x))
    for _ in range(num_iterations):
        v = u + sigma * analysis.forward(ahead)
        u = v - shrink.prox(v, gamma=weight)  # Moreau: the projection of groups onto balls of radius w
        step = x - tau * analysis.adjoint(u)
        new = problem.physics.prox_l2(step, problem.y, gamma=tau, init=x)
        ahead, x = 2 * new - x, new
    return x, u
