"""Options that the commands share, and the rules that hold for all of them."""

import functools
import inspect
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

_MANY = 1_000_000
# What white may be: within it no value of a file becomes infinite or 0.
_SCALES = 1e-12, 1e20


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


def noise_level(value: float | None) -> float | None:
    """A standard deviation on the scale [0, 1]."""
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


def _rate_scale(value: str) -> float | str:
    if value == "auto":
        return value
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 < number <= 1:
        raise typer.BadParameter(f"it must be a number in (0, 1], or auto; received {value!r}.")
    return number


def _named(*names: str) -> dict[str, Any]:
    """For typer: an option that is one of some words, or is not given."""

    def named(value: str | None) -> str | None:
        if value is not None and value not in names:
            raise typer.BadParameter(f"{value!r} is not one of {', '.join(map(repr, names))}.")
        return value

    return {"callback": named, "metavar": f"<{'|'.join(names)}>"}


#: A file or folder: whatever was typed, if anything was.
PATH: dict[str, Any] = {"parser": path_given, "metavar": "PATH"}

# --- options ---

Prior = Annotated[
    str,
    typer.Option(
        help="Prior: the network that has learnt what images look like. A bundled one (pyro-vble models lists them), a "
        "name of CompressAI's zoo (mbt2018-mean/5), or the path of a checkpoint."
    ),
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
        callback=noise_level,
        help="Noise level: the standard deviation, white being 1 (5 of 255 is 0.02). Estimated if left out, as white "
        "noise.",
    ),
]
KnownNoise = Annotated[
    float,
    typer.Option(callback=noise_level, help="Noise level: the standard deviation, white being 1 (5 of 255 is 0.02)."),
]
Scale = Annotated[
    float | None,
    typer.Option(
        callback=_scale,
        help="Pixel value (digital number, DN) of white, e.g. 4095 for 12-bit data. Default: the type's largest.",
    ),
]
Quality = Annotated[
    str,
    typer.Option(
        **_named("fast", "accurate"),
        help="accurate takes 300 steps in place of 90, and a guide with wider error bars: for wide blur, and images "
        "without noise.",
    ),
]
Steps = Annotated[
    int,
    typer.Option(
        min=1,
        max=_MANY,
        help="Steps of the fit; by default those of --quality. More take longer, and are seldom better.",
    ),
]
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
        help="How much detail the prior is asked for, s in (0, 1]: less is smoother, as if it was trained at s^2 times "
        "its bitrate. auto tries several in short fits and takes the one that explains the image best.",
    ),
]
Linearised = Annotated[
    bool,
    typer.Option(
        "--linearised",
        help="Draw samples from a better approximation around the fit: wider error bars, for half a second of one core "
        "a sample of 256x256 pixels.",
    ),
]
Symmetries = Annotated[
    str | None,
    typer.Option(
        **_named("flip", "dihedral"),
        help="Average the prior over left and right (flip, in twice the time) or all eight flips and quarter turns "
        "(dihedral, in eight times the time).",
    ),
]
Samples = Annotated[
    int,
    typer.Option(
        min=2,
        max=_MANY,
        help="How many possible images (posterior samples) are drawn; the restored image is their average, and the "
        "error bars are their spread.",
    ),
]
Seed = Annotated[int, typer.Option(min=-(2**63), max=2**64 - 1, help="The same seed gives the same result.")]
Device = Annotated[str, typer.Option(help="auto (CUDA where there is one), cpu, cuda or cuda:N.")]
Precision = Annotated[str, typer.Option(help="auto, float32, float64 or bfloat16 (of the networks).")]


# --- what was asked ---


def option_name(name: str) -> str:
    """An option as it is typed.

    Example:
        >>> from pyro_vble.cli.options import option_name
        >>> option_name("blur_sigma")
        '--blur-sigma'
    """
    return f"--{name.replace('_', '-')}"


def option_names(command: Any, chosen: str | None = None) -> dict[str, str]:
    """The options of a command as they are typed, by the names of their parameters.

    Args:
        command: As typer makes it.
        chosen: Of a group of commands, the one that is meant; by default all.
    """
    parts = getattr(command, "commands", {})
    found = {}
    for name, part in parts.items():
        if chosen in (None, name):
            found |= option_names(part)
    for parameter in command.params:
        typed = [one for one in parameter.opts if one.startswith("--")]
        if typed and parameter.name != "help":
            found[parameter.name] = typed[0]
    return found


def given(context: typer.Context) -> set[str]:
    """Names of the options that were typed."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}


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


# --- ways to ask ---


@dataclass(frozen=True)
class Entry:
    """One of several things to choose.

    Attributes:
        name: What it is called on the command line.
        help: What it is, in a few words.
    """

    name: str
    help: str

    def __str__(self) -> str:
        """The name."""
        return self.name


def choice(entries: Mapping[str, Entry], purpose: str) -> dict[str, Any]:
    """For typer: an option whose value is one of these entries, chosen by its name."""

    def entry(name: str | Entry) -> Entry:
        found = entries.get(str(name))  # a default is an entry already
        if found is None:
            raise typer.BadParameter(f"{name!r} is not one of {', '.join(map(repr, entries))}.")
        return found

    meanings = "; ".join(f"{name}: {value.help}" for name, value in entries.items())
    return {"parser": entry, "metavar": f"<{'|'.join(entries)}>", "help": f"{purpose} {meanings}."}


def unfolded(**groups: Callable[..., Any]) -> Callable[[Callable], Callable]:
    """Have a command take the options that some of its parameters are made of, in place of those parameters.

    Args:
        groups: For such a parameter the class or function that makes it, whose own parameters become options.
    """

    def decorate(command: Callable) -> Callable:
        own = inspect.signature(command).parameters
        parts = {name: inspect.signature(make).parameters for name, make in groups.items()}
        asked: dict[str, inspect.Parameter] = {}
        for name, parameter in own.items():
            asked |= parts.get(name, {name: parameter})

        @functools.wraps(command)
        def run(**values: Any) -> Any:
            made = {name: make(**{part: values[part] for part in parts[name]}) for name, make in groups.items()}
            return command(**{name: made[name] if name in made else values[name] for name in own})

        vars(run)["__signature__"] = inspect.Signature([p.replace(kind=p.KEYWORD_ONLY) for p in asked.values()])
        run.__annotations__ = {p.name: p.annotation for p in asked.values()}
        return run

    return decorate
