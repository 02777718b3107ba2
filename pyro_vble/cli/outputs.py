"""Where results go: looked at before the work, not after it."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from pyro_vble.io.atomic import check_writable, remove_leftovers

#: Images that ``restore`` writes: what an estimate is written as, and what needs a spread; error bars of tiles.
IMAGES, SAMPLES, ERROR_BARS = ("restored", "mmse_z"), ("sample_1", "sample_2"), ("std", "error_quantile_90")
TILE_BARS = ("std", "low", "high")
# All else that it may write, whatever the image and the options.
_OTHERS = ("fit.pvble", "metrics.json", "figure.png", "error_bars.png", "posterior.nc", "page.html")


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


def earlier_results(folder: Path, inputs: Iterable[Path | None]) -> list[Path]:
    """What an earlier run of ``restore`` has written into a folder; nothing of a folder that is none of its.

    Inputs are no results, whatever their names.
    """
    try:
        told = json.loads((folder / "metrics.json").read_text())
    except (OSError, ValueError):
        return []
    if not isinstance(told, dict) or "pyro_vble" not in told:
        return []
    inputs = [path for path in inputs if path is not None]
    images = {*IMAGES, *SAMPLES, *ERROR_BARS, *TILE_BARS}
    names = (*(f"{name}{suffix}" for name in images for suffix in (".png", ".tif", ".npy")), *_OTHERS)
    found = [folder / name for name in names if (folder / name).is_file()]
    return [path for path in found if not any(_same(path, other) for other in inputs)]


def remove_others(earlier: Iterable[Path], written: Iterable[Path]) -> None:
    """Remove what an earlier run has written, and this one has not: it is of another restoration."""
    keep = {path.name for path in written}
    for path in earlier:
        if path.name not in keep:
            path.unlink(missing_ok=True)


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
