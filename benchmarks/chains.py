"""VBLE and VBLE-xz beside Pyro's NUTS, on a patch of a photograph.

``python -m benchmarks.chains IMAGE --side 32 --output results.json`` prints, for the model of each guide, means and
standard deviations relative to the chains', coverage, seconds, R-hat and effective sample size.
"""

import argparse
import json
import time
from pathlib import Path

import torch

import pyro_vble as pv
from pyro_vble.diagnostics import compare_with_reference
from pyro_vble.guides import VBLE, VBLExz
from pyro_vble.io.atomic import atomic_path
from pyro_vble.io.images import read_image
from pyro_vble.physics.problems import deblurring, gaussian_kernel


def main() -> None:
    """Fit, run the chains, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image", type=Path)
    parser.add_argument("--prior", default="cae-bsd")
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--samples", type=int, default=150)
    parser.add_argument("--warmup", type=int, default=150)
    parser.add_argument("--chains", type=int, default=2)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    whole = read_image(options.image).values
    top, left = ((side - options.side) // 2 for side in whole.shape[-2:])
    x = whole[..., top : top + options.side, left : left + options.side].contiguous()
    prior, physics = pv.load_prior(options.prior), deblurring(0.03, gaussian_kernel(1.5))
    torch.manual_seed(0)
    y = physics(x)
    content = {"prior": options.prior, "image": options.image.name, "torch": torch.__version__} | vars(options)
    content = {key: str(value) for key, value in content.items()} | {"tables": {}}
    for name, guide in {"VBLE": VBLE, "VBLE-xz": VBLExz}.items():
        start = time.perf_counter()
        posterior = pv.restore(y, physics, prior, guide, seed=0, precision="float32", progress=False)
        seconds = {name: time.perf_counter() - start}
        reference = pv.reference_posterior(
            posterior,
            num_samples=options.samples,
            num_warmup=options.warmup,
            num_chains=options.chains,
            max_tree_depth=options.depth,
            progress=False,
        )
        table = compare_with_reference(reference, {name: posterior}, truth=x, seconds=seconds)
        print(f"model of {name} ({reference.num_divergent} divergent)\n{table.round(3).to_string()}", flush=True)
        content["tables"][name] = json.loads(table.to_json(orient="index"))
    if options.output:
        with atomic_path(options.output) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
