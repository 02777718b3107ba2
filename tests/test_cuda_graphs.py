"""Work that is captured: which time it is done how, and what becomes of work that cannot be."""

import contextlib
import gc
import weakref

import pytest
import torch

from pyro_vble import _cuda_graphs
from pyro_vble._cuda_graphs import Captured


class Graph:
    """Stands in for CUDA's: a replay does the work once more."""

    def __init__(self, work):
        self.replay = work


@pytest.fixture
def told(monkeypatch):
    """CUDA's part, told of and not done."""
    told = []

    def capture(stream, work):
        told.append("capture")
        return Graph(lambda: told.append("replay")), work()

    @contextlib.contextmanager
    def watch():
        told.append("watch")
        yield

    monkeypatch.setattr(_cuda_graphs, "stream_on", lambda device: "stream")
    monkeypatch.setattr(_cuda_graphs, "aside", lambda stream, work: work())
    monkeypatch.setattr(_cuda_graphs, "capture", capture)
    monkeypatch.setattr(_cuda_graphs, "no_waiting", watch)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    return told


def test_two_eager_times_then_one_capture_and_replays(told):
    work = Captured(torch.device("cuda"))
    results = [work(lambda: told.append("eager") or "e", lambda: "c", told.append) for _ in range(4)]
    assert told == ["eager", "watch", "eager", "capture", "replay", "replay"]
    assert results == ["e", "e", "c", "c"]
    assert work.is_made
    work.release()
    assert not work.is_made
    assert work(lambda: "e", lambda: "again", told.append) == "again"


@pytest.mark.parametrize("when", ["watched", "captured"])
def test_what_cannot_be_captured_is_told_once_and_goes_on(told, when):
    def eager():
        told.append("eager")
        if when == "watched" and told[-2:] == ["watch", "eager"]:
            raise RuntimeError("the host waits\nand more")
        return "e"

    def captured():
        raise RuntimeError("the host waits\nand more")

    reasons, undone = [], []
    work = Captured(torch.device("cuda"))
    undoable = lambda: lambda: undone.append(list(told))  # noqa: E731
    assert [work(eager, captured, reasons.append, undoable) for _ in range(5)] == ["e"] * 5
    assert reasons == ["the host waits"]
    assert not work.is_made
    # What the watched time has left half done is taken back before the work is done again.
    assert undone == ([["eager", "watch", "eager"]] if when == "watched" else [])


def test_memory_that_runs_out_is_no_reason_to_go_on(told):
    work = Captured(torch.device("cuda"))

    def full():
        raise torch.OutOfMemoryError("full")

    work(lambda: None, full, told.append)
    work(lambda: None, full, told.append)
    with pytest.raises(torch.OutOfMemoryError):
        work(lambda: None, full, told.append)


def test_a_graph_goes_with_its_owner(told):
    """By reference counting: a circle would keep a training's memory until the next full collection of garbage."""

    class Owner:
        def __init__(self):
            self.work = Captured(torch.device("cuda"))

        def step(self):
            return self.work(lambda: "e", lambda: "c", self.refused)

        def refused(self, reason):
            told.append(reason)

    owner = Owner()
    for _ in range(4):
        owner.step()
    graph = weakref.ref(owner.work)
    gc.disable()
    try:
        del owner
        assert graph() is None
    finally:
        gc.enable()
