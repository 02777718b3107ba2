"""What an operator consists of, and which arguments its A takes."""

import inspect
from typing import Any


def arguments_of(physics: Any) -> tuple[str, ...]:
    """Arguments that A names besides the image; of an operator made of several, each one's."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    named: dict[str, None] = {}
    for operator in operators_of(physics):
        if callable(getattr(operator, "A", None)):
            parameters = inspect.signature(operator.A).parameters.values()
            named |= dict.fromkeys([p.name for p in parameters if p.kind in kinds][1:])
    return tuple(named)


def operators_of(physics: Any) -> list[Any]:
    """An operator, or those that it consists of."""
    return [one for part in getattr(physics, "physics_list", ()) for one in operators_of(part)] or [physics]
