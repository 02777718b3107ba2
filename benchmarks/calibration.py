"""Coverage on photographs that nothing was learnt from, before and after conformal calibration.

``python -m benchmarks.calibration FOLDER --output results.json``: every other image of the folder calibrates, the
rest measure. Prints mean coverage of nominal 90 % intervals over the latter, its standard deviation between images,
mean interval score and CRPS.
"""

import argparse
import json
import statistics
from functools import partial
from pathlib import Path

import torch

import pyro_vble as pv
from pyro_vble.diagnostics import Calibration, crps, interval_score
from pyro_vble.guides import VBLE, VBLExz
from pyro_vble.io.atomic import atomic_path
from pyro_vble.io.images import evenly_spaced, read_image
from pyro_vble.metrics import coverage
from pyro_vble.physics.problems import deblurring, gaussian_kernel
from pyro_vble.seeding import derived_seed, seeded

GUIDES = {"VBLE": VBLE, "VBLE-xz": VBLExz, "VBLE-xz, free mean": partial(VBLExz, free_mean=True)}
_SAMPLES = 100


def restored(paths: list[Path], prior, physics, guide, crop: int):
    """Posterior and truth of the middle of each image, one after another, every one with noise of its own."""
    for path in paths:
        whole = read_image(path).values
        top, left = ((side - crop) // 2 for side in whole.shape[-2:])
        x = whole[..., top : top + crop, left : left + crop].contiguous()
        with seeded(derived_seed(0, path.name)):
            y = physics(x)
        yield pv.restore(y, physics, prior, guide, seed=0, progress=False), x


def main() -> None:
    """Calibrate on one half, measure on the other, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--prior", default="cae-bsd")
    parser.add_argument("--images", type=int, default=1000, help="how many of the folder, evenly spaced")
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--blur-sigma", type=float, default=1.5)
    parser.add_argument("--noise", type=float, default=0.03)
    parser.add_argument("--guides", nargs="+", default=list(GUIDES)[:2], choices=GUIDES, metavar="GUIDE")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    every = sorted(p for p in options.folder.iterdir() if p.suffix in (".jpg", ".png", ".webp"))
    paths = evenly_spaced(every, options.images)
    prior, physics = pv.load_prior(options.prior), deblurring(options.noise, gaussian_kernel(options.blur_sigma))
    table = {}
    for name in options.guides:
        run = partial(restored, prior=prior, physics=physics, guide=GUIDES[name], crop=options.crop)
        calibration = Calibration.fit_pairs(run(paths[::2]), num_samples=_SAMPLES)
        rows = {"before": [], "after": [], "interval_score_before": [], "interval_score_after": [], "crps": []}
        for posterior, x in run(paths[1::2]):
            calibrated = posterior.calibrated(calibration)
            rows["before"].append(coverage(posterior.interval(0.9, _SAMPLES), x))
            rows["after"].append(coverage(calibrated.interval(0.9, _SAMPLES), x))
            rows["interval_score_before"].append(float(interval_score(posterior, x, num_samples=_SAMPLES).mean()))
            rows["interval_score_after"].append(float(interval_score(calibrated, x, num_samples=_SAMPLES).mean()))
            rows["crps"].append(float(crps(posterior, x, num_samples=_SAMPLES).mean()))
        table[name] = rows | {"left_out_90": calibration.left_out_90}
        means = {key: statistics.mean(values) for key, values in rows.items()}
        print(
            f"{name}: coverage {means['before']:.3f} -> {means['after']:.3f}, between images "
            f"± {statistics.stdev(rows['before']):.3f} -> ± {statistics.stdev(rows['after']):.3f}; interval score "
            f"{means['interval_score_before']:.4f} -> {means['interval_score_after']:.4f}; CRPS {means['crps']:.4f}",
            flush=True,
        )
    if options.output:
        content = {
            "prior": options.prior,
            "calibrated_on": [p.name for p in paths[::2]],
            "measured_on": [p.name for p in paths[1::2]],
            "crop": options.crop,
            "blur_sigma": options.blur_sigma,
            "noise": options.noise,
            "torch": torch.__version__,
            "table": table,
        }
        with atomic_path(options.output) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
