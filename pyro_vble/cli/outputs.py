"""Where results go: looked at before the work, not after it."""

import os
from collections.abc import Iterable
from pathlib import Path

from pyro_vble.io.atomic import check_writable, remove_leftovers


def prepare_folder(folder: Path, names: Iterable[str], inputs: Iterable[Path | None]) -> None:
    """Make a folder, and make sure that each of these files can be written in it and is none that is read.

    What a killed run was writing there is removed.

    Raises:
        ValueError: If the folder is none, or a file would overwrite an input.
        OSError: If it cannot be made or written to.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output must be a folder; {folder} is a file; choose another.")
    if folder.is_symlink() and not folder.exists():
        raise ValueError(f"--output must be a folder; {folder} is a link to nothing; remove it or choose another.")
    folder.mkdir(parents=True, exist_ok=True)
    inputs = list(inputs)
    for name in names:
        prepare_file(folder / name, inputs)
    remove_leftovers(folder)


def prepare_file(path: Path, inputs: Iterable[Path | None]) -> None:
    """Make sure that a file can be written, and is none that is read.

    Raises:
        ValueError: If it is a folder or a device, or one of the inputs.
        OSError: If it cannot be written.
    """
    for other in inputs:
        if other is not None and _same(path, other):
            raise ValueError(f"An input is not overwritten: {path} would be; choose another --output.")
    check_writable(path)


def _same(path: Path, other: Path) -> bool:
    try:
        return os.path.samefile(path, other)
    except (OSError, ValueError):  # one of them does not exist
        return path.resolve() == other.resolve()
