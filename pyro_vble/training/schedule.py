"""How far training is, and the learning rate there."""

import math
from dataclasses import dataclass

from pyro_vble.training.recipes import Schedule


@dataclass(frozen=True)
class Budget:
    """What a training may take: a number of steps, or seconds.

    Attributes:
        steps: Number of steps; None if only time counts.
        seconds: Time for all steps together; None if only steps count.
    """

    steps: int | None = None
    seconds: float | None = None

    def fraction(self, step: int, elapsed: float) -> float:
        """The part of the schedule that is done, after so many steps and seconds; 1 or more means the end."""
        parts = [0.0]
        if self.steps is not None:
            parts.append(step / self.steps)
        if self.seconds is not None:
            parts.append(elapsed / self.seconds if self.seconds > 0 else 1.0)
        return max(parts)


def learning_rate(schedule: Schedule, fraction: float) -> float:
    """Linear warm-up, then a cosine to the final rate.

    Example:
        >>> from pyro_vble.training.recipes import Schedule
        >>> from pyro_vble.training.schedule import learning_rate
        >>> schedule = Schedule(steps=100, lr=1e-3, warmup=0.1, final=0.02)
        >>> [round(learning_rate(schedule, part), 6) for part in (0.05, 0.1, 0.55, 1.0)]
        [0.0005, 0.001, 0.00051, 2e-05]
    """
    if fraction < schedule.warmup:
        # The first step is not at zero.
        return schedule.lr * max(fraction / schedule.warmup, 0.01)
    part = min(1.0, (fraction - schedule.warmup) / (1 - schedule.warmup))
    return schedule.lr * (schedule.final + (1 - schedule.final) * 0.5 * (1 + math.cos(math.pi * part)))
