"""Every image of a folder, restored one after the other."""

import errno
import functools
import json
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from pyro_vble.cli.failures import explanation
from pyro_vble.cli.report import tell_skipped
from pyro_vble.cli.restoring import Asked, restored_image, stamp, write_page_of
from pyro_vble.cli.words import say
from pyro_vble.io.images import SUFFIXES, images_in

_INTERRUPTED, _SOME_FAILED = 130, 3
# Where a disk is full, the next image fails as this one did.
_FULL = (errno.ENOSPC, errno.EDQUOT)


def restored_folder(folder: Path, output: Path, asked: Asked, learnt: Any) -> int:
    """Restore the images of a folder, each into a folder of its own; returns the exit status.

    That is 0 if all are there in the end, 3 if some could not be restored, 130 if it was interrupted. An image whose
    results are there, from the same file and the same options, is left as it is.

    Raises:
        ValueError: If there is no image, or the prior cannot be used.
        OSError: If the disk is full, or the output folder cannot be made.
    """
    images = images_in(folder)
    if not images:
        raise ValueError(f"A folder to restore must hold images ({', '.join(SUFFIXES)}); {folder} holds none.")
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output must be a folder; {output} is a file; choose another.")
    load_prior = functools.cache(asked.fit.load_prior)
    load_prior()  # an error of its own is none of an image's
    failed: dict[Path, str] = {}
    done, there, status = 0, 0, 0
    for number, (image, name) in enumerate(_named(images), 1):
        target = output / name
        if _is_there(image, target, asked):
            there += 1
            if asked.page and not (target / "page.html").is_file():
                write_page_of(target, image)
            continue
        say(f"Image {number} of {len(images)}: {image.name}")
        try:
            outcome = restored_image(image, target, asked, load_prior, learnt)
        except KeyboardInterrupt:
            status = _INTERRUPTED
            break
        except Exception as error:
            if isinstance(error, OSError) and error.errno in _FULL:
                raise
            told = explanation(error)
            if told is None:
                traceback.print_exc()
                told = "a fault of pyro-vble, told above; please report it"
            failed[image] = told
            tell_skipped(image, told)
            continue
        if outcome.interrupted:
            status = _INTERRUPTED
            break
        if outcome.failed_tiles:
            failed[image] = f"{outcome.failed_tiles} of its tiles failed and are missing"
        else:
            done += 1
    _sum_up(output, len(images), done, there, failed, ended=status == 0)
    return status or (_SOME_FAILED if failed else 0)


def _named(images: list[Path]) -> list[tuple[Path, str]]:
    """Every image with the name of its folder: its own without the suffix, or with it where two would share one."""
    stems = Counter(image.stem.lower() for image in images)
    return [(image, image.name if stems[image.stem.lower()] > 1 else image.stem) for image in images]


def _is_there(image: Path, target: Path, asked: Asked) -> bool:
    """Whether an image's results are there: of the same file, with the same options, to the end."""
    try:
        found = json.loads((target / "metrics.json").read_text())
    except (OSError, ValueError):
        return False
    if not isinstance(found, dict) or found.get("interrupted") is not False or found.get("failed_tiles"):
        return False
    # A page is no part of what is restored.
    now = json.loads(json.dumps(asked.words | stamp(image)))
    return {**now, "page": None} == {**(found.get("asked") or {}), "page": None}


def _sum_up(output: Path, total: int, done: int, there: int, failed: dict[Path, str], *, ended: bool) -> None:
    parts = [f"{done} restored"]
    parts += [f"{there} already there"] if there else []
    parts += [f"{len(failed)} failed"] if failed else []
    left = total - done - there - len(failed)
    parts += [f"{left} left"] if left else []
    say(f"{total} images: {', '.join(parts)}. Results are in {output}/, in a folder of each.")
    for image, reason in failed.items():
        tell_skipped(image, reason)
    if not ended:
        say("Interrupted; the same command goes on where it was ended.")
