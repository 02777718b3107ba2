"""What ``predictive_check`` finds of an operator or noise level that is not the measurement's.

``python -m benchmarks.wrong_operator FOLDER --json results.json``: photographs are measured by one operator and
restored by another. Prints how many were told from right ones, by which statistics, and what the wrong operator cost in
PSNR. The slope of the restoration's spectrum stands beside that of sharp photographs: a blur believed too narrow makes
it steeper.
"""

import argparse
import itertools
import json
import math
import statistics
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

import pyro_vble as pv
from benchmarks.measuring import surroundings
from pyro_vble.diagnostics import predictive_check
from pyro_vble.guides import VBLExz
from pyro_vble.io.atomic import atomic_path
from pyro_vble.io.images import evenly_spaced, read_image
from pyro_vble.metrics import psnr
from pyro_vble.physics.problems import deblurring, denoising, gaussian_kernel, super_resolution
from pyro_vble.seeding import derived_seed, seeded

_CROP = 128
_SAMPLES = 16  # as the command line takes
_SLOPE_BAND = (0.06, 0.2)


def motion_kernel() -> Tensor:
    """A point-spread function that is not its own mirror image, (15, 15)."""
    kernel = torch.zeros(15, 15)
    kernel[7, 7:15] = 1 - torch.arange(8) / 9
    kernel[7:13, 7] += 0.5
    return kernel / kernel.sum()


def cases() -> dict[str, tuple]:
    """By name, the operator that measures and the one believed; of right ones the same."""
    blur = lambda noise, width: deblurring(noise, gaussian_kernel(width))  # noqa: E731
    shape, small, large = ((3, side, side) for side in (_CROP, _CROP // 2, 2 * _CROP))
    motion, turned = motion_kernel(), motion_kernel().flip(0, 1)
    found = {}
    for noise in (0.01, 0.03):
        for width in (1.0, 1.5, 2.0, 2.5):
            name = "right" if width == 1.5 else f"believed {width}"
            found[f"blur 1.5, noise {noise}: {name}"] = blur(noise, 1.5), blur(noise, width)
        found[f"motion, noise {noise}: right"] = (deblurring(noise, motion),) * 2
        found[f"motion, noise {noise}: turned by 180 degrees"] = deblurring(noise, motion), deblurring(noise, turned)
    found["blur 3, noise 0.01: right"] = (blur(0.01, 3.0),) * 2
    found["denoising, noise 0.03: right"] = (denoising(0.03),) * 2
    found["x2, noise 0.01: right"] = (super_resolution(0.01, shape, 2),) * 2
    found["blur 1.5, noise 0.02: believed 0.01"] = blur(0.02, 1.5), blur(0.01, 1.5)
    found["blur 1.5, noise 0.01: believed 0.02"] = blur(0.01, 1.5), blur(0.02, 1.5)
    found["denoising, noise 0.06: believed 0.03"] = denoising(0.06), denoising(0.03)
    found["denoising, noise 0.03: believed 0.06"] = denoising(0.03), denoising(0.06)
    found["x4, noise 0.01: believed x2"] = super_resolution(0.01, shape, 4), super_resolution(0.01, small, 2)
    found["x2, noise 0.01: believed x4"] = super_resolution(0.01, shape, 2), super_resolution(0.01, large, 4)
    return found


def slope(image: Tensor) -> float:
    """Exponent of an image's power (1, C, H, W) in spatial frequency, within a band."""
    window = torch.outer(*(torch.hann_window(side) for side in image.shape[-2:]))
    power = torch.fft.fft2((image - image.mean((-2, -1), keepdim=True)) * window).abs().square().mean((0, 1))
    radius = torch.hypot(*torch.meshgrid(*(torch.fft.fftfreq(side) for side in image.shape[-2:]), indexing="ij"))
    edges = torch.logspace(*(math.log10(f) for f in _SLOPE_BAND), 7).tolist()
    rings = [(radius >= low) & (radius < high) for low, high in itertools.pairwise(edges)]
    level = torch.stack([power[ring].mean().log() for ring in rings])
    place = torch.stack([radius[ring].log().mean() for ring in rings])
    place = place - place.mean()
    return float((level * place).sum() / place.square().sum())


def main() -> None:
    """Measure by one operator, restore by another, check, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--prior", default="cae-bsd")
    parser.add_argument("--images", type=int, default=4, help="how many of the folder, evenly spaced")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    every = sorted(p for p in options.folder.iterdir() if p.suffix in (".jpg", ".png", ".webp"))
    paths = evenly_spaced(every, options.images)
    prior, guide = pv.load_prior(options.prior), partial(VBLExz, free_mean=True)
    table = {name: [] for name in cases()}
    sharp = {}
    for path in paths:
        whole = read_image(path).values
        top, left = ((side - _CROP) // 2 for side in whole.shape[-2:])
        x = whole[..., top : top + _CROP, left : left + _CROP].contiguous()
        sharp[path.name] = slope(x)
        for name, (true, believed) in cases().items():
            with seeded(derived_seed(0, path.name, name)):
                y = true(x)
            posterior = pv.restore(y, believed, prior, guide, seed=0, progress=False)
            check, restored = predictive_check(posterior, num_samples=_SAMPLES), posterior.mmse_x(_SAMPLES)
            row = {"image": path.name, "explained": bool(check.explained), "reasons": check.reasons()}
            row |= {key: round(float(value), 4) for key, value in check.statistics.items()}
            row |= {"spectrum": [round(value, 3) for value in check.spectrum[0].tolist()]}
            row |= {"psnr": round(psnr(restored, x), 2) if restored.shape == x.shape else None}
            row |= {"psnr_of_y": round(psnr(y, x), 2) if y.shape == x.shape else None}
            row |= {"slope": round(slope(posterior.sample(1)[0]), 2)}
            table[name].append(row)
            print(f"{path.name} {name}: {row['psnr']} dB, {'; '.join(row['reasons']) or 'explained'}", flush=True)
    print(f"\nslope of the sharp photographs: {', '.join(f'{value:.1f}' for value in sharp.values())}")
    print("| case | not explained | ratio | autocorrelation | rise | image residual | slope | PSNR (of y) |")
    for name, rows in table.items():
        found = sum(not row["explained"] for row in rows)
        mean = {key: _mean(rows, key) for key in ("psnr", "psnr_of_y", "slope")}
        ends = [f"{min(r[k] for r in rows):.2f} to {max(r[k] for r in rows):.2f}" for k in check.statistics]
        print(
            f"| {name} | {found} of {len(rows)} | {' | '.join(ends)} | {mean['slope']:.1f} "
            f"| {mean['psnr']:.1f} ({mean['psnr_of_y']:.1f}) |"
        )
    if options.json:
        content = {"surroundings": surroundings(torch.device("cpu"), "auto"), "prior": options.prior, "crop": _CROP}
        content |= {"sharp_slopes": sharp, "table": table}
        with atomic_path(options.json) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n")


def _mean(rows: list[dict], key: str) -> float:
    known = [row[key] for row in rows if row[key] is not None]
    return statistics.mean(known) if known else math.nan


if __name__ == "__main__":
    main()
