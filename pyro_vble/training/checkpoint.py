"""The state of a training, whole or not at all."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from pyro_vble.io.atomic import atomic_path
from pyro_vble.models import Prior
from pyro_vble.training.recipes import Recipe

_FORMAT = "pyro-vble training 1"


@dataclass
class TrainingState:
    """Everything that the next step depends on.

    Attributes:
        recipe: The recipe.
        prior: The prior as the optimiser has it.
        average: Its moving average.
        optimiser: Adam.
        step: Number of steps taken.
        elapsed: Seconds spent in steps.
        skipped: Number of steps skipped because their loss was not finite, on the device.
        skipped_in_a_row: Number of the last steps that were, on the device.
    """

    recipe: Recipe
    prior: Prior
    average: AveragedModel
    optimiser: torch.optim.Optimizer
    skipped: torch.Tensor
    skipped_in_a_row: torch.Tensor
    step: int = 0
    elapsed: float = 0.0
    log: list[dict[str, float]] = field(default_factory=list)

    def save(self, path: str | os.PathLike) -> None:
        """Write the state, random numbers included, to one file."""
        content = {
            "format": _FORMAT,
            "recipe": self.recipe.model_dump(mode="json"),
            "prior": self.prior.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "elapsed": self.elapsed,
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
            "log": self.log,
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        }
        with atomic_path(path) as temporary:
            torch.save(content, temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())  # a rename may reach the disk before the bytes it publishes

    def restore(self, path: str | os.PathLike) -> None:
        """Take over a state that was saved, the global random numbers included.

        Raises:
            ValueError: If the file is damaged, or belongs to another recipe.
        """
        content = read_checkpoint(Path(path))
        before, now = content["recipe"], self.recipe.model_dump(mode="json")
        if before != now:
            keys = ", ".join(
                f"{key}: {before.get(key)} -> {now.get(key)}" for key in now if before.get(key) != now[key]
            )
            raise ValueError(
                f"A training is resumed with the recipe it was started with; it has changed ({keys or 'kind'}); start "
                f"anew in another folder, with --init {path} to keep the weights."
            )
        self.prior.load_state_dict(content["prior"])
        self.average.load_state_dict(content["average"])
        self.optimiser.load_state_dict(content["optimiser"])
        self.step, self.elapsed, self.log = content["step"], content["elapsed"], content["log"]
        self.skipped.copy_(content["skipped"])
        self.skipped_in_a_row.copy_(content["skipped_in_a_row"])
        torch.set_rng_state(content["random"])
        if content["random_cuda"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(content["random_cuda"])


def averaged(prior: nn.Module, decay: float) -> AveragedModel:
    """The exponential moving average of a prior's weights, quicker while it is young."""

    def update(average: list[torch.Tensor], current: list[torch.Tensor], count: torch.Tensor | int) -> None:
        weight = min(decay, (1 + int(count)) / (10 + int(count)))
        torch._foreach_lerp_(average, current, 1 - weight)

    return AveragedModel(prior, multi_avg_fn=update)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint.

    Raises:
        ValueError: If the file is no checkpoint of a training, or damaged.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises anything from EOFError to UnpicklingError, by the kind of damage
        raise ValueError(
            f"A training's checkpoint must be a whole file that it wrote; {path} is not ({type(error).__name__})."
        ) from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ValueError(f"A training's checkpoint must have the format {_FORMAT!r}; {path} has not.")
    return content
