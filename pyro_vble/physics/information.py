"""How much a measurement tells of its noiseless signal: Fisher's information, by distribution."""

import functools
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vble.distributions import Joined, ScaledPoisson
from pyro_vble.seeding import seeded

# Simulated measurements whose squared scores stand for information that no formula is known of.
_SIMULATIONS = 64


def fisher_information(p_y: dist.TorchDistribution, signal: Tensor) -> Tensor:
    r"""Fisher's information about every value of a signal, of its shape.

    .. math:: F = E_{y \sim p(y|s)}\Big[\Big(\frac{\partial \log p(y|s)}{\partial s}\Big)^2\Big]
        = \sum_\theta I_\theta \Big(\frac{\partial\theta}{\partial s}\Big)^2

    with I the information about the distribution's own parameters, where :func:`parameter_information` knows it;
    otherwise the mean of squared scores of simulated measurements.

    Args:
        p_y: Distribution of the measurement, elementwise, made of ``signal``.
        signal: The noiseless signal; it requires a gradient.

    Example:
        >>> import torch, deepinv
        >>> from pyro_vble.physics import fisher_information, likelihood
        >>> physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.125))
        >>> signal = torch.zeros(2, requires_grad=True)
        >>> fisher_information(likelihood(physics, signal), signal)
        tensor([64., 64.])
    """
    parts = p_y.parts if isinstance(p_y, Joined) else (p_y,)
    found = torch.zeros_like(signal)
    for k, part in enumerate(parts):
        known = parameter_information(part)
        if not known:
            found = found + _mean_squared_score(part, signal)
        for parameter, information in known:
            if parameter.requires_grad:
                (slope,) = torch.autograd.grad(parameter.sum(), signal, retain_graph=True)
                information = information.detach()
                information = p_y.placed(k, information) if isinstance(p_y, Joined) else information
                found = found + information * slope.square()
    return found


def score(p_y: dist.TorchDistribution, signal: Tensor, y: Tensor) -> Tensor:
    """The gradient of log p(y|s) in every value of the signal."""
    log_prob = p_y.log_prob(y)
    if not log_prob.requires_grad:
        return torch.zeros_like(signal)
    return torch.autograd.grad(log_prob.sum(), signal, retain_graph=True)[0]


@functools.singledispatch
def parameter_information(p: Any) -> Sequence[tuple[Tensor, Tensor]]:
    """Parameters of a distribution and the information about each, where it is diagonal; none where it is not known.

    A new distribution is one registered function.
    """
    return ()


@parameter_information.register
def _normal(p: dist.Normal) -> Sequence[tuple[Tensor, Tensor]]:
    return (p.loc, p.scale**-2), (p.scale, 2 * p.scale**-2)


@parameter_information.register
def _laplace(p: dist.Laplace) -> Sequence[tuple[Tensor, Tensor]]:
    return (p.loc, p.scale**-2), (p.scale, p.scale**-2)


@parameter_information.register
def _poisson(p: ScaledPoisson) -> Sequence[tuple[Tensor, Tensor]]:
    return ((p.rate, 1 / (p.rate * p.gain)),)


@parameter_information.register
def _gamma(p: dist.Gamma) -> Sequence[tuple[Tensor, Tensor]]:
    # Its shape, the number of looks, is no function of the signal.
    return ((p.rate, p.concentration / p.rate**2),)


def _mean_squared_score(p_y: dist.TorchDistribution, signal: Tensor) -> Tensor:
    total = torch.zeros_like(signal)
    with seeded(0):
        for _ in range(_SIMULATIONS):
            with torch.no_grad():
                y = p_y.sample()
            total += score(p_y, signal, y).square()
    return total / _SIMULATIONS
