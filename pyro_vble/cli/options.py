"""Options that the commands share, and the rules that hold for all of them."""

import math
import os
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

# A Gaussian blur wider than this has more pixels than an image of any use.
_WIDEST_BLUR = 1000.0
_MANY = 1_000_000
# What white may be: within it no value of a file becomes infinite or 0.
_SCALES = 1e-12, 1e20


class Problem(StrEnum):
    """What happened to the image."""

    denoise = "denoise"
    deblur = "deblur"
    super_resolve = "super-resolve"
    inpaint = "inpaint"


class GuideName(StrEnum):
    """The variational family."""

    vble = "vble"
    vble_xz = "vble-xz"
    vble_xz_free = "vble-xz-free"
    map_z = "map-z"


# --- rules ---


def path_given(text: str | os.PathLike) -> Path:
    """A path as it was typed. An empty one is refused: pathlib would take it for the working folder."""
    text = os.fspath(text)
    if not text or "\0" in text:
        raise typer.BadParameter("a path must not be empty; write . for the working folder.")
    return Path(text)


def finite(value: float | None) -> float | None:
    """A number that is one."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"it must be a finite number; received {value}.")
    return value


def positive(value: float | None) -> float | None:
    """A finite number above 0."""
    if value is not None and not 0 < value < math.inf:
        raise typer.BadParameter(f"it must be positive and finite; received {value:g}.")
    return value


def _scale(value: float | None) -> float | None:
    low, high = _SCALES
    if value is not None and not low <= value <= high:
        raise typer.BadParameter(
            f"the value of white must be positive and finite, from {low:g} to {high:g}; received {value:g}."
        )
    return value


def _noise_level(value: float | None) -> float | None:
    if value is None:
        return None
    if not 0 <= value < math.inf:
        raise typer.BadParameter(f"a noise level must be finite and not negative; received {value:g}.")
    if value > 1:
        of_8_bits = f": {value:g}/255 = {value / 255:.3g}" if value <= 255 else ""
        raise typer.BadParameter(
            f"a noise level is a standard deviation on the scale [0, 1]; received {value:g}; divide it by the value "
            f"that is white{of_8_bits}."
        )
    return value


def _blur_width(value: float) -> float:
    if not 0 < value <= _WIDEST_BLUR:
        raise typer.BadParameter(
            f"the blur's standard deviation must be positive and finite, at most {_WIDEST_BLUR:g} pixels; received "
            f"{value:g}."
        )
    return value


def _rate_scale(value: str) -> str:
    if value != "auto":
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not 0 < number <= 1:
            raise typer.BadParameter(f"it must be a number in (0, 1], or auto; received {value!r}.")
    return value


#: A file or folder: whatever was typed, if anything was.
PATH: dict[str, Any] = {"parser": path_given, "metavar": "PATH"}

# --- options ---

Prior = Annotated[
    str,
    typer.Option(help="Bundled prior, CompressAI zoo name (mbt2018-mean/5), or path of a checkpoint."),
]
Alpha = Annotated[
    float | None,
    typer.Option(
        callback=positive, help="Bitrate parameter that a checkpoint was trained with, if the file does not state it."
    ),
]
Noise = Annotated[
    float | None,
    typer.Option(
        callback=_noise_level,
        help="Noise level (standard deviation) on the scale [0, 1]; estimated if left out, as white noise.",
    ),
]
KnownNoise = Annotated[
    float, typer.Option(callback=_noise_level, help="Noise level (standard deviation) on the scale [0, 1].")
]
BlurSigma = Annotated[
    float,
    typer.Option(callback=_blur_width, help="deblur: standard deviation of a Gaussian blur, in pixels."),
]
Kernel = Annotated[
    Path | None,
    typer.Option(**PATH, help="deblur: point-spread function, an image or .npy, instead of --blur-sigma."),
]
Factor = Annotated[int, typer.Option(min=2, max=64, help="super-resolve: enlargement.")]
Scale = Annotated[
    float | None,
    typer.Option(callback=_scale, help="Pixel value of white, e.g. 4095 for 12-bit data. Default: the type's largest."),
]
Steps = Annotated[int, typer.Option(min=1, max=_MANY, help="Optimisation steps.")]
LearningRate = Annotated[
    float, typer.Option("--lr", callback=positive, help="Learning rate at the first step; it falls to 0.")
]
KLWeight = Annotated[
    float,
    typer.Option(min=0.0, callback=finite, help="Weight of the prior: 1 is Bayes' rule, more is smoother."),
]
RateScale = Annotated[
    str,
    typer.Option(
        callback=_rate_scale,
        help="s in (0, 1]: use the prior as if trained at s^2 times its bitrate; less is smoother. auto: let several "
        "compete on the evidence.",
    ),
]
Samples = Annotated[int, typer.Option(min=2, max=_MANY, help="Posterior samples behind every estimate and error bar.")]
Seed = Annotated[int, typer.Option(min=-(2**63), max=2**64 - 1, help="The same seed gives the same result.")]
Device = Annotated[str, typer.Option(help="auto (CUDA where there is one), cpu, cuda or cuda:N.")]
Precision = Annotated[str, typer.Option(help="auto, float32, float64 or bfloat16 (of the networks).")]

# What belongs to one problem only.
_OF_PROBLEM = {"blur_sigma": Problem.deblur, "kernel": Problem.deblur, "factor": Problem.super_resolve}
# What a point estimate has no use for.
_OF_SPREAD = ("samples", "draws", "calibration")


def refuse_unused(context: typer.Context, problem: Problem, guide: GuideName | None = None) -> None:
    """Refuse options that were given and would be ignored.

    Raises:
        ValueError: If there is one.
    """
    given = {name for name in context.params if context.get_parameter_source(name).name == "COMMANDLINE"}
    for name, owner in _OF_PROBLEM.items():
        if name in given and problem is not owner:
            raise ValueError(
                f"{_option(name)} belongs to --problem {owner.value}; received it with {problem.value}; leave it out."
            )
    if {"kernel", "blur_sigma"} <= given:
        raise ValueError("--kernel stands in place of --blur-sigma; received both; leave one out.")
    if guide is GuideName.map_z:
        for name in _OF_SPREAD:
            if name in given:
                raise ValueError(
                    f"--guide map-z is one image without samples and error bars; received {_option(name)}, which "
                    "belongs to those; leave it out, or choose another guide."
                )


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def check_computing(device: str, precision: str) -> None:
    """Refuse a device or precision that there is none of, before any file is read.

    Raises:
        ValueError: If so.
    """
    from pyro_vble.inference import resolve_device

    resolve_device(device)
    choices = ("auto", "float32", "float64", "bfloat16")
    if precision not in choices:
        raise ValueError(f"--precision must be one of {', '.join(choices)}; received {precision!r}.")


def rate_scale_of(value: str) -> float | str:
    """A rate scale as ``restore`` takes it."""
    return value if value == "auto" else float(value)


def guide_of(name: GuideName) -> Any:
    """The guide that a name stands for."""
    from pyro_vble.guides import VBLE, MAPz, VBLExz

    return {
        GuideName.vble: VBLE,
        GuideName.vble_xz: VBLExz,
        GuideName.vble_xz_free: partial(VBLExz, free_mean=True),
        GuideName.map_z: MAPz,
    }[name]
