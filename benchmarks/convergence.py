"""How near a short fit comes to a long one: PSNR, coverage and ELBO on photographs that no training saw.

``python -m benchmarks.convergence FOLDER --fits gaussian:90 gaussian:2000 --output results.json`` restores the middle
of ten photographs, in one batch a problem, with VBLE-xz of a free mean, of each family and number of steps; prints the
mean of every figure, and adds every image's to the file.
"""

import argparse
import time
from functools import partial
from pathlib import Path

import torch

import pyro_vble as pv
from benchmarks.measuring import keep_table, kept_table
from benchmarks.photographs import problems
from pyro_vble.guides import VBLExz
from pyro_vble.io.images import evenly_spaced, read_image
from pyro_vble.metrics import coverage, psnr
from pyro_vble.seeding import seeded

_SAMPLES, _ELBO_DRAWS = 100, 40


def middles(folder: Path, count: int, side: int) -> torch.Tensor:
    """The middle of so many photographs, (count, 3, side, side)."""
    every = sorted(p for p in folder.iterdir() if p.suffix in (".jpg", ".png", ".webp"))
    cut = []
    for path in evenly_spaced(every, count):
        whole = read_image(path).values
        top, left = ((extent - side) // 2 for extent in whole.shape[-2:])
        cut.append(whole[..., top : top + side, left : left + side])
    return torch.cat(cut)


def parser_of_middles(description: str, *, images: int, side: int) -> argparse.ArgumentParser:
    """The options of every benchmark on the middles of photographs."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=images, help="how many, evenly spaced in the sorted folder")
    parser.add_argument("--side", type=int, default=side)
    parser.add_argument("--prior", default="cae-bsd")
    parser.add_argument("--problems", nargs="+", default=[""], help="only those whose name holds one of these words")
    parser.add_argument("--output", type=Path)
    return parser


def figures(x: torch.Tensor, physics, prior, family: str, steps: int) -> dict:
    """What a fit of so many steps comes to, image by image."""
    with seeded(0):
        y = physics(x)
    guide = partial(VBLExz, free_mean=True, family=family)
    start, cpu = time.perf_counter(), time.process_time()
    posterior = pv.restore(y, physics, prior, guide, num_steps=steps, seed=0, progress=False)
    seconds = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
    mean, (low, high) = posterior.mmse_x(_SAMPLES), posterior.interval(0.9, _SAMPLES)
    elbo = torch.cat([draws.log_weights for draws in posterior.draws(_ELBO_DRAWS)]).mean(0)
    images = [slice(i, i + 1) for i in range(len(x))]
    return seconds | {
        "psnr": [psnr(mean[i], x[i]) for i in images],
        "coverage_90": [coverage((low[i], high[i]), x[i]) for i in images],
        "std": posterior.std(_SAMPLES).flatten(1).mean(1).tolist(),
        "elbo": elbo.tolist(),
        "steps_taken": len(posterior.elbo),
    }


def main() -> None:
    """Fit, print, write JSON."""
    parser = parser_of_middles(__doc__, images=10, side=96)
    parser.add_argument("--fits", nargs="+", default=["gaussian:90", "gaussian:2000"], metavar="FAMILY:STEPS")
    options = parser.parse_args()
    x, prior = middles(options.folder, options.images, options.side), pv.load_prior(options.prior)
    found = kept_table(options.output)
    for fit in options.fits:
        family, steps = fit.split(":")
        for problem, physics in problems(tuple(x.shape[1:]), options.problems).items():
            if fit in found.get(problem, {}):
                continue
            row = found.setdefault(problem, {})[fit] = figures(x, physics, prior, family, int(steps))
            means = {key: sum(row[key]) / len(x) for key in ("psnr", "coverage_90", "elbo")}
            print(
                f"| {problem} | {fit} | {means['psnr']:.3f} dB | {means['coverage_90']:.1%} | {means['elbo']:,.0f} "
                f"| {row['cpu_seconds']:.1f} s |",
                flush=True,
            )
            keep_table(options.output, {"prior": options.prior, "images": len(x), "side": options.side}, found)


if __name__ == "__main__":
    main()
