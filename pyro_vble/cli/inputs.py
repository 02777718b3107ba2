"""Files that a command reads: looked at before anything heavy is imported, which takes seconds."""

import os
from collections.abc import Mapping
from pathlib import Path


def check_inputs(paths: Mapping[str, Path | None]) -> None:
    """Make sure that files and folders are there and may be read.

    Args:
        paths: By what they are called on the command line; None for those that were not given.

    Raises:
        FileNotFoundError: If one is not there.
        PermissionError: If one may not be read.

    Example:
        >>> from pathlib import Path
        >>> from pyro_vble.cli.inputs import check_inputs
        >>> check_inputs({"--mask": Path("none.png")})
        Traceback (most recent call last):
        ...
        FileNotFoundError: Nothing is at none.png (--mask); check the path.
    """
    for name, path in paths.items():
        if path is None:
            continue
        if not path.exists():
            raise FileNotFoundError(f"Nothing is at {path} ({name}); check the path.")
        if not os.access(path, os.R_OK):
            raise PermissionError(f"{path} ({name}) may not be read; change its permissions, or give another file.")


def check_prior(name: str, option: str = "--prior") -> None:
    """Make sure that a prior is there, if it is named by a path.

    Raises:
        FileNotFoundError: If not.
    """
    path = Path(name)
    # With a folder before it, a name may be one of the Hub's.
    named = path.is_absolute() or name.startswith(".") or ("/" not in name and path.suffix)
    if named and not path.exists():
        raise FileNotFoundError(f"No prior at {path} ({option}); check the path; pyro-vble models lists names.")
