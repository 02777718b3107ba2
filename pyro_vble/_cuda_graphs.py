"""Work on a GPU captured once in a CUDA graph."""

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

_T = TypeVar("_T")


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
    with torch.cuda.stream(stream):
        result = work()
    torch.cuda.current_stream().wait_stream(stream)
    return result


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
