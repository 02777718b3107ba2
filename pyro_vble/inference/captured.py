"""Steps of Pyro's SVI captured once in a CUDA graph, and replayed."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_vble._cuda_graphs import Captured
from pyro_vble.inference.svi import FitSVI


class CapturedSVI(FitSVI):
    """Steps captured once in a CUDA graph and replayed, after two that are taken eagerly.

    What cannot be captured goes on eagerly, with one warning. The arguments of ``step`` are those of its first call.
    """

    read_every = 10

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        device = next((p.device for p in self.parameters), torch.device("cuda"))
        self._steps: Captured[Tensor] = Captured(device)

    def step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Take one step at the optimiser's rate; returns the loss before it, not looked at yet."""
        eager = super().step
        # A replay writes its loss where the last one's was.
        work = (lambda: eager(*args, **kwargs)), (lambda: self._captured(*args, **kwargs))
        return self._steps(*work, self._refused, self._undoable).clone()

    def release(self) -> None:
        """Let go of what only further steps need: gradients, and the graph whose memory they lie in."""
        super().release()
        self._steps.release()

    def _captured(self, *args: Any, **kwargs: Any) -> Tensor:
        loss = self.gradient(*args, **kwargs)
        self.update()
        return loss

    def _undoable(self) -> Callable[[], None]:
        saved = self.saved()
        return lambda: self.restore(saved)

    def _refused(self, reason: str) -> None:
        super().release()
        warnings.warn(
            "This fit cannot be captured in a CUDA graph and goes on step by step, several times slower: "
            f"{reason}. An operator or guide that reads a value back to the CPU (.item(), a branch on a tensor) is the "
            "usual cause.",
            stacklevel=2,
        )
