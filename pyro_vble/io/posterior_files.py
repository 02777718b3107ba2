"""What a posterior's file holds, checked whole before anything is built from it."""

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pyro_vble._arguments import brief
from pyro_vble.io.atomic import atomic_path
from pyro_vble.io.checksums import tensors_checksum
from pyro_vble.io.families import Family
from pyro_vble.io.validated import problems_of
from pyro_vble.models.turned import TURNS

FORMAT = "pyro-vble posterior 3"
# Before it had a module and qualified name, a guide was a class of this library.
_EARLIER = "pyro-vble posterior 2"
# An image of more values than this for each of the guide's is none that the guide's latents can be of.
_MOST_VALUES = 1024
_Plain = str | bool | int | float | None
_Seed = Annotated[int, Field(ge=-(2**63), lt=2**64)]
_Side = Annotated[int, Field(ge=1)]


class GuideReference(BaseModel):
    """What makes a guide: a class, by module and qualified name, and its options."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    module: str
    name: str
    options: dict[str, _Plain | list[_Plain]]


class PosteriorHeader(BaseModel):
    """What a file says of a posterior besides its numbers."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    format: Literal["pyro-vble posterior 3"]
    version: str
    guide: GuideReference
    latent_image: bool | None = None
    prior: str | None
    prior_fingerprint: str
    prior_settings: dict[str, Any]
    image_shape: tuple[_Side, _Side, _Side]
    precision: Literal["float32", "float64", "bfloat16"]
    seed: _Seed | None
    num_fits: int = Field(ge=1)
    seeds: Annotated[list[_Seed | None], Field(min_length=1)]
    turns: list[str] | None = None
    calibration: dict[str, Any] | None
    physics_priors: dict[str, Family]
    interrupted: bool = False
    checksum: str | None = None

    @model_validator(mode="after")
    def _check(self) -> "PosteriorHeader":
        if self.num_fits != len(self.seeds):
            raise ValueError(f"num_fits must be the number of seeds; received {self.num_fits} and {len(self.seeds)}")
        if self.turns is not None and (self.num_fits != len(self.turns) or not set(self.turns) <= set(TURNS)):
            raise ValueError(f"turns must be one for each fit, of {', '.join(TURNS)}; received {brief(self.turns)}")
        return self


def read_posterior_file(path: Path) -> tuple[PosteriorHeader, dict[str, Tensor]]:
    """Header and tensors.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged or of another kind.
    """
    if not path.is_file():
        raise FileNotFoundError(f"No posterior at {path}; give the path that Posterior.save wrote.")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("pyro_vble", "{}")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, TypeError) as error:
        raise ValueError(
            f"A posterior must be a complete file that Posterior.save wrote; {path} cannot be read ({error}); it may "
            "be truncated: copy it again."
        ) from error
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise wrong(path, f"its header is no JSON ({type(error).__name__})") from error
    told = content
    found = content.get("format") if isinstance(content, dict) else None
    if found == _EARLIER:
        content, found = _migrated(content), FORMAT
    if found != FORMAT:
        raise ValueError(
            f"A posterior must be a file of the format {FORMAT!r}; {path} has {brief(found)}; give a file that "
            "Posterior.save wrote with this version."
        )
    try:
        header = PosteriorHeader.model_validate_json(json.dumps(content))
    except ValidationError as error:
        raise wrong(path, problems_of(error, "header")) from error
    # Files from before there was a checksum are read without.
    if header.checksum is not None and posterior_checksum(told, tensors) != header.checksum:
        raise wrong(path, "its content is not what was written (the checksum is another): copy it again")
    return header, tensors


def write_posterior_file(path: Path, header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write header and tensors, with a checksum of both.

    Raises:
        OSError: If the file cannot be written.
    """
    header = {"format": FORMAT, **header}
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    header["checksum"] = posterior_checksum(header, tensors)
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"pyro_vble": json.dumps(header)})


def _migrated(content: dict[str, Any]) -> dict[str, Any]:
    """The header of an earlier file as this version writes it."""
    others = {key: value for key, value in content.items() if key not in ("guide", "options")}
    guide = {"module": "pyro_vble.guides", "name": content.get("guide"), "options": content.get("options")}
    return others | {"format": FORMAT, "guide": guide}


def posterior_checksum(header: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """A checksum of all that a file holds, itself aside."""
    told = json.dumps({key: value for key, value in header.items() if key != "checksum"}, sort_keys=True)
    return tensors_checksum(tensors, told)


def check_sizes(header: PosteriorHeader, tensors: dict[str, Tensor]) -> None:
    """Raise ValueError unless there are the tensors of so many fits, of an image that they can be of."""
    names = {name.split(".")[0] for name in tensors}
    wanted = {"y"} | {f"{kind}{k}" for k in range(header.num_fits) for kind in ("elbo", "guide")}
    if names != wanted:
        raise ValueError(f"it must hold {', '.join(sorted(wanted))}; it holds {brief(', '.join(sorted(names)))}")
    y = tensors["y"]
    if y.dim() < 2 or not y.numel() or not (y.is_floating_point() or y.is_complex()):
        raise ValueError(f"its measurement must be a batch of real numbers; it is {brief(y)}")
    if not bool(y.isfinite().flatten(1).any(1).all()):
        raise ValueError("its measurement must have a finite value for every image")
    for k in range(header.num_fits):
        elbo = tensors[f"elbo{k}"]
        if elbo.dim() != 1 or not elbo.is_floating_point() or not bool(elbo.isfinite().all()):
            raise ValueError(f"elbo{k} must be a row of finite numbers; it is {brief(elbo)}")
    values = sum(value.numel() for value in part_of(tensors, "guide0.").values())
    if len(y) * math.prod(header.image_shape) > _MOST_VALUES * values:
        raise ValueError(f"image_shape {header.image_shape} cannot be that of {values} parameters")


def check_finite(state: dict[str, Tensor]) -> None:
    """Raise ValueError unless all values are finite."""
    for name, value in state.items():
        if not bool(value.isfinite().all()):
            raise ValueError(f"The guide's parameters must be finite; {name} is not.")


def part_of(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, without that beginning."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def wrong(path: Path, what: str) -> ValueError:
    """The error of a file whose content is wrong."""
    return ValueError(f"{path} is no posterior that can be loaded: {' '.join(what.split()).rstrip('.')}.")
