"""How fast, beside the published loop and beside the arithmetic itself.

``python -m benchmarks.speed --output FILE`` measures and writes FILE (JSON) and a plot beside it; ``--quick`` ends
within five minutes on two cores. Every ratio is of two times of one run on one machine; ``total_ratio`` is that of VBLE
with the bundled prior: the loop's 300 steps and 100 samples, over our steps to an equal or better ELBO and 100 samples.
"""

import argparse
import json
import time
from pathlib import Path

import matplotlib as mpl

from benchmarks import scaling
from benchmarks.against_loop import bundled, compare, context_model
from benchmarks.measuring import surroundings
from pyro_vble import keep_freed_memory
from pyro_vble.guides import VBLE, VBLExz
from pyro_vble.inference import resolve_device, resolve_precision
from pyro_vble.io.atomic import atomic_path


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="JSON file; a plot of the same name stands beside it")
    parser.add_argument("--quick", action="store_true", help="one image and small tables")
    parser.add_argument("--images", nargs="+", default=["cat"], help="photographs of scikit-image")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    keep_freed_memory()  # as the command line does; here for the loop too
    device = resolve_device(options.device)
    prior = bundled()
    begin = time.perf_counter()
    result: dict = surroundings(device, resolve_precision("auto", prior, device))
    print(json.dumps(result))

    result["comparisons"] = []
    for image in options.images:
        for guide in ("vble", "vble-xz"):
            row = compare(bundled, guide, image, device, repeats=1 if options.quick else 3)
            result["comparisons"].append({"network": "cae-bsd, N=64 M=128", **row})
            _print_comparison(result["comparisons"][-1])
    if not options.quick:
        # Its loop takes minutes: fifteen steps tell how long three hundred would.
        row = compare(context_model, "vble", options.images[0], device, loop_steps=15, trained=False, repeats=1)
        result["comparisons"].append({"network": "context model, N=192 M=320, random weights", **row})
        _print_comparison(result["comparisons"][-1])
    result["total_ratio"] = result["comparisons"][0]["total_ratio"]

    prior = bundled().to(device)
    quick = options.quick
    tables = {
        "floor": lambda: [scaling.floor(prior, device, guide) for guide in (VBLE, VBLExz)],
        "pyro": lambda: [scaling.share_of_pyro(prior, device, side) for side in (64, 256)],
        "sides": lambda: scaling.by_side(prior, device, (128, 256) if quick else (128, 256, 512, 1024, 2048)),
        "batches": lambda: scaling.by_batch(prior, device, (1, 4) if quick else (1, 2, 4, 8, 16, 32, 64)),
        "particles": lambda: scaling.by_particles(prior, device, (1, 2) if quick else (1, 2, 4, 8)),
        "samples": lambda: scaling.by_samples(prior, device, (10, 100) if quick else (10, 100, 1000, 10_000)),
    }
    for name, measure in tables.items():
        result[name] = measure()
        _print_table(name, result[name])
    result["minutes"] = (time.perf_counter() - begin) / 60
    print(f"total_ratio {result['total_ratio']}")
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(options.output) as temporary:
            temporary.write_text(json.dumps(result, indent=2) + "\n")
        plot(result, options.output.with_suffix(".png"))


def _print_comparison(row: dict) -> None:
    print(f"\n{row['network']}, {row['guide']} on {row['image']}, 256x256, 100 samples")
    for name, one in [("loop", row["loop"]), *((f"{r['num_steps']} steps", r) for r in row["restore"])]:
        print(
            f"  {name:10s} {1e3 * one['seconds_per_step']:6.1f} ms a step, fit {one['fit_seconds']:6.2f} s, samples "
            f"{one['sampling_seconds']:5.2f} s, total {one['total_seconds']:6.2f} s, ELBO {one['elbo']:12,.0f} ± "
            f"{one['elbo_standard_error']:.0f}, {one['psnr']:.2f} dB, 90 %: {one['coverage']:.3f}, "
            f"{one['peak_mib']:.0f} MiB" + (f", ratio {one['total_ratio']:.2f}" if "total_ratio" in one else "")
        )
    print(f"  ratio of totals: {row['total_ratio']}, at the defaults {row['total_ratio_at_defaults']:.2f}")


def _print_table(name: str, rows: list[dict]) -> None:
    print(f"\n{name}")
    for row in rows:
        print("  " + ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))


def plot(result: dict, path: Path) -> None:
    """Time against ELBO beside the loop, and the scaling tables."""
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 4, figsize=(16, 3.6), layout="constrained")
    for row in (r for r in result["comparisons"] if r["trained"]):
        values = row["image"] == result["comparisons"][0]["image"]
        if not values:
            continue
        pixels = 3 * 256**2
        ours = [(r["total_seconds"], (r["elbo"] - row["loop"]["elbo"]) / pixels) for r in row["restore"]]
        line = axes[0].plot(*zip(*ours, strict=True), "o-", label=f"restore, {row['guide']}")[0]
        axes[0].plot(row["loop"]["total_seconds"], 0, "s", color=line.get_color(), label=f"loop, {row['guide']}")
        for r, point in zip(row["restore"], ours, strict=True):
            axes[0].annotate(r["num_steps"], point, textcoords="offset points", xytext=(4, -10), fontsize=7)
    axes[0].set(xlim=(0, None), xlabel="seconds, with 100 samples", ylabel="ELBO above the loop's, nats a value")
    axes[0].axhline(0, color="grey", lw=0.5)
    axes[0].legend(fontsize=7)
    sides = result["sides"]
    axes[1].plot([r["side"] for r in sides], [r["ns_per_pixel"] for r in sides], "o-")
    axes[1].set_xscale("log", base=2)
    axes[1].set(ylim=(0, None), xlabel="image side", ylabel="nanoseconds a pixel and step")
    axes[1].set_xticks([r["side"] for r in sides], [r["side"] for r in sides])
    for key, unit in (("batches", "batch"), ("particles", "particles")):
        rows = result[key]
        per = [1e3 * r["seconds"] / r[unit] for r in rows]
        axes[2].plot([r[unit] for r in rows], per, "o-", label=unit)
    axes[2].set_xscale("log", base=2)
    axes[2].set(ylim=(0, None), xlabel="number at once, 128x128", ylabel="milliseconds a step, each")
    axes[2].xaxis.set_major_formatter("{x:g}")
    axes[2].legend()
    samples = result["samples"]
    for key, label in (("moments_peak_mib", "mean, std"), ("interval_peak_mib", "interval")):
        axes[3].plot([r["samples"] for r in samples], [r[key] for r in samples], "o-", label=label)
    axes[3].set(xscale="log", ylim=(0, None), xlabel="samples, 128x128", ylabel="MiB at the peak")
    axes[3].legend()
    figure.suptitle(f"{result['machine']}, {result['threads']} threads, networks in {result['precision']}", fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


if __name__ == "__main__":
    main()
