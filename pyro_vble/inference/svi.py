"""Pyro's SVI as a fit takes it: any guide's parameters, losses that stay on their device, a way back."""

from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor

from pyro_vble._traces import nodes_of
from pyro_vble.guides.parameters import parameters_of
from pyro_vble.inference.adam import ScheduledAdam
from pyro_vble.inference.following import Follower

# A parameter, a copy of it, and copies of Adam's moments.
_Saved = tuple[Tensor, Tensor, dict[str, Tensor]]


class FitSVI(SVI):
    """``pyro.infer.SVI``, whose ``step`` returns the loss as a tensor and optimises plain torch parameters too.

    Args:
        model: The model, tempered.
        guide: The guide, tempered.
        optim: The optimiser.
        loss: One of Pyro's ELBOs.
        of: The guide itself: its parameters are optimised although they may be none of Pyro's.
        follower: What follows the parameters.
    """

    #: How many losses may wait for the host to look at them.
    read_every = 1

    def __init__(
        self,
        model: Callable,
        guide: Callable,
        optim: ScheduledAdam,
        loss: Trace_ELBO,
        *,
        of: Callable,
        follower: Follower = Follower(),  # noqa: B008, it is frozen
    ) -> None:
        super().__init__(model, guide, optim, loss)
        self.elbo, self._guide_itself, self._follower = loss, of, follower
        self.parameters: dict[Tensor, None] = dict.fromkeys(parameters_of(of))
        self._means: dict[Tensor, Tensor] = {}
        self._collected = 0

    def step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Take one step at the optimiser's rate; returns the loss before it, not looked at yet."""
        with poutine.trace(param_only=True) as seen:
            loss = self.gradient(*args, **kwargs)
        # A plain torch parameter, as some of Pyro's own guides have, is its own unconstrained value.
        values = [site["value"] for site in nodes_of(seen.trace).values()]
        found = [value.unconstrained() if hasattr(value, "unconstrained") else value for value in values]
        self.parameters |= dict.fromkeys([*parameters_of(self._guide_itself), *found])
        self.update()
        return loss

    def gradient(self, *args: Any, **kwargs: Any) -> Tensor:
        """The gradient at the parameters; returns the loss.

        Raises:
            ValueError: If the ELBO depends on no parameter.
        """
        with torch.enable_grad():
            loss = self.elbo.differentiable_loss(self.model, self.guide, *args, **kwargs)
            if not loss.requires_grad:
                raise ValueError(
                    "A guide must have parameters that its distributions depend on; received one whose ELBO depends on "
                    "none; make them with pyro.param, PyroParam or torch.nn.Parameter."
                )
            loss.backward()
        return loss.detach()

    def update(self) -> None:
        """Move the parameters by their gradients."""
        moved = [p for p in self.parameters if p.requires_grad and p.grad is not None]
        self.optim(moved)
        for p in moved:
            p.grad = None
        self._follower.follow()

    @torch.no_grad()
    def collect(self) -> None:
        """Take the parameters that end at the mean of their last values into that mean, as they are now."""
        self._collected += 1
        for p in self.optim.averaged():
            self._means.setdefault(p, torch.zeros_like(p)).lerp_(p, 1 / self._collected)

    @torch.no_grad()
    def settle(self) -> None:
        """Put the parameters of which means were collected there, with all that follows from where they are."""
        for p, mean in self._means.items():
            p.copy_(mean)
        if self._means:
            self._follower.follow()

    def release(self) -> None:
        """Let go of what only further steps need; parameters keep no gradient that another fit would add to."""
        for p in self.parameters:
            p.grad = None

    def saved(self) -> list[_Saved]:
        """Parameters and their moments as they are now."""
        copied = []
        for p in self.parameters:
            moments = {name: value.clone() for name, value in self.optim.moments(p).items()}
            copied.append((p, p.detach().clone(), moments))
        return copied

    @torch.no_grad()
    def restore(self, saved: list[_Saved]) -> None:
        """Go back, in place: a captured step reads and writes where it always did. What was collected is dropped."""
        self._means, self._collected = {}, 0
        for p, value, moments in saved:
            p.copy_(value)
            for name, moment in self.optim.moments(p).items():
                moment.copy_(moments[name]) if name in moments else moment.zero_()
        self._follower.start_over()
