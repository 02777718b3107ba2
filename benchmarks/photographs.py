"""Restoration of photographs that no training saw: every method on every kind of problem.

``python -m benchmarks.photographs FOLDER --images 6 --output results.json`` prints mean PSNR of the first guess and of
MMSE-x, and the coverage of the nominal 90 % interval. ``--denoiser FILE`` adds DPIR with FFDNet.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

import pyro_vble as pv
from pyro_vble.baselines import dpir
from pyro_vble.baselines.denoisers import ffdnet
from pyro_vble.guides import VBLE, VBLExz
from pyro_vble.io.atomic import atomic_path
from pyro_vble.io.images import evenly_spaced, read_image
from pyro_vble.metrics import coverage, psnr
from pyro_vble.physics import initial_image
from pyro_vble.physics.problems import (
    deblurring,
    denoising,
    gaussian_kernel,
    inpainting,
    super_resolution,
)

#: Guide and rate scale of each of our methods.
METHODS = {
    "VBLE": (VBLE, 1.0),
    "VBLE-xz": (VBLExz, 1.0),
    "VBLE-xz, free mean": (partial(VBLExz, free_mean=True), 1.0),
    "VBLE-xz, auto": (VBLExz, "auto"),
    "VBLE-xz, free mean, auto": (partial(VBLExz, free_mean=True), "auto"),
} | {f"VBLE-xz, s={s}": (VBLExz, s) for s in (0.7, 0.5, 0.35, 0.25)}
_DPIR = "DPIR, FFDNet"


def problems(shape: tuple[int, int, int], words: Sequence[str] = ("",)) -> dict:
    """Forward operators for images of this shape, those whose name holds one of these words."""
    half = (torch.rand(1, *shape[1:], generator=torch.Generator().manual_seed(0)) < 0.5).float().expand(shape).clone()
    every = {
        "denoise, noise 25.5/255": denoising(0.1),
        "deblur 1 pixel, noise 7.65/255": deblurring(7.65 / 255, gaussian_kernel(1.0)),
        "deblur 3 pixels, noise 7.65/255": deblurring(7.65 / 255, gaussian_kernel(3.0)),
        "deblur 3 pixels, noise 2.55/255": deblurring(2.55 / 255, gaussian_kernel(3.0)),
        "super-resolve x2, noise-free": super_resolution(0.0, shape, 2),
        "super-resolve x4, noise-free": super_resolution(0.0, shape, 4),
        "inpaint 50 %, noise 2.55/255": inpainting(2.55 / 255, half),
    }
    return {name: physics for name, physics in every.items() if any(word in name for word in words)}


def ours(y, physics, x, prior, method: str, num_steps: int) -> dict:
    """Figures of one of our methods on one measurement."""
    guide, rate_scale = METHODS[method]
    start = time.perf_counter()
    posterior = pv.restore(
        y, physics, prior, guide=guide, rate_scale=rate_scale, num_steps=num_steps, seed=0, progress=False
    )
    mean, interval = posterior.mmse_x(100), posterior.interval(0.9, 100)
    return {
        "seconds": time.perf_counter() - start,
        "psnr": psnr(mean, x),
        "coverage_90": coverage(interval, x),
        "elbo": float(posterior.elbo[-10:].mean()),
        "rate_scale": posterior.model.prior.rate_scale,
    }


def theirs(y, physics, x, denoiser) -> dict:
    """Figures of DPIR on the same measurement."""
    start = time.perf_counter()
    estimate = dpir(y, physics, denoiser).mmse_x()
    return {"seconds": time.perf_counter() - start, "psnr": psnr(estimate, x)}


def evaluate(path: Path, words: Sequence[str], run: dict[str, Callable], table: dict) -> None:
    """Add the figures of one image to a table by problem and method."""
    x = read_image(path).values
    for problem, physics in problems(tuple(x.shape[1:]), words).items():
        torch.manual_seed(0)
        y = physics(x)
        row = table.setdefault(problem, {"first guess": []} | {name: [] for name in run})
        row["first guess"].append({"psnr": psnr(initial_image(physics, y, tuple(x.shape[1:])), x)})
        for name, method in run.items():
            row[name].append(method(y, physics, x))


def mean(rows: list[dict], key: str) -> float | None:
    return sum(row[key] for row in rows) / len(rows) if key in rows[0] else None


def main() -> None:
    """Evaluate, print a table in Markdown, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=6, help="how many, evenly spaced in the sorted folder")
    parser.add_argument("--prior", default="cae-bsd")
    parser.add_argument("--methods", nargs="+", default=list(METHODS)[:3], choices=METHODS, metavar="METHOD")
    parser.add_argument("--problems", nargs="+", default=[""], help="only those whose name holds one of these words")
    parser.add_argument("--denoiser", type=Path, help="weights of FFDNet: adds DPIR")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    every = sorted(p for p in options.folder.iterdir() if p.suffix in (".jpg", ".png", ".webp"))
    paths = evenly_spaced(every, options.images)
    prior = pv.load_prior(options.prior)
    run = {name: partial(ours, prior=prior, method=name, num_steps=options.steps) for name in options.methods}
    if options.denoiser:
        run[_DPIR] = partial(theirs, denoiser=ffdnet(options.denoiser))
    table: dict = {}
    for done, path in enumerate(paths, 1):
        evaluate(path, options.problems, run, table)
        if options.output:  # after every image: an interrupted run leaves what it has
            content = {
                "images": [p.name for p in paths[:done]],
                "prior": options.prior,
                "steps": options.steps,
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
                "table": table,
            }
            with atomic_path(options.output) as temporary:
                temporary.write_text(json.dumps(content, indent=2) + "\n")
    print(f"| problem | first guess | {' | '.join(run)} |\n|---|---|{'---|' * len(run)}")
    for problem, row in table.items():
        cells = []
        for rows in row.values():
            covered, seconds = mean(rows, "coverage_90"), mean(rows, "seconds")
            cell = f"{mean(rows, 'psnr'):.2f} dB" + ("" if covered is None else f", {covered:.0%}")
            cells.append(cell + ("" if seconds is None else f", {seconds:.1f} s"))
        print(f"| {problem} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
