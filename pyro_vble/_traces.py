"""What Pyro notes of a run."""

from collections.abc import Mapping
from typing import Any


def nodes_of(trace: Any) -> Mapping[str, Any]:
    """The sites of a ``poutine.Trace`` by name, without Pyro's annotations, where any entry may be missing or None."""
    return trace.nodes
