"""The training loop: steps of an optimiser on the ELBO."""

import contextlib
import math
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyro
import torch
from torch import Tensor

from pyro_vble.seeding import seeded
from pyro_vble.training.checkpoint import TrainingState
from pyro_vble.training.log import TrainingLog
from pyro_vble.training.objective import NegativeELBO, Terms
from pyro_vble.training.schedule import Budget, learning_rate
from pyro_vble.training.steps import steps_of

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
        budget: Steps or time it may take.
        started: Time of a monotonic clock at which this run began.
        checkpoint: Called to write the state and what goes with it.
        log: The log.
        progress: Called with the figures of the moment, at every read.
    """

    draw: Callable[[], Tensor]
    budget: Budget
    started: float
    checkpoint: Callable[[], None]
    log: TrainingLog
    progress: Callable[[dict[str, float]], None]


def run_steps(state: TrainingState, run: Run) -> None:
    """Take steps until the budget is spent, or until interrupted by Ctrl-C or SIGTERM; ``state.complete`` tells which.

    The state is written regularly, and at the end.

    Raises:
        TrainingDivergedError: If ten steps in a row had a loss or gradient that was not finite.
    """
    objective = NegativeELBO(state.prior)
    take_step = steps_of(state, objective, run.draw)
    schedule = state.recipe.schedule
    every = _STEPS_PER_READ.get(state.skipped.device.type, _STEPS_PER_READ_ELSEWHERE)
    meter = _Meter(state.recipe.data.batch_size)
    before = state.elapsed

    def elapsed() -> float:
        return before + time.monotonic() - run.started

    _validate(objective, state)
    with _interruptions() as interrupted, pyro.validation_enabled(False):
        while not interrupted.is_set():
            state.elapsed = elapsed()
            # A step that would end too late is not begun.
            if run.budget.fraction(state.step, state.elapsed + meter.outstanding(state.step)) >= 1:
                state.complete = True
                break
            rate = learning_rate(schedule, run.budget.fraction(state.step, state.elapsed))
            read = (state.step + 1) % every == 0
            terms = take_step(rate, record=read)
            if terms is not None:
                meter.add(terms, state)
                run.progress(meter.now(state, elapsed(), rate))
                if meter.most_in_a_row >= _MOST_SKIPPED:
                    raise TrainingDivergedError(_diverged(state))
            if state.step % _STEPS_PER_ROW == 0:
                run.log.write(meter.row(state, rate))
            if state.step % schedule.checkpoint_every == 0:
                run.checkpoint()
                meter.restart()
        state.elapsed = elapsed()
        run.checkpoint()


def _validate(objective: NegativeELBO, state: TrainingState) -> None:
    """Let Pyro check the program once, on images that nothing is wrong with; steps then go without its checks."""
    crop = state.recipe.data.crop
    x = torch.full((2, state.prior.bands, crop, crop), 0.5, device=state.skipped.device)
    # What is compiled here would be compiled for these two images alone.
    uncompiled = torch.compiler.set_stance("force_eager")
    with seeded(0), torch.no_grad(), pyro.validation_enabled(True), uncompiled:
        objective(x)


class _Meter:
    """Figures of the last steps, averaged."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size, self.most_in_a_row, self.skipped = batch_size, 0, 0
        self.paces: deque[float] = deque(maxlen=5)
        self.smooth: dict[str, float] = {}
        self.sums: dict[str, list[float]] = {}
        self.restart()

    def outstanding(self, step: int) -> float:
        """Seconds until the device will be done with the steps it was given and one more, by the last paces."""
        if not self.paces or self.last is None:
            return 0.0
        pace = sorted(self.paces)[len(self.paces) // 2]  # one slow step is no pace
        return max(0.0, (step - self.last[0]) * pace - (time.monotonic() - self.last[1])) + pace

    def restart(self) -> None:
        """Leave the time since the last read out of the pace."""
        self.last: tuple[int, float] | None = None

    def add(self, terms: Terms, state: TrainingState) -> None:
        """Take in the figures of the step that was just taken."""
        # One transfer for all of them.
        skips = (state.skipped_in_a_row, state.most_skipped_in_a_row, state.skipped)
        values = torch.stack((terms.loss, terms.rate, terms.mse, *skips)).tolist()
        self.most_in_a_row, self.skipped = int(values[4]), int(values[5])
        now = time.monotonic()
        if self.last is not None:
            self.paces.append((now - self.last[1]) / (state.step - self.last[0]))
            self._record("images_per_second", self.batch_size / self.paces[-1])
        self.last = (state.step, now)
        if values[3] == 0:
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


def _diverged(state: TrainingState) -> str:
    return (
        f"Loss and gradient must be finite; up to step {state.step} they were not for {_MOST_SKIPPED} steps in a row "
        f"({int(state.skipped)} in all)."
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
