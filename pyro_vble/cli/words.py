"""What the commands say: plain lines, in which a user's own text stays as it is."""

import contextlib
import os
import re
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any

from rich.console import Console

console = Console()
_errors = Console(stderr=True)

# How Python's face and the command line call the same thing, where they differ by more than dashes.
_OPTIONS = {
    "num_steps": "--steps",
    "num_samples": "--samples",
    "image_shape": "the size of the image",
    **{
        name: f"--{name.replace('_', '-')}"
        for name in (
            "alpha",
            "device",
            "kl_weight",
            "lr",
            "minutes",
            "nodata",
            "precision",
            "rate_scale",
            "scale",
            "seed",
            "symmetries",
        )
    },
}
_NAMES = "|".join(sorted(_OPTIONS, key=len, reverse=True))


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
    """A message of the library with its arguments named as the command line names them, and no call for an example.

    Example:
        >>> from pyro_vble.cli.words import in_options
        >>> in_options('num_steps must be 1 or more; choose precision="bfloat16".')
        '--steps must be 1 or more; choose --precision bfloat16.'
        >>> in_options("It does not tell alpha; pass alpha=..., for example load_prior(path, alpha=0.025).")
        'It does not tell alpha; pass --alpha.'
    """
    message = re.sub(r",? (for example|as in) [\w.]+\([^()]*\)", "", message)
    message = re.sub(rf"^({_NAMES})(?= must)", lambda found: _OPTIONS[found[1]], message)
    message = re.sub(rf"\b({_NAMES})=\.\.\.", lambda found: _OPTIONS[found[1]], message)
    quoted = rf"""\b({_NAMES})=(["']?)([-+\w.:]*[\w])\2"""
    return re.sub(quoted, lambda found: f"{_OPTIONS[found[1]]} {found[3]}", message)


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
