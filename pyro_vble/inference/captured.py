"""Steps of Pyro's SVI captured once in a CUDA graph, and replayed."""

import warnings
from typing import Any

import torch
from torch import Tensor

from pyro_vble._cuda_graphs import aside, capture, no_waiting, stream_on
from pyro_vble.inference.svi import FitSVI


class CapturedSVI(FitSVI):
    """Steps captured once in a CUDA graph and replayed: one launch in place of a thousand.

    The first two steps are taken eagerly, on a stream of their own as capture wants it, the second under CUDA's watch
    for anything that would make the host wait. What cannot be captured goes on eagerly, with one warning. The arguments
    of ``step`` are those of its first call.
    """

    read_every = 10

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._taken = 0
        self._captured: tuple[torch.cuda.CUDAGraph, Tensor] | None = None
        self._device = next((p.device for p in self.parameters), torch.device("cuda"))
        self._stream: torch.cuda.Stream | None = stream_on(self._device)

    def step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Take one step at the optimiser's rate; returns the loss before it, not looked at yet."""
        with torch.cuda.device(self._device):
            return self._step(*args, **kwargs)

    def release(self) -> None:
        """Let go of what only further steps need: gradients, and the graph whose memory they lie in."""
        super().release()
        self._captured = None

    def _step(self, *args: Any, **kwargs: Any) -> Tensor:
        stream = self._stream
        if stream is None:
            return super().step(*args, **kwargs)
        self._taken += 1
        if self._taken == 1:
            return aside(stream, lambda: super(CapturedSVI, self).step(*args, **kwargs))
        if self._captured is not None:
            return _replayed(*self._captured)
        captured = None
        try:
            if self._taken == 2:
                return aside(stream, lambda: self._watched(*args, **kwargs))
            captured = capture(stream, lambda: self._gradient_and_update(*args, **kwargs))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            super().release()
            self._stream = None
            reason = str(error).splitlines()[0]
        # Outside the handler, whose exception would keep the failed attempt's tensors alive.
        if captured is not None:
            self._captured = captured
            return _replayed(*captured)
        warnings.warn(
            "This fit cannot be captured in a CUDA graph and goes on step by step, several times slower: "
            f"{reason}. An operator or guide that reads a value back to the CPU (.item(), a branch on a tensor) is the "
            "usual cause.",
            stacklevel=2,
        )
        return super().step(*args, **kwargs)

    def _watched(self, *args: Any, **kwargs: Any) -> Tensor:
        """A step, or an error before it changes anything if the host has to wait for it."""
        with no_waiting():
            return super().step(*args, **kwargs)

    def _gradient_and_update(self, *args: Any, **kwargs: Any) -> Tensor:
        loss = self.gradient(*args, **kwargs)
        self.update()
        return loss


def _replayed(graph: torch.cuda.CUDAGraph, loss: Tensor) -> Tensor:
    graph.replay()
    return loss.clone()
