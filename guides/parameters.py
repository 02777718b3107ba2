"""Keeping a guide's parameters out of Pyro's global store."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pyro
import torch
from pyro.nn import PyroParam
from pyro.params.param_store import StateDict
from torch import Tensor, nn
from torch.distributions import constraints


def local_parameters() -> contextlib.AbstractContextManager:
    """A scope in which Pyro modules are built and run with parameters of their own."""
    return pyro.settings.context(module_local_params=True)


def learnt(start: Tensor, support: constraints.Constraint = constraints.real) -> Any:
    """A parameter for an attribute of a Pyro module, where it is found as a tensor."""
    return PyroParam(start.clone(), constraint=support)


_MODULE = "module/"


class StoredGuide:
    """A guide written with ``pyro.param``, its parameters in a store of its own in place of Pyro's global one.

    A second fit of the same function so finds the first one's parameters neither to start from nor to change. Names
    that are not found here are the function's own.

    Args:
        function: Any guide: a function of y with ``pyro.param``, or a module that was not built with local parameters.

    Example:
        >>> import pyro, torch
        >>> from pyro_vble.guides.parameters import StoredGuide
        >>> def function(y):
        ...     return pyro.param("loc", torch.zeros(())) + y
        >>> guide = StoredGuide(function)
        >>> float(guide(1.0)), len(guide.parameters()), "loc" in pyro.get_param_store()
        (1.0, 1, False)
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self._state: StateDict = {"params": {}, "constraints": {}}
        self._within = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the guide, its store entered."""
        with self.scope():
            return self.function(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """Whatever else the function has."""
        if name == "function":  # not there yet: asked for while it is being copied or unpickled
            raise AttributeError(name)
        return getattr(self.function, name)

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """A scope in which Pyro's parameter store is this guide's; it may be nested."""
        if self._within:
            yield
            return
        self._within = True
        try:
            with pyro.get_param_store().scope(self._state):
                yield
        finally:
            self._within = False

    def parameters(self) -> list[Tensor]:
        """What is learnt: the store's unconstrained values, and the parameters of a function that is a module."""
        with self.scope():
            stored = list(pyro.get_param_store().named_parameters())
        own = list(self.function.parameters()) if isinstance(self.function, nn.Module) else []
        return list(dict.fromkeys([*own, *(value for _, value in stored)]))

    def state_dict(self) -> dict[str, Tensor]:
        """The store's unconstrained values by name, and what a function that is a module holds."""
        with self.scope():
            stored = {name: value.detach() for name, value in pyro.get_param_store().named_parameters()}
        own = self.function.state_dict() if isinstance(self.function, nn.Module) else {}
        return stored | {f"{_MODULE}{name}": value for name, value in own.items()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take in the values that ``state_dict`` gave; the guide must have run once, which makes its parameters.

        Raises:
            KeyError: If they are not those of this guide.
        """
        own = self.state_dict()
        if own.keys() != state.keys():
            raise KeyError(f"The guide's parameters must be {', '.join(own)}; received {', '.join(state)}.")
        for name, value in own.items():  # what they hold is the guide's own memory
            value.copy_(state[name])


def with_own_parameters(guide: Callable[..., Any]) -> Callable[..., Any]:
    """The guide itself where its parameters are its own already, else a :class:`StoredGuide` of it."""
    return guide if isinstance(guide, StoredGuide) or _is_local(guide) else StoredGuide(guide)


def parameters_of(guide: Callable[..., Any]) -> list[Tensor]:
    """The parameters that are known before the guide runs (again)."""
    return list(guide.parameters()) if isinstance(guide, nn.Module | StoredGuide) else []


def parameter_scope(guide: Callable[..., Any]) -> contextlib.AbstractContextManager:
    """The scope to run a guide in: that in which it was built, which Pyro notes in its context, or its own store."""
    if isinstance(guide, StoredGuide):
        return guide.scope()
    return local_parameters() if _is_local(guide) else contextlib.nullcontext()


def _is_local(guide: Callable[..., Any]) -> bool:
    return hasattr(getattr(guide, "_pyro_context", None), "param_state")
