"""Every guide on every kind of problem, on a folder of photographs that no training saw.

``python -m benchmarks.photographs FOLDER --images 6 --output results.json`` prints mean PSNR of the first guess and of
MMSE-x, and the coverage of the nominal 90 % interval.
"""

import argparse
import json
import time
from functools import partial
from pathlib import Path

import torch

import pyro_vble as pv
from pyro_vble.guides import VBLE, VBLExz
from pyro_vble.io.atomic import atomic_path
from pyro_vble.io.images import read_image
from pyro_vble.metrics import coverage, psnr
from pyro_vble.physics import initial_image
from pyro_vble.physics.problems import (
    deblurring,
    denoising,
    gaussian_kernel,
    inpainting,
    super_resolution,
)

GUIDES = {"VBLE": VBLE, "VBLE-xz": VBLExz, "VBLE-xz, free mean": partial(VBLExz, free_mean=True)}


def problems(shape: tuple[int, int, int]) -> dict:
    """Forward operators for images of this shape."""
    half = (torch.rand(1, *shape[1:], generator=torch.Generator().manual_seed(0)) < 0.5).float().expand(shape).clone()
    return {
        "denoise, noise 25.5/255": denoising(0.1),
        "deblur 1 pixel, noise 7.65/255": deblurring(7.65 / 255, gaussian_kernel(1.0)),
        "deblur 3 pixels, noise 7.65/255": deblurring(7.65 / 255, gaussian_kernel(3.0)),
        "deblur 3 pixels, noise 2.55/255": deblurring(2.55 / 255, gaussian_kernel(3.0)),
        "super-resolve x2, noise-free": super_resolution(0.0, shape, 2),
        "super-resolve x4, noise-free": super_resolution(0.0, shape, 4),
        "inpaint 50 %, noise 2.55/255": inpainting(2.55 / 255, half),
    }


def evaluate(paths: list[Path], prior_name: str, num_steps: int) -> dict:
    """Mean figures by problem and guide."""
    prior = pv.load_prior(prior_name)
    table: dict = {}
    for path in paths:
        x = read_image(path).values
        for problem, physics in problems(tuple(x.shape[1:])).items():
            torch.manual_seed(0)
            y = physics(x)
            row = table.setdefault(problem, {"first guess": []} | {g: [] for g in GUIDES})
            row["first guess"].append(psnr(initial_image(physics, y, tuple(x.shape[1:])), x))
            for name, guide in GUIDES.items():
                start = time.perf_counter()
                posterior = pv.restore(y, physics, prior, guide=guide, num_steps=num_steps, seed=0, progress=False)
                figures = psnr(posterior.mmse_x(100), x), coverage(posterior.interval(0.9, 100), x)
                row[name].append((*figures, float(posterior.elbo[-10:].mean()), time.perf_counter() - start))
    return {
        problem: {
            name: sum(v) / len(v)
            if name == "first guess"
            else dict(
                zip(
                    ("psnr", "coverage_90", "elbo", "seconds"),
                    (sum(c) / len(c) for c in zip(*v, strict=True)),
                    strict=True,
                )
            )
            for name, v in row.items()
        }
        for problem, row in table.items()
    }


def main() -> None:
    """Evaluate, print a table in Markdown, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=6, help="how many, evenly spaced in the sorted folder")
    parser.add_argument("--prior", default="cae-bsd")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    every = sorted(p for p in options.folder.iterdir() if p.suffix in (".jpg", ".png", ".webp"))
    paths = every[:: max(1, len(every) // options.images)][: options.images]
    table = evaluate(paths, options.prior, options.steps)
    print(f"| problem | first guess | {' | '.join(GUIDES)} |\n|---|---|{'---|' * len(GUIDES)}")
    for problem, row in table.items():
        cells = [f"{row[g]['psnr']:.2f} dB, {row[g]['coverage_90']:.0%}" for g in GUIDES]
        print(f"| {problem} | {row['first guess']:.2f} dB | {' | '.join(cells)} |")
    if options.output:
        content = {
            "images": [p.name for p in paths],
            "prior": options.prior,
            "steps": options.steps,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "table": table,
        }
        with atomic_path(options.output) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
