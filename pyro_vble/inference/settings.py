"""The settings of a fit, checked once."""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Self

from pyro_vble._arguments import Count, NotNegative, Positive, checked, one_of

#: What a quality stands for: steps that an ordinary restoration needs, and those that a hard one does.
QUALITIES: dict[str, dict[str, Any]] = {"fast": {"num_steps": 90}, "accurate": {"num_steps": 300}}

# Where in a schedule its last part begins.
_TAIL = 0.6

Quality = Annotated[str, one_of(*QUALITIES)]
Schedule = Annotated[str, one_of("linear", "cosine", "constant")]
ELBOName = Annotated[str, one_of("auto", "trace", "mean_field", "stl")]


@checked
@dataclass(frozen=True)
class FitSettings:
    """How a guide is fitted.

    Attributes:
        num_steps: Largest number of optimisation steps.
        lr: Learning rate of Adam at the first step.
        schedule: "linear" or "cosine" (both to zero at the last step), or "constant".
        num_particles: Draws of the guide a step.
        kl_weight: λ >= 0: 1 is Bayes' rule.
        elbo: "trace" (Trace_ELBO), "mean_field" (TraceMeanField_ELBO: closed-form KL where there is one), "stl"
            (sticking the landing) or "auto".
        tolerance: Stop when the smoothed ELBO surely gains less than this many nats per measured value; None never
            stops early.
        window: Smallest number of steps that are averaged, and how often convergence is looked at.

    Raises:
        ValueError: If a setting is out of range.
        TypeError: If a setting is of another type.
    """

    num_steps: Count = QUALITIES["fast"]["num_steps"]
    lr: Positive = 0.2
    schedule: Schedule = "linear"
    num_particles: Count = 1
    kl_weight: NotNegative = 1.0
    elbo: ELBOName = "auto"
    tolerance: NotNegative | None = 1e-3
    window: Count = 20

    @classmethod
    def of(cls, quality: str, **given: Any) -> Self:
        """The settings of a quality, "fast" or "accurate", but for those that are given, not None.

        A tolerance of None is one that is given.
        """
        kept: dict[str, Any] = {k: value for k, value in given.items() if value is not None or k == "tolerance"}
        return cls(**(QUALITIES[quality] | kept))

    def rate(self, step: int) -> float:
        """Learning rate at a step, counted from 0."""
        left = 1 - step / self.num_steps
        return (
            self.lr * {"linear": left, "cosine": 0.5 * (1 - math.cos(math.pi * left)), "constant": 1.0}[self.schedule]
        )

    @property
    def tail(self) -> int:
        """The step from which on parameters are averaged that end at their mean; none at a constant rate."""
        return self.num_steps if self.schedule == "constant" else math.floor(_TAIL * self.num_steps)

    @property
    def look_every(self) -> int:
        """How often a fit looks whether its centres have come to rest."""
        return max(5, self.num_steps // 12)

    @property
    def may_stop(self) -> bool:
        """Whether a fit whose centres have come to rest goes on with the last part of its schedule."""
        return self.tolerance is not None and self.schedule != "constant"

    @property
    def betas(self) -> tuple[float, float]:
        """Decay of Adam's moments.

        Gradients are orders of magnitude larger at the first guess than at the optimum, and noisy. With Adam's usual
        second decay, 0.999, their memory outlasts a fit and stalls it; with its usual first, 0.9, the noise of ten
        steps ago still moves the last ones, and a short fit ends in it. At a constant rate that stall is what quietens
        the last steps of the published algorithm, so it keeps the usual decays.
        """
        return {"linear": (0.5, 0.95), "cosine": (0.9, 0.99), "constant": (0.9, 0.999)}[self.schedule]

    @property
    def slow_part(self) -> float:
        """Part of the rate at which widths move that start near their optimum, where prior and measurement tell it.

        Their gradients hold more noise than what is left to learn. At a constant rate they move as all others do.
        """
        return 1.0 if self.schedule == "constant" else 0.2
