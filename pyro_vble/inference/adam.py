"""Pyro's Adam, at a rate that follows a schedule."""

from collections.abc import Callable

import torch
from pyro.optim import PyroOptim
from torch import Tensor

from pyro_vble.guides.abilities import parameter_groups
from pyro_vble.inference.settings import FitSettings


class ScheduledAdam(PyroOptim):
    """One of ``pyro.optim``: Adam, whose rate is set before every step, and of which some parameters take a part.

    Args:
        betas: Decay of Adam's moments.
        part_of: From a parameter to its part of the rate.

    Example:
        >>> import torch
        >>> from pyro_vble.inference.adam import ScheduledAdam
        >>> p = torch.ones((), requires_grad=True)
        >>> adam = ScheduledAdam((0.9, 0.999), lambda parameter: 0.5)
        >>> adam.rate = 0.2
        >>> (p**2).backward()
        >>> adam([p])
        >>> round(float(p), 3)
        0.9
    """

    def __init__(self, betas: tuple[float, float], part_of: Callable[[Tensor], float]) -> None:
        super().__init__(self._adam, {})
        self._betas, self._part_of, self._rate = betas, part_of, 0.0

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        return self._rate

    @rate.setter
    def rate(self, value: float) -> None:
        self._rate = value
        for optimiser in self.optim_objs.values():
            for group in optimiser.param_groups:
                rate = group["part"] * value
                # A rate on the device is one that a captured step reads anew; a number would be captured with it.
                group["lr"] = group["lr"].fill_(rate) if isinstance(group["lr"], Tensor) else rate

    def moments(self, parameter: Tensor) -> dict[str, Tensor]:
        """Adam's state of a parameter, empty before its first step."""
        optimiser = self.optim_objs.get(parameter)
        return {} if optimiser is None else optimiser.state[parameter]

    def _adam(self, params: list[Tensor]) -> torch.optim.Adam:
        (p,) = params
        rate, part = self._rate, self._part_of(p)
        lr = torch.full((), part * rate, dtype=torch.float32, device=p.device) if p.is_cuda else part * rate
        how = {"fused": p.device.type in ("cpu", "cuda"), "capturable": p.is_cuda}
        return torch.optim.Adam([{"params": params, "part": part}], lr=lr, betas=self._betas, **how)


def adam_for(guide: Callable, settings: FitSettings) -> ScheduledAdam:
    """The optimiser of a fit: widths that start near their optimum move at a part of the rate."""

    def part_of(parameter: Tensor) -> float:  # asked once a parameter, when a guide may just have made it
        groups = parameter_groups(guide, settings.slow_part)
        return next((g["part"] for g in groups if any(p is parameter for p in g["params"])), 1.0)

    return ScheduledAdam(settings.betas, part_of)
