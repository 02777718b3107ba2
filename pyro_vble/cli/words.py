"""What the commands say: plain lines, in which a user's own text stays as it is."""

import contextlib
import os
import re
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console

console = Console()
_errors = Console(stderr=True)

# What the command line calls otherwise than Python does, by more than dashes.
_OTHERWISE = {
    "image_shape": "the size of the image",
    "kept_samples": "--write-samples",
    "num_samples": "--samples",
    "num_steps": "--steps",
    "physics": "the operator",
    "y": "the measurement",
}
# Options of the running command by the names of their parameters; those of most commands until there is one.
_options: dict[str, str] = {
    name: f"--{name.replace('_', '-')}"
    for name in (
        "alpha",
        "device",
        "kl_weight",
        "lr",
        "nodata",
        "precision",
        "rate_scale",
        "scale",
        "seed",
        "symmetries",
    )
}
# How remedies begin, and what in them nobody can type on a command line.
_REMEDY = re.compile(
    r"(ask|build|choose|clip|compute|convert|crop|define|end|fit|give|import|leave|let|make|mark|move|name|pass|put|"
    r"raise|register|save|set|take|use|wrap|write)\b"
)
_CODE = re.compile(
    r"""(?<![-\w/.])[A-Za-z_]\w*=(?=[\w"'(\[.])  # an argument
    | \b[A-Za-z]\w*[._]\w[\w.]*\(  # a call of something with a dot or an underscore
    | \b[A-Z]+[a-z]*[A-Z]\w*\(  # the making of an object
    | (?<![-/.\w])[a-z0-9]+(?:_[a-z0-9]+)+\b(?![./])  # a name
    | \blambda\b | \bstate_dict\b | \ballow_\w+ | \btorch\.\w+ | \bpyro\.\w+
    """,
    re.VERBOSE,
)


def know_options(names: Mapping[str, str]) -> None:
    """Learn what options the running command has, for :func:`in_options`.

    Args:
        names: Options as they are typed, by the names of their parameters.
    """
    _options.clear()
    _options.update(names)


def say(text: str, *, style: str | None = None) -> None:
    """Print a line as it is: brackets, dollars and numbers in it mean nothing."""
    console.print(printable(text), style=style, markup=False, highlight=False, soft_wrap=True)


def warn(text: str) -> None:
    """Print a line that asks for attention."""
    _opened(console, "Warning:", "yellow", text)


def complain(text: str) -> None:
    """Print what ends the command, on standard error."""
    _opened(_errors, "Error:", "bold red", text)


def one_line(text: str) -> str:
    """A message without line ends.

    Example:
        >>> from pyro_vble.cli.words import one_line
        >>> one_line("a\\n  b")
        'a b'
    """
    return " ".join(line.strip() for line in text.splitlines() if line.strip())


def printable(text: str) -> str:
    """Text whose undecodable bytes, as in file names of old archives, are question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def in_options(message: str) -> str:
    """A message of the library as the command line says it: options in place of arguments, and no Python code.

    A message has a rule, the value received and remedies, with semicolons between; a remedy that is code, which nobody
    can type there, is left out.

    Example:
        >>> from pyro_vble.cli.words import in_options, know_options
        >>> know_options({"alpha": "--alpha", "precision": "--precision"})
        >>> in_options('num_steps must be 1 or more; choose precision="bfloat16".')
        '--steps must be 1 or more; choose --precision bfloat16.'
        >>> in_options("It does not tell alpha; pass alpha=..., for example load_prior(path, alpha=0.025).")
        'It does not tell alpha; pass --alpha.'
        >>> in_options("y must be dense; received a sparse one; pass y.to_dense().")
        'The measurement must be dense; received a sparse one.'
    """
    message = re.sub(r"(:|,? for example|,? as in|,? as from) [\w.]+\((?:[^()]|\([^()]*\))*\)", "", message)
    message = re.sub(r" The exception's attribute [^.]*\.", "", message)
    message = re.sub(r"\bof y\b", "of the measurement", message)
    known = _options | _OTHERWISE
    names = "|".join(sorted(map(re.escape, known), key=len, reverse=True))

    def option(found: re.Match) -> str:
        return known[found["name"]]

    message = re.sub(rf"^(?P<name>{names})(?= must\b| cannot\b| is needed)", option, message)
    message = message[:1].upper() + message[1:] if message.startswith("the ") else message
    message = re.sub(rf"\b(?P<name>{names})=\.\.\.", option, message)
    message = re.sub(
        rf"""(?<![-\w])(?P<name>{names})=(["']?)(?P<value>[-+\w.:]*\w)\2(?![\w(])""",
        lambda found: f"{option(found)} {found['value']}",
        message,
    )
    # Other names are words of English as well.
    code = "|".join(name for name in known if "_" in name or name == "lr")
    message = re.sub(rf"(?<![-\w./])(?P<name>{code})\b(?![-=(/]|\.\w)", option, message)
    rule, *others = message.removesuffix(".").split("; ")
    kept = [rule, *filter(None, map(_without_code, others))]
    return "; ".join(kept) + ("." if message.endswith(".") else "")


def _without_code(clause: str) -> str:
    """A clause without those of its alternatives that are code; nothing of a remedy that is all code."""
    if not _REMEDY.match(clause):
        return clause
    parts = [part for part in re.split(r",? or (?=[a-z]|--)", clause) if not _CODE.search(part)]
    return " or ".join(parts) if parts and _REMEDY.match(parts[0]) else ""


@contextlib.contextmanager
def stage(text: str) -> Iterator[None]:
    """A scope whose work takes a while: a spinner on a terminal, elsewhere a line."""
    begun = time.monotonic()
    if not console.is_terminal:
        say(f"{text} ...")
        yield
        return
    with console.status("") as status:
        status.update(_Spent(printable(text), begun))
        yield


class _Spent:
    """A text with the seconds since its beginning, at every refresh."""

    def __init__(self, text: str, begun: float) -> None:
        self.text, self.begun = text, begun

    def __rich__(self) -> Any:
        from rich.text import Text

        return Text(f"{self.text} ({time.monotonic() - self.begun:.0f} s)")


def plain_warnings() -> None:
    """Have Python's warnings printed as one line each, without path and code."""

    def show(message: Any, category: type[Warning], filename: str, lineno: int, *_: Any, **__: Any) -> None:
        warn(in_options(one_line(str(message))))

    # Dependencies announce their own deprecations: nothing a user of the command can act on.
    for category in (FutureWarning, DeprecationWarning, PendingDeprecationWarning):
        warnings.simplefilter("ignore", category)
    warnings.showwarning = show


def forgiving_streams() -> None:
    """Have what cannot be written on a terminal of few characters replaced, and a missing stream swallow all."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, as long as the process
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _opened(where: Console, opening: str, style: str, text: str) -> None:
    from rich.text import Text

    where.print(Text.assemble((opening, style), " ", printable(text)), highlight=False, soft_wrap=True)
