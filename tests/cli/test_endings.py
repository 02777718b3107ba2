"""A request to end is heeded wherever it arrives."""

import os
import signal
import time
import weakref

import pytest

from pyro_vble.cli.endings import heeded


class Asked(Exception):
    """What a handler raises."""


@pytest.fixture
def asked():
    """Ask this process to end, by a signal whose handler raises."""

    def end(number, frame):
        raise Asked

    before = signal.signal(signal.SIGUSR1, heeded(end))
    yield lambda *_: os.kill(os.getpid(), signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)


class Key:
    """Something to refer to weakly."""


def wait():
    for _ in range(200):
        time.sleep(0.01)


def test_it_ends_what_runs(asked):
    with pytest.raises(Asked):
        asked()


def test_a_callback_of_a_weak_reference_only_puts_it_off(asked, capfd):
    """The callback of a dictionary with weak keys asks as it looks at what it holds."""

    class Asking(dict):
        def __delitem__(self, key):
            asked()
            super().__delitem__(key)

    weak = weakref.WeakKeyDictionary()
    weak.data = Asking()
    weak[key := Key()] = None
    del key
    assert not weak.data
    with pytest.raises(Asked):
        wait()
    assert "ignored" not in capfd.readouterr().err


def test_a_finaliser_only_puts_it_off(asked, capfd):
    class Finalised:
        def __del__(self):
            asked()

    Finalised()
    with pytest.raises(Asked):
        wait()
    assert "ignored" not in capfd.readouterr().err
