"""Work that is captured: which time it is done how, and what becomes of work that cannot be."""

import contextlib

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
    work = Captured(torch.device("cuda"), lambda reason: told.append(reason))
    results = [work(lambda: told.append("eager") or "e", lambda: "c") for _ in range(4)]
    assert told == ["eager", "watch", "eager", "capture", "replay", "replay"]
    assert results == ["e", "e", "c", "c"]
    assert work.is_made
    work.release()
    assert not work.is_made
    assert work(lambda: "e", lambda: "again") == "again"


@pytest.mark.parametrize("when", ["watched", "captured"])
def test_what_cannot_be_captured_is_told_once_and_goes_on(told, when):
    def eager():
        told.append("eager")
        if when == "watched" and told[-2:] == ["watch", "eager"]:
            raise RuntimeError("the host waits\nand more")
        return "e"

    def captured():
        raise RuntimeError("the host waits\nand more")

    reasons = []
    work = Captured(torch.device("cuda"), reasons.append)
    assert [work(eager, captured) for _ in range(5)] == ["e"] * 5
    assert reasons == ["the host waits"]
    assert not work.is_made


def test_memory_that_runs_out_is_no_reason_to_go_on(told):
    work = Captured(torch.device("cuda"), lambda reason: told.append(reason))

    def full():
        raise torch.OutOfMemoryError("full")

    work(lambda: None, full)
    work(lambda: None, full)
    with pytest.raises(torch.OutOfMemoryError):
        work(lambda: None, full)
