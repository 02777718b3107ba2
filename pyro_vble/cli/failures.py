"""What ended a command, in one line, if a user can have caused it."""

import errno
import re
import zipfile
from typing import Any

import typer

from pyro_vble.cli.words import in_options, one_line

# Mistakes in options, by whichever copy of click typer brings.
_USAGE = typer.BadParameter.__mro__[1:3]
_OF_USERS = (ValueError, TypeError, OSError, ImportError, MemoryError, EOFError, zipfile.BadZipFile)
# By name: their libraries need not be imported for it.
_NAMED = (
    "FitDivergedError",
    "TrainingDivergedError",
    "OutOfMemoryError",
    "SafetensorError",
    "UnpicklingError",
    "YAMLError",
    "NodeNotFoundError",
    "GroupNotFoundError",
    "BaseZarrError",
)
# RuntimeErrors of torch's file writers and readers, and of memory that ran out below Python.
_WRITING = re.compile(r"inline_container|PytorchStream|iostream|file write failed|No space left|File too large")
_MEMORY = re.compile(r"allocate memory|out of memory|ALLOC_FAILED|DefaultCPUAllocator")
_NO_MEMORY = "Memory ran out; cut the image into smaller ones, or take fewer --samples."
_LONGEST = 2000


def explanation(error: BaseException) -> str | None:
    """What to tell a user of an error, in one line; None if it is a fault of the program.

    Empty where all has been said, as by the help that is printed for no arguments.

    Example:
        >>> from pyro_vble.cli.failures import explanation
        >>> from pyro_vble.cli.words import know_options
        >>> know_options({"scale": "--scale"})
        >>> explanation(ValueError("scale must be positive; received -1.0.")), explanation(KeyError("x"))
        ('--scale must be positive; received -1.0.', None)
    """
    if isinstance(error, _USAGE):
        return _of_usage(error)
    if isinstance(error, RecursionError):
        return "A file is nested too deeply to be read; check --calibration, --recipe and --prior."
    text = str(error)
    if isinstance(error, RuntimeError) and _MEMORY.search(text):
        return _NO_MEMORY
    known = {kind.__name__ for kind in type(error).__mro__} & set(_NAMED)
    if not (known or isinstance(error, _OF_USERS) or (isinstance(error, RuntimeError) and _WRITING.search(text))):
        return None
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror
        if error.filename is not None:
            text += f": {error.filename}"
        if error.errno == errno.ENOSPC:
            text += "; make room, or choose another --output"
        text += "."
    if isinstance(error, MemoryError) and not text:
        text = _NO_MEMORY
    text = in_options(one_line(text)) or type(error).__name__
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


def _of_usage(error: Any) -> str:
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return ""
    text = one_line(error.format_message())
    context = getattr(error, "ctx", None)
    return text if context is None else f"{text} (options: {context.command_path} --help)"
