"""Options that the commands share."""

from enum import StrEnum
from functools import partial
from typing import Annotated, Any

import typer


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


Prior = Annotated[
    str,
    typer.Option(help="Bundled prior, CompressAI zoo name (mbt2018-mean/5), or path of a checkpoint."),
]
Alpha = Annotated[
    float | None,
    typer.Option(help="Bitrate parameter that a checkpoint was trained with, where the file does not tell."),
]
Steps = Annotated[int, typer.Option(min=1, help="Optimisation steps.")]
LearningRate = Annotated[float, typer.Option("--lr", help="Learning rate at the first step; it falls to 0.")]
KLWeight = Annotated[float, typer.Option(min=0.0, help="Weight of the prior: 1 is Bayes' rule, more is smoother.")]
RateScale = Annotated[
    str,
    typer.Option(
        help="s in (0, 1]: use the prior as if trained at s² times its bitrate; less is smoother. auto: let several "
        "compete on the evidence."
    ),
]
Samples = Annotated[int, typer.Option(min=2, help="Posterior samples behind every estimate and error bar.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same result.")]
Device = Annotated[str, typer.Option(help="auto (CUDA where there is one), cpu, cuda or cuda:N.")]
Precision = Annotated[str, typer.Option(help="auto, float32, float64 or bfloat16 (of the networks).")]


def rate_scale_of(value: str) -> float | str:
    """A rate scale as ``restore`` takes it."""
    if value == "auto":
        return value
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"rate-scale must be a number in (0, 1], or auto; received {value!r}.") from None


def guide_of(name: GuideName) -> Any:
    """The guide that a name stands for."""
    from pyro_vble.guides import VBLE, MAPz, VBLExz

    return {
        GuideName.vble: VBLE,
        GuideName.vble_xz: VBLExz,
        GuideName.vble_xz_free: partial(VBLExz, free_mean=True),
        GuideName.map_z: MAPz,
    }[name]
