"""Hamiltonian Monte Carlo of many chains in one batch."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

_ACCEPTANCE = 0.7
# An energy that errs by more has left the region where leapfrog steps are stable.
_DIVERGENT = 1000.0
# Warm-up draws after which the scales are taken from those since the last time, as parts of the warm-up.
_UPDATES = (0.1, 0.2, 0.35, 0.55, 0.85)
# Draws that unit scales, which is what a guide's widths make them, weigh among a window's.
_PRIOR_DRAWS = 10


@dataclass
class HMCState:
    """Where all chains are after a transition.

    Attributes:
        position: (chains, dimensions).
        log_density: (chains,).
        acceptance: Acceptance probability of the transition, (chains,).
        divergent: Whether it diverged, (chains,).
        warm: Whether warm-up is over.
    """

    position: Tensor
    log_density: Tensor
    acceptance: Tensor
    divergent: Tensor
    warm: bool


def hmc(
    log_density: Callable[[Tensor], Tensor],
    position: Tensor,
    *,
    num_samples: int,
    num_warmup: int,
    trajectory: float,
    max_steps: int,
) -> Iterator[HMCState]:
    r"""Transitions of independent chains that share their gradients' passes, step size and scales.

    Leapfrog trajectories of a length uniform on (0, 2) times ``trajectory``, in units of the scales; each chain accepts
    or rejects its own. In warm-up dual averaging leads the step size to an acceptance of 0.7, and scales become the
    standard deviations of all chains' positions.

    References:
        | MCMC using Hamiltonian dynamics (Neal, 2011)
        | https://arxiv.org/abs/1206.1901
        | The no-U-turn sampler (Hoffman and Gelman, 2014), section 3.2, dual averaging
        | https://arxiv.org/abs/1111.4246

    Args:
        log_density: From positions (chains, dimensions) to log-densities (chains,), differentiable.
        position: Where the chains start, (chains, dimensions).
        num_samples: Transitions after warm-up.
        num_warmup: Transitions of warm-up.
        trajectory: Mean length of a trajectory, in units of the scales.
        max_steps: Largest number of leapfrog steps of a transition.
    """
    scale, step = torch.ones_like(position[0]), _StepSize(position.shape[1] ** -0.25)
    updates = {round(part * num_warmup) for part in _UPDATES} - {0}
    value, gradient = _with_gradient(log_density, position)
    window: list[Tensor] = []
    for turn in range(num_warmup + num_samples):
        warm = turn >= num_warmup
        size = step.settled if warm else step.current
        length = 2 * trajectory * float(torch.rand(()))
        steps = min(max(1, math.ceil(length / size)), max_steps)
        momentum = torch.randn_like(position)
        new, new_value, new_gradient, new_momentum = position, value, gradient, momentum
        for _ in range(steps):
            new_momentum = new_momentum + size / 2 * scale * new_gradient
            new = new + size * scale * new_momentum
            new_value, new_gradient = _with_gradient(log_density, new)
            new_momentum = new_momentum + size / 2 * scale * new_gradient
        error = (new_value - value) - (new_momentum.square() - momentum.square()).sum(1) / 2
        divergent = ~(error > -_DIVERGENT)  # NaN too
        acceptance = torch.where(divergent, torch.zeros_like(error), error.clamp_max(0).exp())
        accepted = torch.rand_like(acceptance) < acceptance
        position = torch.where(accepted[:, None], new, position)
        gradient = torch.where(accepted[:, None], new_gradient, gradient)
        value = torch.where(accepted, new_value, value)
        yield HMCState(position, value, acceptance, divergent, warm)
        if warm:
            continue
        step.update(float(acceptance.mean()))
        window.append(position)
        if turn + 1 in updates:
            scale = _scales(torch.cat(window))
            window, step = [], _StepSize(step.settled)


def _with_gradient(log_density: Callable[[Tensor], Tensor], position: Tensor) -> tuple[Tensor, Tensor]:
    position = position.detach().requires_grad_()
    value = log_density(position)
    (gradient,) = torch.autograd.grad(value.sum(), position)
    return value.detach(), gradient


def _scales(draws: Tensor) -> Tensor:
    """Standard deviations of draws (n, dimensions), shrunk towards one."""
    n = len(draws)
    return ((n * draws.var(0, correction=0) + _PRIOR_DRAWS) / (n + _PRIOR_DRAWS)).sqrt()


class _StepSize:
    """Nesterov's dual averaging of the logarithm of a step size, with Hoffman and Gelman's constants."""

    def __init__(self, start: float) -> None:
        self._centre = self._log = self._mean_log = math.log(start)
        self._error, self._turn = 0.0, 0

    def update(self, acceptance: float) -> None:
        """Shorten the step if too little was accepted, else lengthen it."""
        self._turn += 1
        weight = 1 / (self._turn + 10)
        self._error = (1 - weight) * self._error + weight * (_ACCEPTANCE - acceptance)
        self._log = self._centre - math.sqrt(self._turn) / 0.05 * self._error
        part = self._turn**-0.75
        self._mean_log = part * self._log + (1 - part) * self._mean_log

    @property
    def current(self) -> float:
        return math.exp(self._log)

    @property
    def settled(self) -> float:
        """The mean over the turns, the latest weighing most."""
        return math.exp(self._mean_log)
