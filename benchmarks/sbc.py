"""Is inference right where the model is? Simulation-based calibration with the CAE itself.

``python -m benchmarks.sbc --output results.json`` draws images from the prior, measures and restores them; prints, for
every method and quantity, how far the ECDF of the ranks leaves uniformity, the half-width of its simultaneous 95 %
band, and what central 90 % intervals hold. Every method sees images of its own model: x ~ p(x|z), or D(z) for VBLE.
"""

import argparse
import time
import warnings
from pathlib import Path

import numpy as np

import pyro_vble as pv
from benchmarks.measuring import keep_table, kept_table
from pyro_vble.diagnostics import plot_sbc, simulation_based_calibration
from pyro_vble.guides import ACCURATE_GUIDE, DEFAULT_GUIDE, VBLE
from pyro_vble.physics.problems import deblurring, gaussian_kernel

#: Guide and settings by name.
METHODS: dict[str, tuple] = {
    "VBLE": (VBLE, {}),
    "fast": (DEFAULT_GUIDE, {}),
    "accurate": (ACCURATE_GUIDE, {"quality": "accurate"}),
    "fast, linearised": (DEFAULT_GUIDE, {"linearised": True}),
    "accurate, linearised": (ACCURATE_GUIDE, {"quality": "accurate", "linearised": True}),
}


def main() -> None:
    """Simulate, rank, print, write JSON and figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prior", default="cae-bsd")
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--simulations", type=int, default=100)
    parser.add_argument("--draws", type=int, default=49)
    parser.add_argument("--blur", type=float, default=1.5)
    parser.add_argument("--noise", type=float, default=0.03)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS, metavar="METHOD")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    prior, physics = pv.load_prior(options.prior), deblurring(options.noise, gaussian_kernel(options.blur))
    table = kept_table(options.output)
    for name in options.methods:
        if name in table:
            continue
        guide, settings = METHODS[name]
        start = time.process_time()
        found = simulation_based_calibration(
            prior,
            physics,
            guide,
            image_shape=(3, options.side, options.side),
            num_simulations=options.simulations,
            num_draws=options.draws,
            batch_size=10,
            seed=0,
            progress=False,
            **settings,
        )
        low, high = found.band()
        row: dict = {"band": float(max(np.abs(low).max(), np.abs(high).max()))}
        for quantity, ranks in found.ranks.items():
            difference = found.ecdf_difference(quantity)[1]
            # Between the 5th and 95th of 100 places: what central 90 % intervals of so many draws hold.
            held = float(((ranks >= 0.05 * (found.num_draws + 1)) & (ranks < 0.95 * (found.num_draws + 1))).mean())
            row[quantity] = {
                "furthest": float(np.abs(difference).max()),
                "within": found.passes()[quantity],
                "coverage_90": held,
                "ranks": np.bincount(ranks.ravel(), minlength=found.num_draws + 1).tolist(),
            }
        table[name] = row | {"cpu_seconds": time.process_time() - start}
        cells = ", ".join(
            f"{q} {v['furthest']:.3f}{'' if v['within'] else ' (out)'} {v['coverage_90']:.0%}"
            for q, v in row.items()
            if q != "band"
        )
        print(f"{name}: band {row['band']:.3f}; {cells}; {table[name]['cpu_seconds']:.0f} s", flush=True)
        about = {key: getattr(options, key) for key in ("prior", "side", "simulations", "draws", "blur", "noise")}
        keep_table(options.output, about, table)
        if options.output:
            figure = plot_sbc(found).figure
            figure.savefig(options.output.with_name(f"{options.output.stem}-{name.replace(', ', '-')}.png"), dpi=110)


if __name__ == "__main__":
    main()
