"""What a fit ends in."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pyro_vble.models.restoration import RestorationModel


@dataclass(frozen=True)
class Fit:
    """A guide, fitted, and how.

    Attributes:
        model: The :class:`~pyro_vble.models.RestorationModel`.
        guide: Its guide, which the fit has changed.
        y: Measurement (B, ...).
        elbo: ELBO of every step, in nats (tempered, if the KL weight was not 1).
        precision: Precision of the networks.
        seed: Seed of the fit.
        interrupted: Whether it was ended from the keyboard.
    """

    model: RestorationModel
    guide: Callable[[Tensor], Any]
    y: Tensor
    elbo: Tensor
    precision: str = "float32"
    seed: int | None = None
    interrupted: bool = False


class FitDivergedError(RuntimeError):
    """The loss would not stay finite.

    Attributes:
        fit: The last good state of the guide.
        posterior: Its posterior, where :func:`pyro_vble.fit` or :func:`pyro_vble.restore` raised this.
    """

    def __init__(self, message: str, fit: Fit) -> None:
        super().__init__(message)
        self.fit = fit
        self.posterior: Any = None
