"""What 90 % intervals hold of photographs that no training saw: every guide and quality, calibrated and not.

``python -m benchmarks.coverage FOLDER --output results.json`` restores the middle of 24 photographs on seven problems;
every other one calibrates, the rest measure. Prints PSNR, coverage before and after conformal calibration, mean width
of the intervals and interval score.
"""

import statistics
import time
import warnings
from functools import partial

import torch

import pyro_vble as pv
from benchmarks.convergence import middles, parser_of_middles
from benchmarks.measuring import keep_table, kept_table
from benchmarks.photographs import problems
from pyro_vble.diagnostics import Calibration, interval_score
from pyro_vble.guides import VBLE, VBLExz
from pyro_vble.metrics import coverage, psnr
from pyro_vble.seeding import seeded

_FREE = partial(VBLExz, free_mean=True)
#: Guide, settings of ``restore`` and whether draws are linearised, by name.
METHODS: dict[str, tuple] = {
    "VBLE, uniform": (partial(VBLE, family="uniform"), {}, False),
    "VBLE": (VBLE, {}, False),
    "VBLE-xz": (VBLExz, {}, False),
    "fast": (None, {}, False),
    "fast, uniform": (partial(_FREE, family="uniform"), {}, False),
    "fast, correlated": (partial(_FREE, family="correlated"), {}, False),
    "fast, flip": (None, {"symmetries": "flip"}, False),
    "fast, linearised": (None, {}, True),
    "accurate": (None, {"quality": "accurate"}, False),
    "accurate, linearised": (None, {"quality": "accurate"}, True),
}
_SAMPLES = 100


def figures(x: torch.Tensor, physics, prior, method: str) -> dict:
    """What a method's intervals hold of every other image, calibrated on the rest."""
    guide, settings, linearised = METHODS[method]
    start = time.process_time()
    with seeded(0):
        y = physics(x)
    halves = []
    for half in (slice(0, None, 2), slice(1, None, 2)):
        posterior = pv.restore(y[half], physics, prior, guide, seed=0, progress=False, **settings)
        halves.append((posterior.linearised(_SAMPLES) if linearised else posterior, x[half]))
    (before, known), (samples, truth) = halves
    calibrated = samples.calibrated(Calibration.fit([before], [known], num_samples=_SAMPLES))
    mean, row = samples.mmse_x(_SAMPLES), {}
    images = [slice(i, i + 1) for i in range(len(truth))]
    row["psnr"] = [psnr(mean[i], truth[i]) for i in images]
    for name, source in (("before", samples), ("after", calibrated)):
        low, high = source.interval(0.9, _SAMPLES)
        row[f"coverage_{name}"] = [coverage((low[i], high[i]), truth[i]) for i in images]
        row[f"width_{name}"] = (high - low).flatten(1).mean(1).tolist()
        row[f"score_{name}"] = interval_score(source, truth, num_samples=_SAMPLES).flatten(1).mean(1).tolist()
    return row | {"cpu_seconds": time.process_time() - start}


def main() -> None:
    """Restore, calibrate, print, write JSON."""
    parser = parser_of_middles(__doc__, images=24, side=64)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS, metavar="METHOD")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # a dozen images calibrate
    x, prior = middles(options.folder, options.images, options.side), pv.load_prior(options.prior)
    table = kept_table(options.output)
    for method in options.methods:
        for problem, physics in problems(tuple(x.shape[1:]), options.problems).items():
            if method in table.get(problem, {}):
                continue
            row = table.setdefault(problem, {})[method] = figures(x, physics, prior, method)
            cells = {key: statistics.mean(row[key]) for key in row if key != "cpu_seconds"}
            print(
                f"| {problem} | {method} | {cells['psnr']:.2f} dB | {cells['coverage_before']:.1%} -> "
                f"{cells['coverage_after']:.1%} | {cells['width_before']:.3f} -> {cells['width_after']:.3f} | "
                f"{cells['score_before']:.3f} -> {cells['score_after']:.3f} | {row['cpu_seconds']:.0f} s |",
                flush=True,
            )
            keep_table(options.output, {"prior": options.prior, "images": len(x), "side": options.side}, table)


if __name__ == "__main__":
    main()
