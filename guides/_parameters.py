"""Keeping a guide's parameters out of Pyro's global store."""

import contextlib
from collections.abc import Callable
from typing import Any

import pyro


def local_parameters() -> contextlib.AbstractContextManager:
    """A scope in which Pyro modules are built and run with parameters of their own."""
    return pyro.settings.context(module_local_params=True)


def parameter_scope(guide: Callable[..., Any]) -> contextlib.AbstractContextManager:
    """The scope to run a guide in: that in which it was built, which Pyro notes in its context."""
    is_local = hasattr(getattr(guide, "_pyro_context", None), "param_state")
    return local_parameters() if is_local else contextlib.nullcontext()
