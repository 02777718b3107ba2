"""Pyro's Adam, at a rate that follows a schedule."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from pyro.optim import PyroOptim
from torch import Tensor

from pyro_vble.guides.abilities import parameter_groups
from pyro_vble.inference.settings import FitSettings


class Pace(NamedTuple):
    """How fast a parameter moves.

    Attributes:
        part: Its part of the rate, at the first step.
        power: The rate falls by this power of what the schedule leaves of it.
        averaged: Whether a fit ends at the mean of its last values, which lets the rate stay high for longer.
    """

    part: float = 1.0
    power: float = 1.0
    averaged: bool = False


class ScheduledAdam(PyroOptim):
    r"""One of ``pyro.optim``: Adam, whose rate is set before every step, and of which parameters take a part.

    .. math:: \rho_p = \mathrm{part}_p\, \rho_0 \left(\frac{\rho}{\rho_0}\right)^{\mathrm{power}_p}

    Args:
        betas: Decay of Adam's moments.
        pace_of: From a parameter to its :class:`Pace`.
        first: ρ₀, the rate of the first step.

    Example:
        >>> import torch
        >>> from pyro_vble.inference.adam import Pace, ScheduledAdam
        >>> p = torch.ones((), requires_grad=True)
        >>> adam = ScheduledAdam((0.9, 0.999), lambda parameter: Pace(part=0.5), first=0.2)
        >>> adam.rate = 0.2
        >>> (p**2).backward()
        >>> adam([p])
        >>> round(float(p), 3)
        0.9
    """

    def __init__(self, betas: tuple[float, float], pace_of: Callable[[Tensor], Pace], first: float) -> None:
        super().__init__(self._adam, {})
        self._betas, self._pace_of, self._first, self._rate = betas, pace_of, first, 0.0

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        return self._rate

    @rate.setter
    def rate(self, value: float) -> None:
        self._rate = value
        for optimiser in self.optim_objs.values():
            for group in optimiser.param_groups:
                rate = self._rate_of(group["pace"])
                # A rate on the device is one that a captured step reads anew; a number would be captured with it.
                group["lr"] = group["lr"].fill_(rate) if isinstance(group["lr"], Tensor) else rate

    def moments(self, parameter: Tensor) -> dict[str, Tensor]:
        """Adam's state of a parameter, empty before its first step."""
        optimiser = self.optim_objs.get(parameter)
        return {} if optimiser is None else optimiser.state[parameter]

    def averaged(self) -> list[Tensor]:
        """The parameters of which a fit ends at the mean of their last values."""
        return [p for p, optimiser in self.optim_objs.items() if optimiser.param_groups[0]["pace"].averaged]

    def _rate_of(self, pace: Pace) -> float:
        return pace.part * self._first * (self._rate / self._first) ** pace.power

    def _adam(self, params: list[Tensor]) -> torch.optim.Adam:
        (p,) = params
        pace = self._pace_of(p)
        rate = self._rate_of(pace)
        lr = torch.full((), rate, dtype=torch.float32, device=p.device) if p.is_cuda else rate
        how = {"fused": p.device.type in ("cpu", "cuda"), "capturable": p.is_cuda}
        return torch.optim.Adam([{"params": params, "pace": pace}], lr=lr, betas=self._betas, **how)


def adam_for(guide: Callable, settings: FitSettings) -> ScheduledAdam:
    """The optimiser of a fit: every parameter at the pace that its guide knows."""

    def pace_of(parameter: Tensor) -> Pace:  # asked once a parameter, when a guide may just have made it
        for group in parameter_groups(guide, settings.slow_part):
            if any(p is parameter for p in group["params"]):
                return Pace(**{key: value for key, value in group.items() if key != "params"})
        return Pace()

    return ScheduledAdam(settings.betas, pace_of, settings.lr)
