"""Starting Pyro's automatic guides where this library's guides start."""

import math
from typing import Any

import torch
from pyro.distributions.torch_transform import TransformModule
from pyro.distributions.transforms import ComposeTransformModule
from pyro.infer.autoguide import AutoGuide, init_to_feasible, init_to_median, init_to_value
from pyro.infer.autoguide.guides import AutoNormalizingFlow
from pyro.infer.autoguide.initialization import InitMessenger
from torch import Tensor
from torch.distributions import constraints

# The standard deviation that Pyro's own Gaussian guides start from, for its normalising flows, which have none.
_FLOW_SCALE = 0.1


def start_at(guide: AutoGuide, model: Any, values: dict[str, Tensor]) -> None:
    """Let one of Pyro's automatic guides, which has not run yet, start at these values of its sites."""
    # Pyro takes a start at construction only, and keeps the model with it here.
    guide._model = (InitMessenger(init_to_value(values=values))(model),)
    if isinstance(guide, AutoNormalizingFlow) and not hasattr(guide, "_flow_alone"):
        guide._flow_alone = flow = guide._init_transform_fn

        def flow_about_the_start(dim: int) -> ComposeTransformModule:
            return ComposeTransformModule([flow(dim), _AboutTheStart(guide._init_loc())])

        guide._init_transform_fn = flow_about_the_start


class _AboutTheStart(TransformModule):
    """y = start + 0.1 x. A module, so that the start is part of a flow's state and comes back with it."""

    domain = codomain = constraints.real
    bijective = True
    start: Tensor

    @property
    def sign(self) -> int:
        """It grows with x."""
        return +1

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.register_buffer("start", start)

    def _call(self, x: Tensor) -> Tensor:
        return self.start + _FLOW_SCALE * x

    def _inverse(self, y: Tensor) -> Tensor:
        return (y - self.start) / _FLOW_SCALE

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """log |dy/dx|, elementwise."""
        return torch.full_like(x, math.log(_FLOW_SCALE))


def starts_by_default(guide: AutoGuide) -> bool:
    """Whether an automatic guide would start at its own default, and has not begun."""
    start = getattr(guide, "init_loc_fn", init_to_median)
    return guide.prototype_trace is None and start in (init_to_median, init_to_feasible)
