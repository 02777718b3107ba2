"""VBLE and VBLE-xz beside Markov chains that have converged, on patches of photographs.

``python -m benchmarks.chains IMAGE --side 32 --problem blur --draws chains.npz --output results.json`` fits, runs the
chains (or reads them, if the file of draws exists), prints the table of means, standard deviations and coverage, R-hat
and effective sample sizes, and adds them to the JSON. ``--minutes`` ends the chains in time.
"""

import argparse
import json
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import pyro_vble as pv
from pyro_vble.diagnostics import compare_with_reference
from pyro_vble.guides import VBLE, VBLExz
from pyro_vble.io.atomic import atomic_path
from pyro_vble.io.images import read_image
from pyro_vble.io.inference_data import arviz
from pyro_vble.physics import problems
from pyro_vble.samples import ReferencePosterior, StoredSamples

GAUSSIAN = partial(VBLE, family="gaussian")
GAUSSIAN_XZ = partial(VBLExz, family="gaussian", free_mean=True)
#: Guide and steps by the name of a row.
ROWS = {
    "VBLE uniform, 60 steps": (VBLE, 60),
    "VBLE gaussian, 60 steps": (GAUSSIAN, 60),
    "VBLE gaussian, 300 steps": (GAUSSIAN, 300),
    "VBLE gaussian, 2000 steps": (GAUSSIAN, 2000),
    "VBLE correlated, 300 steps": (partial(VBLE, family="correlated"), 300),
    "VBLE-xz free mean, 60 steps": (GAUSSIAN_XZ, 60),
    "VBLE-xz free mean, 300 steps": (GAUSSIAN_XZ, 300),
    "VBLE-xz free mean, 2000 steps": (GAUSSIAN_XZ, 2000),
    "VBLE-xz correlated, 300 steps": (partial(VBLExz, family="correlated", free_mean=True), 300),
}
#: Rows of which there is one more, of linearised draws.
LINEARISED = ("VBLE gaussian, 300 steps", "VBLE gaussian, 2000 steps", "VBLE-xz free mean, 300 steps")
#: What the chains start from: several fits from scattered starts, so that R-hat can tell.
START_FITS, START_STEPS = 4, 300


def main() -> None:
    """Fit, run the chains, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image", type=Path)
    parser.add_argument("--prior", default="cae-bsd")
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--problem", choices=("blur", "x2", "inpainting"), default="blur")
    parser.add_argument("--model", choices=("VBLE", "VBLE-xz"), default="VBLE", help="of the chains")
    parser.add_argument("--kernel", choices=("hmc", "nuts"), default="hmc")
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--warmup", type=int, default=150)
    parser.add_argument("--chains", type=int, default=8)
    parser.add_argument("--thinning", type=int, default=2)
    parser.add_argument("--minutes", type=int, help="end the chains after so many")
    parser.add_argument("--rows", type=int, default=len(ROWS), help="how many of the guides, 0 for the chains alone")
    parser.add_argument("--draws", type=Path, help="npz of the chains, written or read")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()

    whole = read_image(options.image).values
    top, left = ((side - options.side) // 2 for side in whole.shape[-2:])
    x = whole[..., top : top + options.side, left : left + options.side].contiguous()
    prior = pv.load_prior(options.prior)
    prior.network.g_s = TopLeft(prior.network.g_s, options.side)
    physics = operator(options.problem, options.side)
    torch.manual_seed(0)
    y = physics(x)

    if options.draws and options.draws.exists():
        reference = read(options.draws, y, physics)
    else:
        reference = chains(y, physics, prior, options)
        if options.draws:
            write(options.draws, reference, x)
    found = {"seconds": reference.seconds, "chains": list(reference.image.shape[:2])}
    found |= {"acceptance": float(reference.acceptance.mean()), "divergent": reference.num_divergent}
    found["convergence"] = {name: convergence(value) for name, value in quantities(reference).items()}
    print(f"{options.image.stem} {options.side} {options.problem}, model of {options.model}")
    for name, row in found["convergence"].items():
        print(name.ljust(12), "  ".join(f"{key} {value:.3f}" for key, value in row.items()), flush=True)

    fits, seconds = {}, {}
    for name, (guide, num_steps) in list(ROWS.items())[: options.rows]:
        start = time.perf_counter()
        fits[name] = fitted(y, physics, prior, guide, num_steps=num_steps)
        seconds[name] = time.perf_counter() - start
        if name in LINEARISED:
            fits[f"{name}, linearised"] = StoredSamples(fits[name].linearised(200).sample(200))
            seconds[f"{name}, linearised"] = time.perf_counter() - start
    table = compare_with_reference(reference, fits, truth=x, seconds=seconds)
    print(table.round(3).to_string(), flush=True)
    found["table"] = json.loads(table.to_json(orient="index"))
    found["elbo"] = {name: float(fit.elbo[-20:].mean()) for name, fit in fits.items() if name in ROWS}
    if options.output:
        content = json.loads(options.output.read_text()) if options.output.exists() else {}
        key = f"{options.image.stem} {options.side} {options.problem}, model of {options.model}, {options.kernel}"
        content[key] = found | {"prior": options.prior, "torch": torch.__version__}
        with atomic_path(options.output) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n")


def operator(problem: str, side: int) -> Any:
    """The operator of a problem."""
    if problem == "blur":
        return problems.deblurring(0.03, problems.gaussian_kernel(1.5))
    if problem == "x2":
        return problems.super_resolution(0.0, (3, side, side), 2)
    torch.manual_seed(0)
    return problems.inpainting(0.01, (torch.rand(1, side, side) < 0.5).float())


def fitted(y: Tensor, physics: Any, prior: Any, guide: Any, **options: Any) -> Any:
    """A fit in single precision that makes all its steps."""
    how = {"seed": 0, "precision": "float32", "tolerance": None, "progress": False}
    return pv.restore(y, physics, prior, guide, **how, **options)


def chains(y: Tensor, physics: Any, prior: Any, options: argparse.Namespace) -> ReferencePosterior:
    """Chains from scattered fits of a Gaussian guide."""
    guide = GAUSSIAN if options.model == "VBLE" else GAUSSIAN_XZ
    start = fitted(y, physics, prior, guide, num_steps=START_STEPS, num_fits=START_FITS)
    if options.minutes:
        signal.signal(signal.SIGALRM, signal.default_int_handler)  # as if interrupted from the keyboard
        signal.alarm(60 * options.minutes)
    reference = pv.reference_posterior(
        start,
        num_samples=options.samples,
        num_warmup=options.warmup,
        num_chains=options.chains,
        thinning=options.thinning,
        kernel=options.kernel,
        seed=0,
        progress=False,
    )
    signal.alarm(0)
    return reference


def quantities(reference: ReferencePosterior) -> dict[str, Tensor]:
    """What is to converge: latents, pixels and means of 8x8 patches, each (chains, draws, ...)."""
    latents = {name: value for name, value in reference.latents.items() if name != "x_decentered"}
    return latents | {"pixels": reference.image, "patches": pv.metrics.patch_means(reference.image, 8)}


def convergence(value: Tensor) -> dict[str, float]:
    """Rank-normalised split R-hat and bulk effective sample size over all dimensions."""
    az = arviz()
    dataset = az.convert_to_dataset({"v": value.flatten(2).numpy()})
    r_hat, ess = az.rhat(dataset)["v"].values, az.ess(dataset)["v"].values
    return {
        "r_hat_max": float(r_hat.max()),
        "r_hat_99": float(np.quantile(r_hat, 0.99)),
        "r_hat_median": float(np.median(r_hat)),
        "below_1.05": float((r_hat < 1.05).mean()),
        "ess_min": float(ess.min()),
        "ess_1": float(np.quantile(ess, 0.01)),
        "ess_median": float(np.median(ess)),
    }


def write(path: Path, reference: ReferencePosterior, x: Tensor) -> None:
    """Keep the draws in half precision."""
    arrays = {name: value.half().numpy() for name, value in reference.latents.items()}
    told = {"seconds": reference.seconds, "divergent": reference.num_divergent}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file, image=reference.image.half().numpy(), truth=x.numpy(), y=reference.y.numpy(), **told,
            acceptance=reference.acceptance.numpy(), **{f"latent_{name}": value for name, value in arrays.items()},
        )  # fmt: skip


def read(path: Path, y: Tensor, physics: Any) -> ReferencePosterior:
    """Chains as they were kept."""
    kept = {name: torch.from_numpy(value) for name, value in np.load(path).items()}
    latents = {name.removeprefix("latent_"): v.float() for name, v in kept.items() if name.startswith("latent_")}
    told = {"seconds": float(kept["seconds"]), "num_divergent": int(kept["divergent"])}
    return ReferencePosterior(kept["image"].float(), latents, y, physics=physics, acceptance=kept["acceptance"], **told)


class TopLeft(nn.Module):
    """A decoder of layers 5x5 of stride 2 and pointwise ones, computed only where the first side x side pixels need it.

    The network pads 32x32 to 64x64: the rest would be computed and thrown away.
    """

    def __init__(self, layers: nn.Sequential, side: int) -> None:
        super().__init__()
        self.layers = layers
        needed = [side]
        for layer in reversed(layers):
            pointwise = type(layer).__name__.endswith("GDN")
            needed.append(needed[-1] if pointwise else (needed[-1] + 1) // 2 + 1)
        self.needed = needed[::-1]

    def forward(self, z: Tensor) -> Tensor:
        """From z (B, M, h, w) to at least the first side x side pixels."""
        for layer, side in zip(self.layers, self.needed, strict=False):
            z = layer(z[..., :side, :side].contiguous(memory_format=torch.channels_last))
        return z


if __name__ == "__main__":
    main()
