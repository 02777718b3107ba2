"""Steps of a training: one after another, or captured once in a CUDA graph and replayed."""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor

from pyro_vble._cuda_graphs import Captured
from pyro_vble.inference.precision import reduced_precision
from pyro_vble.training.checkpoint import TrainingState
from pyro_vble.training.objective import NegativeELBO, SiteOfImages, Terms
from pyro_vble.training.optimisers import is_capturable, keep_rates_on, set_rate, step_unless


class Steps(Protocol):
    """Takes a step at a rate; returns the terms of its loss if asked to."""

    def __call__(self, rate: float, *, record: bool = False) -> Terms | None:
        """Take a step."""
        ...


def steps_of(state: TrainingState, objective: NegativeELBO, draw: Callable[[], Tensor]) -> Steps:
    """Steps of a training on batches that are drawn: captured on CUDA, where the optimiser allows it."""
    if state.skipped.device.type == "cuda" and is_capturable(state.optimiser):
        return CapturedSteps(state, objective, draw)

    def step(rate: float, *, record: bool = False) -> Terms | None:
        return training_step(state, objective, draw(), rate, record=record)

    return step


def training_step(
    state: TrainingState, objective: NegativeELBO, x: Tensor, rate: float, *, record: bool = False
) -> Terms | None:
    """One optimiser step on a batch, skipped if its gradient is not finite; returns the terms of its loss if asked to.

    On CUDA the host waits for nothing, with Adam and Muon.
    """
    set_rate(state.optimiser, rate)
    terms = _update(state, objective, x, record=record)
    _follow(state)
    return terms


class CapturedSteps:
    """Steps captured once in a CUDA graph and replayed, after two that are taken eagerly.

    What cannot be captured goes on eagerly, with one warning.

    Args:
        state: The training, on CUDA.
        objective: Its loss.
        draw: Gives a batch, by the device's own random numbers.
    """

    def __init__(self, state: TrainingState, objective: NegativeELBO, draw: Callable[[], Tensor]) -> None:
        self.state, self.objective, self.draw = state, objective, draw
        self.updates: Captured[Terms | None] = Captured(state.skipped.device)
        keep_rates_on(state.skipped.device, state.optimiser)

    def __call__(self, rate: float, *, record: bool = False) -> Terms | None:
        """Take a step at a rate; returns the terms of its loss if asked to."""
        set_rate(self.state.optimiser, rate)
        with _fastest_convolutions():
            terms = self.updates(self._updated, self._updated, self._refused)
        _follow(self.state)
        return terms if record else None

    def _updated(self) -> Terms | None:
        return _update(self.state, self.objective, self.draw(), record=True)

    def _refused(self, reason: str) -> None:
        self.state.optimiser.zero_grad(set_to_none=True)
        warnings.warn(
            "This training cannot be captured in a CUDA graph and goes on step by step, several times slower: "
            f"{reason}",
            stacklevel=2,
        )


def _update(state: TrainingState, objective: NegativeELBO, x: Tensor, *, record: bool) -> Terms | None:
    """Move the weights by the gradient on a batch: all of a step that runs on the device."""
    optimiser = state.optimiser
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    site = SiteOfImages()
    with reduced_precision(state.precision, x.device), site if record else contextlib.nullcontext():
        loss = objective(x)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(parameters, state.recipe.schedule.clip)
    bad = ~torch.isfinite(norm + loss.detach())
    step_unless(bad, optimiser)
    optimiser.zero_grad(set_to_none=True)
    state.skipped += bad
    state.skipped_in_a_row.add_(1).mul_(bad)
    torch.maximum(state.most_skipped_in_a_row, state.skipped_in_a_row, out=state.most_skipped_in_a_row)
    return site.terms(loss) if record else None


@torch.no_grad()
def _follow(state: TrainingState) -> None:
    """Move the average towards the weights, faster while it is young, and count the step."""
    decay = min(state.recipe.schedule.average, (1 + state.step) / (10 + state.step))
    # Not a public name, but the one form that takes all parameters at once.
    torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
        list(state.average.parameters()), list(state.prior.parameters()), 1 - decay
    )
    state.step += 1


@contextlib.contextmanager
def _fastest_convolutions() -> Iterator[None]:
    """A scope in which cuDNN tries its convolutions on what it has not seen, and keeps the fastest."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
