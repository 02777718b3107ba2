"""Recipes: everything that decides how a prior is trained, but for the images."""

import importlib.resources
import os
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

_STRIDE = 64


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


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

    crop: int = Field(default=192, ge=4)
    batch_size: int = Field(default=8, ge=1)
    downscale: tuple[float, ...] = Field(default=(1.0,), min_length=1)
    symmetries: Literal["none", "horizontal", "all"] = "horizontal"
    scale: float | None = Field(default=None, gt=0)
    dequantize: bool = False
    validation: int = Field(default=16, ge=1)

    @model_validator(mode="after")
    def _check(self) -> "Data":
        if not all(0 < factor <= 1 for factor in self.downscale):
            raise ValueError(f"downscale must hold factors in (0, 1]; received {self.downscale}")
        return self


class Schedule(_Settings):
    """How the optimiser goes.

    Attributes:
        optimiser: "adam", or "soap": Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al., 2024,
            https://arxiv.org/abs/2409.11321), which takes fewer steps for the same loss.
        steps: Number of steps.
        minutes: Time to take in place of a number of steps.
        lr: Largest learning rate, after the warm-up.
        warmup: Part of the schedule in which the rate rises linearly.
        final: The rate at the end, where a cosine takes it, as a part of the largest.
        clip: Largest norm of the gradient of the loss in bits per pixel.
        average: Decay of the exponential moving average of the weights that is written.
        checkpoint_every: Steps between checkpoints.
    """

    optimiser: Literal["adam", "soap"] = "adam"
    steps: int = Field(ge=1)
    minutes: float | None = Field(default=None, gt=0)
    lr: float = Field(gt=0)
    warmup: float = Field(default=0.02, ge=0, lt=1)
    final: float = Field(default=0.02, ge=0, le=1)
    clip: float = Field(default=1.0, gt=0)
    average: float = Field(default=0.999, ge=0, lt=1)
    checkpoint_every: int = Field(default=500, ge=1)


class _Recipe(_Settings):
    data: Data
    schedule: Schedule
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: bool = False
    seed: int = 0


class HyperpriorNetwork(_Settings):
    """A CompressAI network by class and width; the Cheng2020 classes have no M."""

    architecture: Literal[
        "ScaleHyperprior",
        "MeanScaleHyperprior",
        "JointAutoregressiveHierarchicalPriors",
        "Cheng2020Anchor",
        "Cheng2020Attention",
    ]
    N: int = Field(ge=1)
    M: int | None = Field(default=None, ge=1)

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

    image_shape: tuple[int, int, int]
    num_latents: int = Field(default=32, ge=1)
    channels: tuple[int, ...] = Field(default=(32, 64, 128), min_length=1)


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

    kind: Literal["decoder-std"]
    link: Literal["sigmoid", "exp"] = "sigmoid"
    floor: float = Field(default=2e-4, ge=0)


Recipe = CAERecipe | VAERecipe | DecoderStdRecipe
_KINDS: dict[str, type[Recipe]] = {"cae": CAERecipe, "vae": VAERecipe, "decoder-std": DecoderStdRecipe}


def load_recipe(name: str | os.PathLike) -> Recipe:
    """Read a recipe: one that comes with the package by name, or a YAML file by path.

    Raises:
        ValueError: If there is no such recipe, or a key in it is unknown, missing or impossible.

    Example:
        >>> from pyro_vble.training import load_recipe
        >>> load_recipe("cae-natural-cpu").alpha
        0.025
    """
    name = os.fspath(name)
    if name in available_recipes():
        text = (importlib.resources.files("pyro_vble.recipes") / f"{name}.yaml").read_text()
    elif Path(name).is_file():
        text = Path(name).read_text()
    else:
        raise ValueError(
            f"A recipe is one of {', '.join(available_recipes())}, or the path of a YAML file; received {name!r}."
        )
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"A recipe must be YAML; {name} is not ({' '.join(str(error).split())}).") from error
    return parse_recipe(content, name)


def parse_recipe(content: Any, name: str = "the recipe") -> Recipe:
    """A recipe from its plain content, checked.

    Raises:
        ValueError: If a key is unknown, missing or impossible; the message names it.
    """
    kind = content.get("kind") if isinstance(content, dict) else None
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(f"A recipe has a key kind, one of {', '.join(_KINDS)}; in {name} it is {kind!r}.")
    try:
        return _KINDS[kind].model_validate(content)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'recipe'}: {e['msg']}"
            + ("" if e["type"] in ("missing", "value_error") else f" (received {e['input']!r})")
            for e in error.errors()
        )
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
