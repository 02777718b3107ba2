"""The state of a fit, to return to."""

import torch

from pyro_vble.inference.steps import EagerSteps


class Snapshot:
    """Parameters of a guide and moments of its optimiser, as they are now.

    Args:
        steps: The steps of a fit.
    """

    def __init__(self, steps: EagerSteps) -> None:
        self._steps = steps
        self._saved = [value.detach().clone() for value in steps.state]

    @torch.no_grad()
    def restore(self) -> None:
        """Go back, in place: a captured step reads and writes where it always did."""
        for value, saved in zip(self._steps.state, self._saved, strict=False):
            value.copy_(saved)
