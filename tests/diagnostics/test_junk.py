"""Malformed calls of the public diagnostics and metrics, from a seeded generator: refused at the face, by name.

A call may succeed, where what it was given makes sense after all, or raise TypeError or ValueError from a ``raise`` of
this library. An error of any other kind, or from beneath, fails.
"""

import random
import traceback
from pathlib import Path

import numpy as np
import pytest
import torch
from deepinv.physics import Denoising, GaussianNoise
from fuzzing import Rude, silent
from helpers import linear_vae

import pyro_vble as pv
from pyro_vble import diagnostics as d
from pyro_vble import metrics
from pyro_vble.guides import VBLE

LIBRARY = Path(pv.__file__).parent
SHAPE = (1, 1, 16, 16)
SEED = 20


@pytest.fixture(scope="module")
def good() -> dict:
    """Arguments that are right, by name."""
    torch.manual_seed(0)
    prior = linear_vae(torch.eye(256, dtype=torch.float64)[:, :3], torch.full((256,), 0.5), 0.1, SHAPE[1:])
    y = torch.rand(SHAPE, dtype=torch.float64)
    posterior = pv.restore(y, Denoising(GaussianNoise(0.2)), prior, VBLE, num_steps=2, seed=0, progress=False)
    samples, truth = torch.randn(30, *SHAPE), torch.randn(SHAPE)
    return {
        "posterior": posterior,
        "samples": samples,
        "truth": truth,
        "idata": posterior.to_arviz(10, include=["posterior"]),
        "curve": d.coverage_curve(samples, truth),
        "histogram": d.pit_histogram(samples, truth),
        "by_std": d.error_by_std(samples, truth),
        "quantile": d.error_quantile(samples, truth),
        "check": d.predictive_check(posterior, num_samples=4),
        "sbc": d.SBC({"x": np.arange(10)[:, None]}, 9),
        "image": truth[0],
    }


def calls(good: dict) -> list:
    """Functions, with arguments that are right, by position and by name."""
    pair = (good["samples"], good["truth"])
    drawing = {"num_samples": 5, "seed": 0}
    curve = {"levels": [0.5, 0.9], "border": 2, "spacing": 4, "probability": 0.9}
    toy = (
        lambda n: ({"x": torch.zeros(n, 1)}, torch.zeros(n, 1)),
        lambda y, n: {"x": torch.zeros(n, len(y), 1)},
        {"x": lambda v: v["x"]},
    )
    small = {"num_simulations": 3, "num_draws": 3, "batch_size": 2, "seed": 0, "progress": False}
    return [
        (d.pit, pair, drawing),
        (d.pit_histogram, pair, drawing | {"bins": 5, "border": 2, "spacing": 4, "probability": 0.9}),
        (d.coverage_curve, pair, drawing | curve),
        (d.coverage_curve, (good["posterior"], good["truth"].double()), drawing | curve),
        (d.crps, pair, drawing),
        (d.interval_score, (*pair, 0.9), drawing),
        (d.error_by_std, pair, drawing | {"bins": 5, "border": 2}),
        (d.error_quantile, (*pair, 0.9), drawing | {"border": 2}),
        (d.z_score_map, pair, drawing),
        (d.predictive_check, (good["posterior"],), {"num_samples": 2, "seed": 0}),
        (d.importance_sampling, (good["posterior"], 25), {"seed": 0}),
        (d.summary, (good["idata"],), {"patch": 4, "probability": 0.9}),
        (d.sbc, toy, small),
        (good["sbc"].passes, (0.9,), {}),
        (good["sbc"].band, (0.9,), {}),
        (good["sbc"].ecdf_difference, ("x",), {}),
        (good["curve"].at, (0.5,), {}),
        (good["check"].reasons, (0,), {}),
        (metrics.psnr, (good["truth"], good["truth"] + 0.1), {"border": 2}),
        (metrics.ssim, (good["truth"], good["truth"] + 0.1), {"border": 0}),
        (metrics.coverage, ((good["truth"] - 1, good["truth"] + 1), good["truth"]), {"border": 2}),
        (metrics.inner, (good["truth"], 2), {}),
        (d.plot_coverage, (good["curve"],), {}),
        (d.plot_pit_histogram, (good["histogram"],), {}),
        (d.plot_error_by_std, (good["by_std"],), {}),
        (d.plot_error_quantile, (good["quantile"],), {"index": 0}),
        (d.plot_residual, (good["check"], 0), {"limit": 4.0}),
        (d.plot_sbc, (good["sbc"],), {"probability": 0.9}),
        (d.plot_score_map, (good["image"],), {}),
        (d.plot_z_score_map, (good["image"],), {"limit": 4.0}),
    ]


def junk(chance: random.Random, truth: torch.Tensor):
    """Something that is hardly ever right."""
    unknown = truth.clone()
    unknown[..., 3:5] = float("nan")
    return chance.choice(
        [
            None, True, False, -1, 0, 1, 2.5, 10**40, 90, -0.1, 1.0, float("nan"), float("inf"), 1j, "", "x", b"x", [],
            [0.5], {}, {"x": 1}, (), (1, 2), object(), Rude(), Rude, silent, np.float64(0.5), np.int64(3), np.nan,
            np.zeros(3), np.array([]), np.array(["a"]), truth.numpy(), truth[0], truth[..., 0], truth[..., :0],
            truth.long(), truth.bool(), truth.to(torch.complex64), truth.half(), truth.double(), truth[0, 0, 0, 0],
            torch.empty(0), torch.zeros(5), torch.zeros(2, *SHAPE), torch.full(SHAPE, float("nan")), unknown,
            unknown[None].repeat(3, 1, 1, 1, 1), torch.full(SHAPE, float("inf")), truth.to_sparse(), [truth],
            (truth, truth), {"samples": truth}, iter([]), range(3), slice(1), ValueError("x"), truth.repeat(1, 1, 2, 1),
            truth.mT,
        ]
    )  # fmt: skip


def outcome(function, args, kwargs) -> str | None:
    """None if the call was accepted or refused as it should be, else what happened."""
    try:
        function(*args, **kwargs)
    except (TypeError, ValueError) as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        inside = Path(last.filename).is_relative_to(LIBRARY) and (last.line or "").startswith("raise ")
        told = len(str(error)) and "\n" not in str(error)
        return None if inside and told else f"from {last.filename}:{last.lineno}: {error!r}"
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return f"from {last.filename}:{last.lineno}: {error!r}"
    return None


def attack(good: dict, number: int, seed: int) -> list[str]:
    """What went wrong in so many malformed calls."""
    import matplotlib.pyplot as plt

    chance, found, every = random.Random(seed), [], calls(good)
    for turn in range(number):
        function, args, kwargs = every[turn % len(every)]
        args, kwargs = list(args), dict(kwargs)
        for _ in range(chance.choice((1, 1, 2))):
            place = chance.choice([*range(len(args)), *kwargs])
            (kwargs if isinstance(place, str) else args)[place] = junk(chance, good["truth"])
        how = chance.random()
        if how < 0.05:
            kwargs["unheard_of"] = 1
        elif how < 0.1:
            args = args[:-1]
        problem = outcome(function, args, kwargs)
        if problem:
            found.append(f"seed {seed}, call {turn}, {function.__name__}: {problem}")
        plt.close("all")
    return found


def test_right_calls_are_accepted(good):
    import matplotlib.pyplot as plt

    for function, args, kwargs in calls(good):
        function(*args, **kwargs)
    plt.close("all")


@pytest.mark.filterwarnings("ignore")
def test_some_malformed_calls(good):
    assert attack(good, 150, SEED) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(SEED + 1, SEED + 5))
def test_many_malformed_calls(good, seed):
    assert attack(good, 500, seed) == []
