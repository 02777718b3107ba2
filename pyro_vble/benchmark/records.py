"""What a benchmark writes: one JSON a method, problem and image, and the pictures that figures show."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vble.io.atomic import atomic_path

_FORMAT = "pyro-vble benchmark 1"
# Of 16 bits, between -1/2 and 3/2: estimates and samples may leave [0, 1].
_STEPS, _LOW, _RANGE = 65535, -0.5, 2.0
_IMAGES = ("estimate", "samples", "truth", "measurement")


@dataclass(frozen=True)
class Place:
    """Where the results of one measurement are.

    Attributes:
        folder: Of all results.
        benchmark, problem, image: Names.
    """

    folder: Path
    benchmark: str
    problem: str
    image: str

    @property
    def _own(self) -> Path:
        return self.folder / self.benchmark / self.problem / self.image

    def record(self, method: str) -> Path:
        """The figures of a method."""
        return self._own / f"{method}.json"

    def pictures(self, method: str) -> Path:
        """The pictures of a method."""
        return self._own / f"{method}.npz"

    @property
    def measurement(self) -> Path:
        """Truth and measurement."""
        return self._own / "measurement.npz"


def digest(made_with: Mapping[str, Any]) -> str:
    """A checksum of all that a result depends on.

    Example:
        >>> from pyro_vble.benchmark.records import digest
        >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
        True
    """
    return hashlib.sha256(json.dumps(made_with, sort_keys=True).encode()).hexdigest()[:16]


def differences(one: Mapping[str, Any], other: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What two mappings do not agree on, as dotted names with both values.

    Example:
        >>> from pyro_vble.benchmark.records import differences
        >>> differences({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}, "c": 2})
        ['a.b: 1, now 3']
    """
    found = []
    for key in sorted(one.keys() | other.keys()):
        a, b = one.get(key), other.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key}: {a}, now {b}")
    return found


class IncomparableError(ValueError):
    """Results that cannot stand in one table."""


def check_comparable(made: Iterable[tuple[str, str, Mapping[str, Any]]]) -> None:
    """See that the results of a benchmark can stand in one table.

    All must be of the same rules and of the same prior and denoiser, those of a problem of the same settings, and those
    of an image of the same pixels and operator.

    Args:
        made: Problem, image, and what a result was made with.

    Raises:
        IncomparableError: If they are not.
    """
    found: dict[tuple[str, str], set[str]] = {}
    for problem, image, own in made:
        place = f"{problem}, {image}"
        alike = {("rules", ""): own["rules"], ("LPIPS", ""): own["lpips"], ("settings", problem): own["problem"]}
        alike |= {("pixels", place): own["image"], ("operator", place): own.get("operator")}
        needs = own["method"].get("needs")
        if needs in ("prior", "denoiser"):
            alike[needs, ""] = own["method"]["stands_on"]
        for key, value in alike.items():
            values = found.setdefault(key, set())
            values.add(json.dumps(value, sort_keys=True))
            if len(values) > 1:
                one, other = sorted(values)
                where = f" of {key[1]}" if key[1] else ""
                raise IncomparableError(
                    f"Results of one table must have the same {key[0]}{where}; received {one} and {other}; take some "
                    "out, or choose another folder."
                )


def write_record(path: Path, content: Mapping[str, Any]) -> None:
    """Write a result."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps({"format": _FORMAT, **content}, indent=1) + "\n")


def read_record(path: Path) -> dict[str, Any] | None:
    """A result, or None where there is none.

    Raises:
        ValueError: If the file is another one.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{path} must be a result of pyro-vble benchmark; it is no JSON; remove it.") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ValueError(f"{path} must be a result of pyro-vble benchmark; it is none; choose another folder.")
    return content


def read_records(folder: Path) -> Iterator[dict[str, Any]]:
    """All results of a folder, in order of their paths."""
    for path in sorted(folder.glob("*/*/*/*.json")):
        record = read_record(path)
        if record is not None:
            yield record


def write_pictures(path: Path, pictures: Mapping[str, Tensor]) -> None:
    """Write pictures: images as 16-bit integers, maps of errors as floats of 16 bits."""
    arrays = {}
    for name, value in pictures.items():
        if name in _IMAGES:
            steps = ((value - _LOW) / _RANGE * _STEPS).round().clamp(0, _STEPS)
            arrays[name] = steps.nan_to_num(0).to(torch.int32).numpy().astype(np.uint16)
        else:
            arrays[name] = value.numpy().astype(np.float16)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


def read_pictures(path: Path) -> dict[str, Tensor] | None:
    """Pictures that were written, or None where there are none."""
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as content:
        arrays = {name: torch.from_numpy(content[name].astype(np.float32)) for name in content.files}
    return {name: value / _STEPS * _RANGE + _LOW if name in _IMAGES else value for name, value in arrays.items()}
