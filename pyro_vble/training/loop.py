"""The training loop: Adam on the ELBO."""

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyro
import torch
from torch import Tensor

from pyro_vble.inference.precision import network_precision
from pyro_vble.training.checkpoint import TrainingState
from pyro_vble.training.log import TrainingLog
from pyro_vble.training.objective import NegativeELBO, SiteOfImages, Terms
from pyro_vble.training.schedule import Budget, learning_rate

_MOST_SKIPPED = 10
_STEPS_PER_ROW = 50
# A read of the loss waits for the GPU: seldom there, at every step where there is nothing to wait for.
_STEPS_PER_READ = {"cpu": 1}
_STEPS_PER_READ_ELSEWHERE = 20


class TrainingDivergedError(RuntimeError):
    """The loss would not stay finite."""


@dataclass(frozen=True)
class Run:
    """What a loop needs besides its state.

    Attributes:
        draw: Gives the next batch.
        budget: Steps and time it may take.
        precision: "float32" or "bfloat16", of the networks.
        checkpoint: File of the state.
        log: The log.
        on_checkpoint: Called after each checkpoint; returns figures for the log.
        started: Time of a monotonic clock at which the time of this run began.
        progress: Called with the figures of the moment, at every read.
    """

    draw: Callable[[], Tensor]
    budget: Budget
    precision: str
    checkpoint: Path
    log: TrainingLog
    on_checkpoint: Callable[[], dict[str, float]]
    started: float
    progress: Callable[[dict[str, float]], None]


def run_steps(state: TrainingState, run: Run) -> bool:
    """Take steps until the budget is spent; returns False if it was interrupted before.

    The state is checkpointed regularly, at the end, and when interrupted (Ctrl-C, or SIGTERM).

    Raises:
        TrainingDivergedError: If ten steps in a row had a loss or gradient that was not finite.
    """
    objective = NegativeELBO(state.prior)
    schedule = state.recipe.schedule
    every = _STEPS_PER_READ.get(state.skipped.device.type, _STEPS_PER_READ_ELSEWHERE)
    before, first = state.elapsed, state.step
    meter = _Meter(state.recipe.data.batch_size)
    pace = 0.0
    with _interruptions() as interrupted:
        while True:
            state.elapsed = before + time.monotonic() - run.started
            # A step that would end too late is not begun.
            if run.budget.fraction(state.step, state.elapsed + pace) >= 1 or interrupted.is_set():
                break
            rate = learning_rate(schedule, run.budget.fraction(state.step, state.elapsed))
            read = (state.step + 1) % every == 0
            with pyro.validation_enabled(state.step == first):
                terms = training_step(state, objective, run.draw(), run.precision, rate, record=read)
            if terms is not None:
                meter.add(terms, state)
                run.progress(meter.now(state, before + time.monotonic() - run.started, rate))
                if meter.in_a_row >= _MOST_SKIPPED:
                    raise TrainingDivergedError(_diverged(state, run))
            pace = (before + time.monotonic() - run.started - state.elapsed) if every == 1 else meter.pace
            if state.step % _STEPS_PER_ROW == 0:
                run.log.write(meter.row(state, rate))
            if state.step % schedule.checkpoint_every == 0:
                _checkpoint(state, run)
                meter.restart()
        if state.step % schedule.checkpoint_every or state.step == first:
            _checkpoint(state, run)
    return not interrupted.is_set()


def training_step(
    state: TrainingState, objective: NegativeELBO, x: Tensor, precision: str, rate: float, *, record: bool = False
) -> Terms | None:
    """One step of Adam on a batch, skipped if its gradient is not finite; returns the terms of its loss if asked to.

    On CUDA the host waits for nothing.
    """
    optimiser = state.optimiser
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    for group in optimiser.param_groups:
        group["lr"] = rate
    site = SiteOfImages()
    with network_precision(precision, x.device), site if record else contextlib.nullcontext():
        loss = objective(x)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(parameters, state.recipe.schedule.clip)
    bad = ~torch.isfinite(norm + loss.detach())
    # Adam itself skips the step where this is 1, on the device: the host need not know.
    optimiser.found_inf = bad.float()
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    state.average.update_parameters(state.prior)
    state.skipped += bad
    state.skipped_in_a_row.copy_(torch.where(bad, state.skipped_in_a_row + 1, 0))
    state.step += 1
    return site.terms(loss) if record else None


class _Meter:
    """Figures of the last steps, averaged."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size, self.in_a_row, self.skipped, self.pace = batch_size, 0, 0, 0.0
        self.smooth: dict[str, float] = {}
        self.sums: dict[str, list[float]] = {}
        self.restart()

    def restart(self) -> None:
        """Leave the time since the last read out of the pace."""
        self.last: tuple[int, float] | None = None

    def add(self, terms: Terms, state: TrainingState) -> None:
        """Take in the figures of the step that was just taken."""
        # One transfer for all of them.
        values = torch.stack((terms.loss, terms.rate, terms.mse, state.skipped_in_a_row, state.skipped)).tolist()
        self.in_a_row, self.skipped = int(values[3]), int(values[4])
        now = time.monotonic()
        if self.last is not None:
            self.pace = (now - self.last[1]) / (state.step - self.last[0])
            self._record("images_per_second", self.batch_size / self.pace)
        self.last = (state.step, now)
        if self.in_a_row == 0:
            self._record("loss", values[0])
            self._record("rate", values[1])
            self._record("mse", values[2])

    def now(self, state: TrainingState, elapsed: float, rate: float) -> dict[str, float]:
        """Smoothed figures, for a progress bar."""
        figures = {"step": state.step, "elapsed": elapsed, "lr": rate, **self.smooth}
        return figures | {"psnr": _decibels(figures.pop("mse", math.nan)), "skipped": self.skipped}

    def row(self, state: TrainingState, rate: float) -> dict[str, float]:
        """Means since the last row, for the log."""
        means = {name: sum(values) / len(values) for name, values in self.sums.items()}
        self.sums.clear()
        figures = {name: round(value, 6) for name, value in means.items() if name != "mse"}
        figures |= {"step": state.step, "seconds": round(state.elapsed, 1), "lr": rate, "skipped": self.skipped}
        return figures | {"psnr": round(_decibels(means.get("mse", math.nan)), 4)}

    def _record(self, name: str, value: float) -> None:
        self.sums.setdefault(name, []).append(value)
        self.smooth[name] = value if name not in self.smooth else 0.95 * self.smooth[name] + 0.05 * value


def _checkpoint(state: TrainingState, run: Run) -> None:
    figures = run.on_checkpoint()
    run.log.write({"step": state.step, "seconds": round(state.elapsed, 1), **figures})
    state.log = run.log.rows
    state.save(run.checkpoint)


def _diverged(state: TrainingState, run: Run) -> str:
    good = run.checkpoint if run.checkpoint.exists() else "none was written yet"
    return (
        f"Loss and gradient must be finite; up to step {state.step} they were not for {_MOST_SKIPPED} steps in a row "
        f"({int(state.skipped)} in all). The last good checkpoint: {good}. Lower schedule.lr or schedule.clip, or look "
        "for damaged images."
    )


def _decibels(mse: float) -> float:
    return -10 * math.log10(mse) if mse > 0 else math.nan


@contextlib.contextmanager
def _interruptions() -> Iterator[threading.Event]:
    """A flag that Ctrl-C or SIGTERM raises: steps end whole. A second Ctrl-C ends at once."""
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return

    def note(number: int, frame: object) -> None:
        if flag.is_set():
            raise KeyboardInterrupt
        flag.set()

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield flag
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
