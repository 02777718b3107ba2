"""The state of a training, whole or not at all."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from pyro_vble._arguments import PathName, brief, checked
from pyro_vble.io.atomic import atomic_path
from pyro_vble.io.torch_files import read_torch_file
from pyro_vble.io.validated import problems_of
from pyro_vble.models import Prior
from pyro_vble.training.log import COLUMNS
from pyro_vble.training.optimisers import keep_rates_here
from pyro_vble.training.recipes import Recipe, parse_recipe

_FORMAT = "pyro-vble training 1"


class _Content(BaseModel):
    """What a checkpoint holds."""

    model_config = ConfigDict(extra="ignore", arbitrary_types_allowed=True, strict=True)

    format: Literal["pyro-vble training 1"]
    recipe: dict[str, Any]
    random: Tensor
    random_cuda: Tensor | None
    prior: dict[str, Any]
    average: dict[str, Any]
    optimiser: dict[str, Any]
    skipped: Tensor
    skipped_in_a_row: Tensor
    most_skipped_in_a_row: Tensor
    step: int = Field(ge=0)
    elapsed: float = Field(ge=0)
    precision: str
    images: str
    init: str | None
    complete: bool
    log: list[dict[Annotated[str, Field(pattern=f"^(?:{'|'.join(COLUMNS)})$")], float]]


@dataclass
class TrainingState:
    """Everything that the next step depends on.

    Attributes:
        recipe: The recipe.
        prior: The prior as the optimiser has it.
        average: Its exponential moving average.
        optimiser: Adam, SOAP or Muon.
        skipped: Number of steps skipped because their loss was not finite, on the device.
        skipped_in_a_row: Number of the last steps that were, on the device.
        most_skipped_in_a_row: The largest that has been, on the device.
        step: Number of steps taken.
        elapsed: Seconds spent, in all runs.
        precision: Precision of the networks.
        images: What tells the images trained on from others.
        init: What the training started from, in words.
        complete: Whether the schedule has come to its end.
        log: Rows of the log.
    """

    recipe: Recipe
    prior: Prior
    average: Prior
    optimiser: torch.optim.Optimizer
    skipped: Tensor
    skipped_in_a_row: Tensor
    most_skipped_in_a_row: Tensor
    step: int = 0
    elapsed: float = 0.0
    precision: str = "float32"
    images: str = ""
    init: str | None = None
    complete: bool = False
    log: list[dict[str, float]] = field(default_factory=list)

    @checked
    def save(self, path: PathName) -> None:
        """Write the state, random numbers included, to one file.

        Raises:
            OSError: If it cannot be written.
        """
        content = {
            "format": _FORMAT,
            "recipe": self.recipe.model_dump(mode="json"),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else None,
        }
        content |= {name: getattr(self, name).state_dict() for name in _MODULES}
        content |= {name: getattr(self, name) for name in (*_COUNTERS, *_VALUES)}
        with atomic_path(path) as temporary:
            torch.save(content, temporary)

    @checked
    def restore(self, path: PathName) -> None:
        """Take over a state that was saved, the global random numbers included.

        Raises:
            ValueError: If the file is damaged, or belongs to another recipe or other images.
        """
        path = Path(path)
        content = read_checkpoint(path)
        before, now = content["recipe"], self.recipe.model_dump(mode="json")
        anew = f"start anew in another folder, with --init {path.parent} to keep the weights"
        if before != now:
            changes = [f"{key}: {before.get(key)} -> {now.get(key)}" for key in now if before.get(key) != now[key]]
            raise ValueError(
                "A training is resumed with the recipe it was started with; it has changed "
                f"({', '.join(changes) or 'kind'}); {anew}."
            )
        if content["images"] != self.images:
            raise ValueError(
                "A training is resumed with the images it was started with (and the same --validation); they have "
                f"changed ({content['images']} -> {self.images}); {anew}."
            )
        try:
            self._take(content)
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
            # Modules and optimisers take whatever a file holds: what they raise is about the file.
            raise ValueError(
                f"The state in {path} must be of this training's networks and optimiser; it is not "
                f"({type(error).__name__}: {' '.join(str(error).split())[:300]}); {anew}."
            ) from error

    def _take(self, content: dict[str, Any]) -> None:
        for name in _MODULES:
            getattr(self, name).load_state_dict(content[name])
        keep_rates_here(self.optimiser)
        for name in _COUNTERS:
            getattr(self, name).copy_(content[name])
        for name in _VALUES:
            setattr(self, name, content[name])
        # A streak from before is only of interest while it lasts.
        self.most_skipped_in_a_row.copy_(self.skipped_in_a_row)
        torch.set_rng_state(content["random"])
        if content["random_cuda"] is not None and self._device.type == "cuda":
            torch.cuda.set_rng_state(content["random_cuda"], self._device)

    @property
    def _device(self) -> torch.device:
        return self.skipped.device


_MODULES = ("prior", "average", "optimiser")
_COUNTERS = ("skipped", "skipped_in_a_row", "most_skipped_in_a_row")
_VALUES = ("step", "elapsed", "precision", "images", "init", "complete", "log")


@checked
def read_checkpoint(path: PathName) -> dict[str, Any]:
    """The content of a checkpoint, its keys and their kinds checked.

    Raises:
        OSError: If the file cannot be opened.
        ValueError: If the file is no checkpoint of a training, or damaged; the message names file and key.
    """
    try:
        content = read_torch_file(Path(path))
    except ValueError as error:
        raise ValueError(f"A training's checkpoint must be a whole file that it wrote; {error}") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"A training's checkpoint must have the format {_FORMAT!r}; {path} has {brief(found)}.")
    try:
        _Content.model_validate(content)
    except ValidationError as error:
        raise ValueError(
            f"A training's checkpoint must be a whole file that it wrote; {path} is not ({problems_of(error)})."
        ) from error
    # Parsed anew, so that a checkpoint from before some key was there has the default of it.
    recipe = parse_recipe(content["recipe"], f"The recipe in {path}")
    return content | {"recipe": recipe.model_dump(mode="json")}
