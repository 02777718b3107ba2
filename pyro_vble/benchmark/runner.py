"""Every method on every problem and image: what is done is not done again."""

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vble._version import __version__
from pyro_vble.benchmark.measuring import processor
from pyro_vble.benchmark.methods import CALLS, Given, enlargement
from pyro_vble.benchmark.perceptual import Perceptual
from pyro_vble.benchmark.problems import measured
from pyro_vble.benchmark.records import (
    IncomparableError,
    Place,
    check_comparable,
    differences,
    digest,
    read_record,
    read_records,
    write_pictures,
    write_record,
)
from pyro_vble.benchmark.report import write_settings
from pyro_vble.benchmark.resources import MissingResourceError, Resources
from pyro_vble.benchmark.scoring import Rules, restored
from pyro_vble.benchmark.settings import Benchmark, Method
from pyro_vble.io.checksums import tensors_checksum
from pyro_vble.io.images import SUFFIXES, evenly_spaced, read_image
from pyro_vble.physics import describe, operator_on
from pyro_vble.seeding import derived_seed

_MOST_DIFFERENCES = 4


class OtherSettingsError(ValueError):
    """A folder holds results that were made with other settings."""


@dataclass
class Outcome:
    """What came of a run.

    Attributes:
        made: Number of new results.
        kept: Number of results that were there.
        skipped: Why a method was left out, by method and problem.
        failed: What went wrong, by result.
    """

    made: int = 0
    kept: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """A benchmark on the images of a folder.

    Attributes:
        benchmark: Its settings.
        images: Paths of the images.
        folder: Where results go.
        resources: What methods stand on.
        perceptual: LPIPS, or None.
        replace: Whether results of other settings are made anew; otherwise they are an error.
        part: (i, n): of the measurements of the benchmark the i-th of n parts, from 1.
        tell: What is called with a line of progress.
    """

    benchmark: Benchmark
    images: Sequence[Path]
    folder: Path
    resources: Resources
    perceptual: Perceptual | None = None
    replace: bool = False
    part: tuple[int, int] = (1, 1)
    tell: Callable[[str], None] = lambda text: None

    def __call__(self) -> Outcome:
        """Make what is not there.

        Raises:
            OtherSettingsError: If a result was made with other settings, or cannot stand in one table with what is to
                be made; before anything is restored.
        """
        outcome = Outcome()
        waiting = []
        for measurement in self._measurements():
            todo = {}
            for name, method in self.benchmark.methods.items():
                left_out = f"{method.label}, {measurement.problem}"
                if left_out in outcome.skipped:
                    continue
                try:
                    made_with = measurement.made_with(name, method)
                except MissingResourceError as error:
                    if str(error) not in outcome.skipped.values():
                        self.tell(f"{method.label} is left out: {error}.")
                    outcome.skipped[left_out] = str(error)
                    continue
                if self._is_there(measurement.place.record(name), made_with):
                    outcome.kept += 1
                else:
                    todo[name] = made_with
            if todo:
                waiting.append((measurement, todo))
        self._check(waiting)
        write_settings(self.folder, self.benchmark)
        total = sum(len(todo) for _, todo in waiting)
        for measurement, todo in waiting:
            for name, made_with in todo.items():
                done = outcome.made + len(outcome.failed) + 1
                self._make(measurement, name, made_with, outcome, f"{done}/{total}")
        return outcome

    def _check(self, waiting: "list[tuple[Measurement, dict[str, dict[str, Any]]]]") -> None:
        """See that what is to be made can stand in one table with what is there and stays."""
        own = (r for r in read_records(self.folder) if r["benchmark"] == self.benchmark.name)
        made = {(r["problem"], r["image"], r["method"]): r["made_with"] for r in own}
        made |= {(m.problem, m.path.name, name): own for m, todo in waiting for name, own in todo.items()}
        try:
            check_comparable((problem, image, own) for (problem, image, _), own in made.items())
        except IncomparableError as error:
            raise OtherSettingsError(f"{error} (--replace makes anew no more than what is asked for.)") from error

    def _measurements(self) -> "Iterator[Measurement]":
        pairs = [(path, problem) for path in self.images for problem in self.benchmark.problems]
        pictured = set(evenly_spaced(self.images, self.benchmark.pictures)) if self.benchmark.pictures else set()
        part, parts = self.part
        for path, problem in pairs[part - 1 :: parts]:
            yield Measurement(self, path, problem, path in pictured)

    def _is_there(self, path: Path, made_with: dict[str, Any]) -> bool:
        record = read_record(path)
        if record is None:
            return False
        if record["digest"] == digest(made_with):
            return True
        if self.replace:
            return False
        found = differences(record["made_with"], made_with)
        told = "; ".join(found[:_MOST_DIFFERENCES]) + ("; ..." if len(found) > _MOST_DIFFERENCES else "")
        raise OtherSettingsError(
            f"Results of one folder must be of the same settings; {path} was made with others ({told}); choose another "
            "--output, or --replace it."
        )

    def _make(self, own: "Measurement", name: str, made_with: dict[str, Any], outcome: Outcome, place: str) -> None:
        method = self.benchmark.methods[name]
        called = f"{own.problem}, {own.path.name}, {method.label}"
        try:
            content, pictures = own.restored(name, method)
        # One failure of a method is not the end of a night's run: it is told, and tried again.
        except Exception as error:
            outcome.failed[called] = " ".join(f"{type(error).__name__}: {error}".split())
            self.tell(f"{place} {called}: failed, {outcome.failed[called]}")
            return
        if pictures:
            write_pictures(own.place.measurement, own.shown())
            write_pictures(own.place.pictures(name), pictures)
        write_record(own.place.record(name), content | {"made_with": made_with, "digest": digest(made_with)})
        outcome.made += 1
        figures = content["figures"]
        self.tell(f"{place} {called}: {figures['psnr']:.2f} dB, {figures['seconds']:.1f} s")


@dataclass(frozen=True)
class Measurement:
    """One image, measured in one way.

    Attributes:
        run: The run it is of.
        path: The image.
        problem: Name of the problem.
        pictured: Whether pictures are kept.
    """

    run: Run
    path: Path
    problem: str
    pictured: bool

    @property
    def place(self) -> Place:
        """Where its results are."""
        return Place(self.run.folder, self.run.benchmark.name, self.problem, self.path.name)

    @property
    def truth(self) -> Tensor:
        """The image, (1, C, H, W), on the CPU."""
        return middle(self.path, self.run.benchmark.crop, self.run.resources.bands)

    @property
    def seed(self) -> int:
        """What the seeds of noise, mask and method are derived from: the same for all methods."""
        return derived_seed(self.run.benchmark.seed, f"{self.problem} {self.path.name}") or 0

    def made_with(self, name: str, method: Method) -> dict[str, Any]:
        """All that the result of a method depends on.

        Raises:
            MissingResourceError: If what it stands on is not there.
        """
        benchmark, call = self.run.benchmark, CALLS[method.call]
        scale = 1
        if call.needs == "network":
            scale = enlargement(*self._measured())
        stands_on = self.run.resources.fingerprint(call.needs, method.settings.get("architecture", ""), scale)
        problem, truth = benchmark.problems[self.problem], self.truth
        _, bands, height, width = truth.shape
        own = {"call": method.call, "settings": method.settings, "needs": call.needs, "stands_on": stands_on}
        return {
            "method": own,
            "problem": problem.model_dump(mode="json", exclude={"label"}),
            # By its values: files that a problem names may change, and so may what makes operators.
            "operator": describe(problem.physics((bands, height, width), self.seed)),
            "image": tensors_checksum({"truth": truth})[:16],
            "rules": {key: getattr(benchmark, key) for key in ("seed", "samples", "probability", "border", "crop")},
            "lpips": self.run.perceptual.network if self.run.perceptual else None,
            "device": self.run.resources.device.type,
        }

    def restored(self, name: str, method: Method) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The record of a method, and its pictures if they are kept."""
        benchmark, resources = self.run.benchmark, self.run.resources
        call, (y, physics) = CALLS[method.call], self._measured()
        seed = derived_seed(self.seed, name) or 0
        given = Given(resources, method.settings, seed, benchmark.problems[self.problem].published)
        if call.needs is not None and call.needs != "network":
            getattr(resources, call.needs)  # loaded before the clock runs
        rules = Rules(benchmark.samples, benchmark.probability, benchmark.border, self.run.perceptual)
        truth = self.truth.to(resources.device)
        y, physics = y.to(resources.device), operator_on(physics, resources.device, torch.float32)
        result = restored(lambda y, physics: call.run(y, physics, given), call, y, physics, truth, rules)
        record = {
            "benchmark": benchmark.name,
            "problem": self.problem,
            "image": self.path.name,
            "method": name,
            "figures": result.figures,
            "about": about(resources, call.needs) | {"made_with": result.samples.made_with},
        }
        return record, result.pictures(truth, benchmark.probability) if self.pictured else {}

    def shown(self) -> dict[str, Tensor]:
        """Truth and measurement, for figures."""
        return {"truth": self.truth[0], "measurement": self._measured()[0][0]}

    def _measured(self) -> tuple[Tensor, Any]:
        return measured(self.run.benchmark.problems[self.problem], self.truth, self.seed)


def about(resources: Resources, needs: str | None) -> dict[str, Any]:
    """The machine and the versions that figures belong to, and what the method stands on."""
    machine = processor(resources.device)
    if resources.device.type == "cpu":
        threads = torch.get_num_threads()
        machine += f", {threads} {'thread' if threads == 1 else 'threads'}"
    found = {"machine": machine, "pyro_vble": __version__, "torch": torch.__version__}
    if needs == "denoiser":
        found["denoiser"] = resources.denoiser.name
    if needs == "prior":
        found["prior"] = resources.prior_name
    return found


# Measurements of one image follow one another.
@functools.lru_cache(maxsize=2)
def middle(path: Path, crop: int, bands: int) -> Tensor:
    """The middle of an image, at most ``crop`` pixels a side and sides a multiple of 8: (1, C, H, W) in [0, 1].

    Raises:
        ValueError: If it has other bands, or missing pixels.
    """
    x = read_image(path).values
    if x.shape[1] != bands or not bool(x.isfinite().all()):
        raise ValueError(
            f"Images of a benchmark must have {bands} bands and no missing pixel; {path} has shape "
            f"{tuple(x.shape[1:])} and {int((~x.isfinite()).sum())} missing values; take it out of the folder."
        )
    height, width = (min(side, crop) // 8 * 8 for side in x.shape[-2:])
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    return x[..., top : top + height, left : left + width].contiguous()


def image_paths(folder: Path, count: int | None) -> list[Path]:
    """The images of a folder, by name; so many of them, evenly spaced, if a number is told.

    Raises:
        ValueError: If there is no folder, or no image in it.
    """
    if not folder.is_dir():
        raise ValueError(f"Images must be in a folder; there is none at {os.fspath(folder)}.")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise ValueError(f"{os.fspath(folder)} must hold images ({', '.join(SUFFIXES)}); it holds none.")
    return paths if count is None else evenly_spaced(paths, count)
