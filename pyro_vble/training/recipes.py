"""Recipes: everything that decides how a prior is trained, but for the images."""

import importlib.resources
import os
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from pyro_vble._arguments import PathName, brief, checked
from pyro_vble._deprecated import warn_moved
from pyro_vble._extras import extra
from pyro_vble.io.validated import problems_of
from pyro_vble.io.yaml_files import plain_content

_STRIDE = 64
_T = TypeVar("_T")
# Files have lists where recipes have tuples.
_Listed = Annotated[_T, BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)]
# Largest sizes that are no mistakes: beyond them memory would run out, not training begin.
_Channels = Annotated[int, Field(ge=1, le=4096)]
_Side = Annotated[int, Field(ge=1, le=1 << 16)]
_Steps = Annotated[int, Field(ge=1, lt=2**31)]


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class Data(_Settings):
    """How images become batches.

    Attributes:
        crop: Side of the square crops, in pixels.
        batch_size: Crops a step.
        downscale: Factors at which each image is kept, besides its own size if 1 is among them.
        symmetries: Which mirror images count as equally likely: "none", "horizontal" (mirrored left to right), or
            "all" (the eight of the square, for images seen from above).
        scale: The value in the files that is 1, where a type's largest is not: 4095 for 12 bits in 16.
        dequantize: Add uniform noise as wide as one step of 8 bits, so that images have a density where many of their
            values are equal.
        validation: Largest number of images that are held out, at most a tenth of all.
    """

    crop: int = Field(default=192, ge=4, le=1 << 16)
    batch_size: int = Field(default=8, ge=1, le=1 << 16)
    downscale: _Listed[tuple[float, ...]] = Field(default=(1.0,), min_length=1)
    symmetries: Literal["none", "horizontal", "all"] = "horizontal"
    scale: float | None = Field(default=None, gt=0)
    dequantize: bool = False
    validation: _Steps = 16

    @model_validator(mode="after")
    def _check(self) -> "Data":
        if not all(0 < factor <= 1 for factor in self.downscale):
            raise ValueError(f"downscale must hold factors in (0, 1]; received {brief(self.downscale)}")
        return self


class Schedule(_Settings):
    """How the optimiser goes.

    Attributes:
        optimiser: "adam"; "soap": Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al., 2024,
            https://arxiv.org/abs/2409.11321), which takes fewer steps for the same loss; or "muon":
            orthogonalised momentum (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon), whose steps on a
            GPU cost hardly more than Adam's.
        steps: Number of steps.
        minutes: Time to take in place of a number of steps.
        lr: Largest learning rate, after the warm-up.
        warmup: Part of the schedule in which the rate rises linearly.
        final: The rate at the end, where a cosine takes it, as a part of the largest.
        clip: Largest norm of the gradient of the loss in bits per pixel.
        average: Decay of the exponential moving average of the weights that is written.
        checkpoint_every: Steps between checkpoints.
    """

    optimiser: Literal["adam", "soap", "muon"] = "adam"
    steps: _Steps
    minutes: float | None = Field(default=None, gt=0)
    lr: float = Field(gt=0)
    warmup: float = Field(default=0.02, ge=0, lt=1)
    final: float = Field(default=0.02, ge=0, le=1)
    clip: float = Field(default=1.0, gt=0)
    average: float = Field(default=0.999, ge=0, lt=1)
    checkpoint_every: _Steps = 500


class _Recipe(_Settings):
    data: Data
    schedule: Schedule
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: bool = False
    seed: int = Field(default=0, ge=-(2**63), lt=2**64)


class HyperpriorNetwork(_Settings):
    """A CompressAI network by class and width; the Cheng2020 classes have no M."""

    architecture: Literal[
        "ScaleHyperprior",
        "MeanScaleHyperprior",
        "JointAutoregressiveHierarchicalPriors",
        "Cheng2020Anchor",
        "Cheng2020Attention",
    ]
    N: _Channels
    M: _Channels | None = None

    @model_validator(mode="after")
    def _check(self) -> "HyperpriorNetwork":
        if self.architecture.startswith("Cheng") != (self.M is None):
            raise ValueError(f"M is needed, except by the Cheng2020 classes; received {self.M} for {self.architecture}")
        return self


class CAERecipe(_Recipe):
    """Training of a compressive autoencoder."""

    kind: Literal["cae"]
    network: HyperpriorNetwork
    alpha: float = Field(gt=0)

    @model_validator(mode="after")
    def _check(self) -> "CAERecipe":
        if self.data.crop % _STRIDE:
            raise ValueError(
                f"data.crop must be a multiple of the network's stride {_STRIDE}; received {self.data.crop}"
            )
        return self


class ConvolutionalNetwork(_Settings):
    """The networks of ``convolutional_vae``."""

    image_shape: _Listed[tuple[_Channels, _Side, _Side]]
    num_latents: _Side = 32
    channels: _Listed[tuple[_Channels, ...]] = Field(default=(32, 64, 128), min_length=1, max_length=16)


class VAERecipe(_Recipe):
    """Training of a variational autoencoder: its decoder's mean, with one standard deviation for all pixels."""

    kind: Literal["vae"]
    network: ConvolutionalNetwork
    decoder_std: float = Field(gt=0)
    learn_decoder_std: bool = True

    @model_validator(mode="after")
    def _check(self) -> "VAERecipe":
        if (self.data.crop, self.data.crop) != self.network.image_shape[1:]:
            raise ValueError(
                f"data.crop must be the side of the square network.image_shape {self.network.image_shape}; "
                f"received {self.data.crop}"
            )
        return self


class DecoderStdRecipe(_Recipe):
    """Training of a decoder of standard deviations, everything else of a prior frozen."""

    kind: Literal["decoder_std"]
    link: Literal["sigmoid", "exp"] = "sigmoid"
    floor: float = Field(default=2e-4, ge=0)


Recipe = CAERecipe | VAERecipe | DecoderStdRecipe
_OLD_KIND, _KIND = "decoder-std", "decoder_std"  # until 0.2
_KINDS: dict[str, type[Recipe]] = {"cae": CAERecipe, "vae": VAERecipe, "decoder_std": DecoderStdRecipe}


@checked
def load_recipe(name: PathName) -> Recipe:
    """Read a recipe: one that comes with the package by name, or a YAML file by path.

    Raises:
        ImportError: If PyYAML is not installed.
        ValueError: If there is no such recipe, it is no YAML, or a key in it is unknown, missing or impossible.

    Example:
        >>> from pyro_vble.training import load_recipe
        >>> load_recipe("cae-natural-cpu").alpha
        0.025
    """
    path, name = Path(name), os.fspath(name)
    renamed = name.replace(_OLD_KIND, _KIND, 1)
    if renamed != name and renamed in available_recipes():
        warn_moved(f"Recipe {name}", renamed, stacklevel=3)
        name = renamed
    if name in available_recipes():
        content = (importlib.resources.files("pyro_vble.recipes") / f"{name}.yaml").read_bytes()
    elif path.is_file():
        content = path.read_bytes()
    else:
        raise ValueError(
            f"A recipe is one of {', '.join(available_recipes())}, or the path of a YAML file; received {brief(name)}."
        )
    with extra("training"):
        import yaml
    return parse_recipe(plain_content(yaml, content, f"The recipe {name}"), name)


@checked
def parse_recipe(content: Any, name: str = "the recipe") -> Recipe:
    """A recipe from its plain content, checked.

    Raises:
        ValueError: If a key is unknown, missing or impossible; the message names it.
    """
    kind = content.get("kind") if isinstance(content, dict) else None
    if kind == _OLD_KIND:  # recipes and checkpoints that were written by then
        kind, content = _KIND, content | {"kind": _KIND}
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(f"A recipe has a key kind, one of {', '.join(_KINDS)}; in {name} it is {brief(kind)[:100]}.")
    try:
        return _KINDS[kind].model_validate(content)
    except (ValidationError, RecursionError) as error:
        problems = problems_of(error, "recipe") if isinstance(error, ValidationError) else "it refers to itself"
        raise ValueError(f"{name} cannot be followed: {problems}.") from error


def available_recipes() -> list[str]:
    """Names of the recipes that come with the package.

    Example:
        >>> from pyro_vble.training import available_recipes
        >>> "vae-mnist" in available_recipes()
        True
    """
    files = importlib.resources.files("pyro_vble.recipes").iterdir()
    return sorted(f.name.removesuffix(".yaml") for f in files if f.name.endswith(".yaml"))
