"""Malformed calls and damaged files, from a seeded generator, and the judgement of what comes of them."""

import dataclasses
import math
import pathlib
import random
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

import pyro_vble as pv

LIBRARY = pathlib.Path(pv.__file__).parent
HOMES = tuple({LIBRARY, *(pathlib.Path(part.__file__).parent for part in (pv.models, pv.guides))})


class Rude:
    """An object without manners."""

    shape = "none"

    def __repr__(self):
        raise RuntimeError

    def __len__(self):
        raise OSError

    def __iter__(self):
        raise KeyError


def silent(*args: Any, **kwargs: Any) -> None:
    """A function that gives nothing."""


@dataclasses.dataclass(frozen=True)
class Call:
    """A call that is right, and the arguments of it that are to be replaced."""

    name: str
    function: Callable
    args: tuple = ()
    kwargs: dict = dataclasses.field(default_factory=dict)
    #: Junk of this call's own, by argument.
    own: dict = dataclasses.field(default_factory=dict)


def junk(chance: random.Random, folder: pathlib.Path) -> Any:
    """Something that is hardly ever right."""
    numbers = [-1, 0, 1, 2, 2.5, 7, 10**40, -(2**63), -0.1, 1e-320, 1e300, math.nan, math.inf, -math.inf, 1j, True]
    arrays = [
        np.float64(0.5), np.float32("nan"), np.int64(3), np.bool_(True), np.zeros(3), np.array([]), np.array(["a"]),
        np.array([None, 1]), np.zeros((2, 2), "datetime64[s]"), torch.tensor(0.5), torch.tensor(3), torch.empty(0),
        torch.zeros(5), torch.zeros(1, 3, 32, 32), torch.rand(3, 32, 32), torch.full((1, 3, 32, 32), math.nan),
        torch.rand(1, 3, 32, 32, dtype=torch.float64), torch.zeros(1, 3, 32, 32, dtype=torch.int16),
        torch.zeros(2, 2).to_sparse(), torch.zeros(3, 3, dtype=torch.complex64), torch.zeros(4, 4).half(),
    ]  # fmt: skip
    things = [
        None, "", "x", "auto", "mean", "x" * 3000, "a\0b", "\ud800", b"x", bytearray(b"x"), [], [0.5], [None], {},
        {"x": 1}, {1: 2}, (), (1, 2), (3, 32, 32), (1, 10**9, 10**9), (math.nan,), {1, 2}, frozenset("a"), object(),
        Rude(), Rude, [Rude()], {"sigma": object()}, {"sigma": Rude()}, silent, print, dict, range(3),
        torch.nn.Identity(), torch.nn.Identity, lambda model, y: silent, torch.empty(1, 3, 32, 32, device="meta"),
        iter([]), slice(1), slice("a"), (slice(None), slice(None)), (slice(0.5), 3), ValueError("x"), Ellipsis,
        NotImplemented, pathlib, torch.float16, torch.device("cpu"), torch.device("meta"), "cuda:7", np.uint8,
    ]  # fmt: skip
    paths = [
        folder, folder / "none", str(folder / "none" / "at all"), pathlib.Path("/"), "/dev/null", "..",
        folder / ("n" * 300), folder / "file" / "below", b"/tmp", f"{folder}/x.png",
    ]  # fmt: skip
    return chance.choice(chance.choices([numbers, arrays, things, paths], [3, 3, 4, 1])[0])


def malformed(call: Call, chance: random.Random, folder: pathlib.Path) -> tuple[list, dict]:
    """Arguments of a call, one or two of them junk."""
    args, kwargs = list(call.args), dict(call.kwargs)
    for _ in range(chance.choice((1, 1, 1, 2))):
        places = [*range(len(args)), *kwargs]
        if not places:
            break
        place = chance.choice(places)
        own = call.own.get(place, ())
        value = chance.choice(own)() if own and chance.random() < 0.6 else junk(chance, folder)
        (kwargs if isinstance(place, str) else args)[place] = value
    how = chance.random()
    if how < 0.03:
        kwargs["unheard_of"] = 1
    elif how < 0.06:
        args = args[:-1]
    elif how < 0.08:
        args.append(junk(chance, folder))
    return args, kwargs


def judged(function: Callable, args: Any, kwargs: dict, path: str | None = None) -> str | None:
    """None where a call was accepted with sense, or refused by name; else what happened.

    Args:
        function: What is called.
        args: Its arguments by position.
        kwargs: Its arguments by name.
        path: What an error must name: of a damaged file.
    """
    try:
        flaw = senseless(function(*args, **kwargs))
    except Exception as error:
        return _fault(error, path)
    return flaw and f"returned {flaw}"


def _fault(error: Exception, path: str | None) -> str | None:
    last = traceback.extract_tb(error.__traceback__)[-1]
    if isinstance(error, TypeError) and last.filename == __file__:
        return None  # Python itself has no such argument, or misses one
    where = f"{type(error).__name__} from {last.filename}:{last.lineno}: {error}"[:600]
    if isinstance(error, OSError) and error.filename is not None:
        return None
    said = str(error).split("\nTrace Shapes")[0]  # which Pyro adds to errors within a program
    if not said or "\n" in said or len(said) > 1500:
        return f"no one line: {where}"
    if path is not None and path not in said:
        return f"does not name the file: {where}"
    expected = isinstance(error, TypeError | ValueError | MemoryError | OSError | pv.FitDivergedError)
    inside = any(pathlib.Path(last.filename).is_relative_to(home) for home in HOMES)
    return None if expected and inside and (last.line or "").startswith("raise ") else where


def senseless(value: Any) -> str | None:
    """What is not finite in what a call returned, if anything."""
    if isinstance(value, pv.Posterior):
        return senseless({"mmse_x": value.mmse_x(2, seed=0), "std": value.std(3, seed=0)})
    if isinstance(value, Tensor):
        finite = not value.is_floating_point() or bool(value.isfinite().all())
        return None if finite and value.numel() else f"a tensor of shape {tuple(value.shape)}, finite: {finite}"
    if isinstance(value, dict):
        return next((f"{name}: {flaw}" for name, one in value.items() if (flaw := senseless(one))), None)
    if isinstance(value, tuple | list):
        return next((flaw for one in value if (flaw := senseless(one))), None)
    if hasattr(value, "groups") and hasattr(value, "posterior"):
        image = value.posterior["image"]
        return None if image.size and bool(np.isfinite(image).all()) else "an image that is empty or not finite"
    if isinstance(value, float):
        return None if math.isfinite(value) else str(value)
    return None
