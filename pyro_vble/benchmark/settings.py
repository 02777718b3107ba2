"""What a benchmark compares and how: one YAML file, checked."""

import importlib.resources
import os
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from pyro_vble._arguments import PathName, brief, checked
from pyro_vble._extras import extra
from pyro_vble.benchmark.methods import CALLS
from pyro_vble.benchmark.problems import Plain, Problem
from pyro_vble.io.validated import problems_of
from pyro_vble.io.yaml_files import plain_content

_OWN = "settings.yaml"


class Method(Plain):
    """A method.

    Attributes:
        label: What tables call it.
        call: What it calls, one of ``pyro_vble.benchmark.methods.CALLS``.
        settings: Arguments of the call.
    """

    label: str
    call: str
    settings: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> "Method":
        if self.call not in CALLS:
            raise ValueError(f"call must be one of {', '.join(CALLS)}; received {brief(self.call)}")
        return self


class Quick(Plain):
    """What is less in a quick run, to see that all is well.

    Attributes:
        images: Number of images.
        crop: Side of their middles.
        samples: As in :class:`Benchmark`.
        methods: Settings of methods that are other ones.
    """

    images: int = Field(ge=1)
    crop: int = Field(ge=32)
    samples: int = Field(ge=2)
    methods: dict[str, dict[str, Any]] = Field(default_factory=dict)


class Benchmark(Plain):
    """A benchmark.

    Attributes:
        name: Its name.
        title: Its title.
        prior: The prior, for ``load_prior``.
        crop: Side of the middle of the images that is restored; those that are smaller are taken whole.
        reference: The method that others are compared with, image by image.
        problems: The problems by name.
        methods: The methods by name.
        seed: What all seeds are derived from.
        samples: Number of samples behind every mean, interval and score.
        probability: That of the interval whose coverage is told.
        border: Pixels left out of all figures at the border.
        pictures: Images of which pictures are kept.
        images: How many images, evenly spaced in the folder; None for all.
    """

    name: str
    title: str
    prior: str
    crop: int = Field(ge=32)
    reference: str
    problems: dict[str, Problem] = Field(min_length=1)
    methods: dict[str, Method] = Field(min_length=1)
    seed: int
    samples: int = Field(ge=2)
    probability: float = Field(gt=0, lt=1)
    border: int = Field(ge=0)
    pictures: int = Field(ge=0)
    images: int | None = Field(default=None, ge=1)

    @checked
    def of(self, methods: Any = None, problems: Any = None) -> "Benchmark":
        """This benchmark with some of its methods and problems, None for all.

        Args:
            methods: Names; those of methods that the file has, but not this benchmark, are refused.
            problems: Names, or their beginnings: "gaussian" is all of Gaussian blur, but "ir" not "ir-x2".

        Raises:
            ValueError: If one is unknown.
        """
        kept = {"methods": _chosen(self.methods, methods, "method", exact=True)}
        kept |= {"problems": _chosen(self.problems, problems, "problem", exact=False)}
        return self.model_copy(update=kept)

    def plain(self) -> dict[str, Any]:
        """All of it as plain mappings, for a file."""
        return self.model_dump(mode="json")


class _File(Plain):
    class _Content(Plain):
        title: str
        prior: str
        crop: int
        reference: str
        problems: dict[str, Any]
        methods: list[str]
        quick: Quick

    seed: int = 0
    samples: int
    probability: float
    border: int
    pictures: int
    methods: dict[str, Method]
    benchmarks: dict[str, _Content]

    def benchmark(self, name: str, quick: bool) -> Benchmark:
        if name not in self.benchmarks:
            raise ValueError(f"A benchmark is one of {', '.join(self.benchmarks)}; received {brief(name)}.")
        own = self.benchmarks[name]
        unknown = [one for one in (*own.methods, *own.quick.methods) if one not in self.methods]
        if unknown:
            raise ValueError(f"Methods of {name} must be some of {', '.join(self.methods)}; received {unknown[0]}.")
        less = own.quick if quick else None
        methods = {}
        for one in own.methods:
            method, change = self.methods[one], less.methods.get(one, {}) if less else {}
            methods[one] = method.model_copy(update={"settings": method.settings | change})
        content: dict[str, Any] = {
            "name": name,
            "title": own.title,
            "prior": own.prior,
            "reference": own.reference,
            "problems": own.problems,
            "methods": methods,
            "crop": less.crop if less else own.crop,
            "samples": less.samples if less else self.samples,
            "images": less.images if less else None,
        }
        shared = {key: getattr(self, key) for key in ("seed", "probability", "border", "pictures")}
        return Benchmark.model_validate(content | shared)


@checked
def load_benchmark(name: str, *, quick: bool = False, settings: PathName | None = None) -> Benchmark:
    """The settings of a benchmark, from the file that comes with the package or one's own.

    Args:
        name: "bsd" or "satellite", or what one's own file calls it.
        quick: Fewer and smaller images, and fewer steps and samples of the slow methods.
        settings: A file of one's own.

    Raises:
        ImportError: If PyYAML is not installed.
        ValueError: If there is no such benchmark, or the file is no such file.

    Example:
        >>> from pyro_vble.benchmark import load_benchmark
        >>> load_benchmark("satellite").problems["ir-x2"].scale
        2
    """
    with extra("benchmark"):
        import yaml
    if settings is None:
        content, called = (importlib.resources.files("pyro_vble.benchmark") / _OWN).read_bytes(), _OWN
    else:
        path = Path(settings)
        if not path.is_file():
            raise ValueError(f"Settings must be a YAML file; there is none at {os.fspath(path)}.")
        content, called = path.read_bytes(), os.fspath(path)
    plain = plain_content(yaml, content, f"The file {called}")
    try:
        return _File.model_validate(plain).benchmark(name, quick)
    except ValidationError as error:
        raise ValueError(f"{called} cannot be followed: {problems_of(error, 'file')}.") from error


def _chosen(known: dict[str, Any], asked: Any, kind: str, *, exact: bool) -> dict[str, Any]:
    if asked is None:
        return known
    found: dict[str, Any] = {}
    for name in asked:
        matching = [name] if name in known else [one for one in known if one.startswith(name) and not exact]
        if not matching:
            raise ValueError(f"A {kind} must be one of {', '.join(known)}; received {brief(name)}.")
        found |= {one: known[one] for one in matching}
    return {name: known[name] for name in known if name in found}
