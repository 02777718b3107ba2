"""Work on a GPU captured once in a CUDA graph, and replayed."""

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import torch

_T = TypeVar("_T")


class Captured(Generic[_T]):
    """Work that is done again and again: captured once in a CUDA graph and replayed, one launch in place of a thousand.

    The first two times it is done eagerly, on a stream of its own as capture wants it, the second under CUDA's watch
    for anything that would make the host wait, which is an error where it happens. What cannot be captured goes on
    eagerly.

    Args:
        device: The GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = stream_on(device)
        self._taken = 0
        self._made: tuple[torch.cuda.CUDAGraph, _T] | None = None

    @property
    def is_made(self) -> bool:
        """Whether the work is replayed by now."""
        return self._made is not None

    def __call__(
        self,
        eager: Callable[[], _T],
        captured: Callable[[], _T],
        refused: Callable[[str], None],
        undoable: Callable[[], Callable[[], None]] = lambda: lambda: None,
    ) -> _T:
        """Do the work; a replay returns the very tensors that the capture did.

        Args:
            eager: The work.
            captured: The same, as it is captured.
            refused: Called once with the reason, if it cannot be captured. (What is kept here instead would hold the
                graph's memory in a circle, until a full collection of garbage.)
            undoable: Called before the work is watched, for what takes back a part of it.
        """
        with torch.cuda.device(self._device):
            return self._done(eager, captured, refused, undoable)

    def release(self) -> None:
        """Let go of the graph, and of the memory that it holds."""
        self._made = None

    def _done(
        self,
        eager: Callable[[], _T],
        captured: Callable[[], _T],
        refused: Callable[[str], None],
        undoable: Callable[[], Callable[[], None]],
    ) -> _T:
        stream = self._stream
        if stream is None:
            return eager()
        self._taken += 1
        if self._taken == 1:
            return aside(stream, eager)
        reason = ""
        undo = undoable() if self._taken == 2 else None
        if self._made is None:
            try:
                if self._taken == 2:
                    return aside(stream, lambda: _watched(eager))
                self._made = capture(stream, captured)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                self._stream = None
                reason = str(error).splitlines()[0]
        # Outside the handler, whose exception would keep the failed attempt's tensors alive.
        if self._made is not None:
            graph, result = self._made
            graph.replay()
            return result
        if undo is not None:
            undo()
        refused(reason)
        return eager()


def _watched(work: Callable[[], _T]) -> _T:
    with no_waiting():
        return work()


def capture(on: torch.cuda.Stream, work: Callable[[], _T]) -> tuple[torch.cuda.CUDAGraph, _T]:
    """Capture work on a stream, and the tensors that it returns; nothing of it is executed.

    Raises:
        RuntimeError: If the host would have to wait for the GPU, or the work cannot be captured otherwise.
    """
    generator = torch.cuda.default_generators[torch.cuda.current_device()]
    random, stream = generator.clone_state(), torch.cuda.current_stream()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=on):
            result = work()
    except BaseException:
        # A generator that was being captured answers nobody else, and a capture that CUDA ended leaves its stream.
        torch.cuda.set_stream(stream)
        generator.graphsafe_set_state(random)
        raise
    return graph, result


def aside(stream: torch.cuda.Stream, work: Callable[[], _T]) -> _T:
    """Do something on the stream of the capture."""
    stream.wait_stream(torch.cuda.current_stream())
    try:
        with torch.cuda.stream(stream):
            return work()
    finally:  # also of what was begun before an error
        torch.cuda.current_stream().wait_stream(stream)


@functools.cache
def stream_on(device: torch.device) -> torch.cuda.Stream:
    """The stream of all captures on a device: matrix products keep a workspace for every stream they have seen."""
    return torch.cuda.Stream(device)


@contextlib.contextmanager
def no_waiting() -> Iterator[None]:
    """A scope in which it is an error if the host waits for the GPU."""
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch calls this mode a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(mode)
