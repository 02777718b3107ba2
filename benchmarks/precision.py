"""What bfloat16 networks change: PSNR and coverage beside float32, same images, same seed.

``python -m benchmarks.precision FOLDER --output FILE``. Two fits differ by their own noise as well: beside the
difference of precisions stands that of two seeds in float32.
"""

import argparse
import json
import statistics
from pathlib import Path

import torch

import pyro_vble as pv
from benchmarks.against_loop import GUIDES, SIGMA
from benchmarks.measuring import surroundings
from pyro_vble.inference import resolve_device
from pyro_vble.io.atomic import atomic_path
from pyro_vble.io.images import evenly_spaced, read_image
from pyro_vble.metrics import coverage, psnr
from pyro_vble.physics.problems import deblurring, gaussian_kernel


def figures(y, physics, x, prior, guide: type, precision: str, seed: int, device: torch.device) -> tuple[float, float]:
    """PSNR in dB and coverage in points."""
    posterior = pv.restore(
        y, physics, prior, guide, precision=precision, seed=seed, device=device, progress=False, tolerance=None
    )
    return psnr(posterior.mmse_x(100), x), 100 * coverage(posterior.interval(0.9, 100), x)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--side", type=int, default=128, help="side of the crop from the middle")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    device, prior = resolve_device(options.device), pv.load_prior("cae-bsd")
    physics = deblurring(SIGMA, gaussian_kernel(1.0))
    result: dict = surroundings(device, "bfloat16 and float32") | {"side": options.side, "guides": {}}
    every = sorted(p for p in options.folder.iterdir() if p.suffix in (".jpg", ".png", ".webp"))
    for name, guide in GUIDES.items():
        rows = []
        for path in evenly_spaced(every, options.images):
            x = read_image(path).values
            top, left = ((extent - options.side) // 2 for extent in x.shape[-2:])
            x = x[..., top : top + options.side, left : left + options.side]
            torch.manual_seed(0)
            y = physics(x)
            one, other, again = (
                figures(y, physics, x, prior, guide, precision, seed, device)
                for precision, seed in (("float32", 0), ("bfloat16", 0), ("float32", 1))
            )
            row = {"image": path.name, "psnr": one[0], "coverage": one[1]}
            row |= {"bfloat16_psnr": other[0] - one[0], "bfloat16_coverage": other[1] - one[1]}
            row |= {"seed_psnr": again[0] - one[0], "seed_coverage": again[1] - one[1]}
            rows.append(row)
            print(name, {key: round(v, 3) if isinstance(v, float) else v for key, v in row.items()}, flush=True)
        keys = [key for key in rows[0] if key != "image"]
        result["guides"][name] = {"mean": {k: statistics.mean(r[k] for r in rows) for k in keys}, "rows": rows}
        print(name, "mean", {key: round(v, 3) for key, v in result["guides"][name]["mean"].items()})
    if options.output:
        with atomic_path(options.output) as temporary:
            temporary.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
