"""Training throughput of every recipe, against a plain loop over CompressAI's own example loss in float32.

``python -m benchmarks.training --output results.json`` prints images a second of both, measured in one run on random
images. ``--quick`` leaves out the networks that take minutes on a CPU. On CUDA it also measures the part of the time
that the GPU computes.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import pyro
import torch

import pyro_vble as pv
from pyro_vble.inference.precision import resolve_device, resolve_precision
from pyro_vble.io.atomic import atomic_path
from pyro_vble.models import CAE, Prior
from pyro_vble.training import ImageSet, NegativeELBO, RandomCrops, available_recipes, load_recipe, parse_recipe
from pyro_vble.training.construction import build_prior, initial_state
from pyro_vble.training.recipes import DecoderStdRecipe, Recipe
from pyro_vble.training.report import machine, versions
from pyro_vble.training.steps import steps_of


def random_images(recipe: Recipe, bands: int) -> ImageSet:
    side = max(2 * recipe.data.crop, 32) if bands == 3 else recipe.data.crop
    return ImageSet([torch.randint(0, 256, (bands, side, side), dtype=torch.uint8) for _ in range(8)])


def prior_of(name: str) -> Prior:
    """The prior that a recipe trains; a decoder of standard deviations belongs to the network of its namesake."""
    recipe = load_recipe(name)
    if not isinstance(recipe, DecoderStdRecipe):
        return build_prior(recipe)
    namesake = name.removeprefix("decoder_std-")
    return build_prior(recipe, build_prior(load_recipe(namesake if namesake.startswith("vae") else f"cae-{namesake}")))


def our_step(recipe: Recipe, prior: Prior, draw: RandomCrops, device: torch.device, precision: str) -> Callable:
    state = initial_state(recipe, prior, device)
    objective = NegativeELBO(state.prior)
    state.precision = precision
    take_step = steps_of(state, objective, draw)
    return lambda: take_step(recipe.schedule.lr)


def plain_step(prior: CAE, draw: RandomCrops, alpha: float, device: torch.device) -> Callable:
    """A step as CompressAI's training example takes it."""
    from compressai.losses import RateDistortionLoss

    network = prior.network.to(device).train()
    criterion = RateDistortionLoss(lmbda=alpha)
    quantiles = [p for name, p in network.named_parameters() if name.endswith(".quantiles")]
    others = [p for name, p in network.named_parameters() if not name.endswith(".quantiles")]
    optimiser, auxiliary = torch.optim.Adam(others, lr=1e-4), torch.optim.Adam(quantiles, lr=1e-3)

    def step() -> None:
        x = draw().contiguous()
        optimiser.zero_grad()
        auxiliary.zero_grad()
        criterion(network(x), x)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        network.aux_loss().backward()
        auxiliary.step()

    return step


def seconds_per_step(step: Callable, device: torch.device, seconds: float) -> float:
    """The median of groups of steps, after a warm-up; at least three steps."""
    synchronise = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    group = 20 if device.type == "cuda" else 1
    for _ in range(2):
        step()
    synchronise()
    times, begun = [], time.perf_counter()
    while len(times) < 3 or time.perf_counter() - begun < seconds:
        start = time.perf_counter()
        for _ in range(group):
            step()
        synchronise()
        times.append((time.perf_counter() - start) / group)
    return sorted(times)[len(times) // 2]


def busy_fraction(step: Callable) -> float:
    """The part of the time in which some kernel runs on the GPU, over 20 steps."""
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        start = time.perf_counter()
        for _ in range(20):
            step()
        torch.cuda.synchronize()
        elapsed = time.perf_counter() - start
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in profiler.events()
        # Ranges that the profiler marks for optimisers are no kernels.
        if event.device_type == torch.autograd.DeviceType.CUDA and "#" not in event.name
    )
    busy, end = 0.0, float("-inf")
    for begin, stop in spans:  # kernels on several streams may overlap
        busy += max(0.0, stop - max(begin, end))
        end = max(end, stop)
    return busy * 1e-6 / elapsed


def measure(name: str, device: torch.device, seconds: float, batch_size: int | None) -> dict:
    recipe = load_recipe(name)
    if batch_size:
        content = recipe.model_dump(mode="json")
        content["data"]["batch_size"] = batch_size
        recipe = parse_recipe(content)
    torch.manual_seed(0)
    prior = prior_of(name)
    images = random_images(recipe, prior.bands)
    draw = RandomCrops(images, recipe.data, device)
    row = {"recipe": name, "batch_size": recipe.data.batch_size, "crop": recipe.data.crop}
    with pyro.validation_enabled(False):
        precision = resolve_precision(recipe.precision, prior, device)
        step = our_step(recipe, prior, draw, device, precision)
        ours = seconds_per_step(step, device, seconds)
        row |= {"precision": precision, "seconds_per_step": ours, "images_per_second": recipe.data.batch_size / ours}
        if device.type == "cuda":
            row["gpu_busy_fraction"] = busy_fraction(step)
        if recipe.kind == "cae":
            plain = seconds_per_step(plain_step(prior_of(name), draw, recipe.alpha, device), device, seconds)
            row |= {"plain_seconds_per_step": plain, "plain_images_per_second": recipe.data.batch_size / plain}
            row["ratio"] = plain / ours
    return row


def main() -> None:
    """Measure, print a table in Markdown, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    # Steps of the recipes of aerial images have as many pixels as those of photographs, and the same networks.
    same = [name for name in available_recipes() if "aerial" not in name]
    parser.add_argument("--recipes", nargs="+", default=same, choices=available_recipes(), metavar="RECIPE")
    parser.add_argument("--quick", action="store_true", help="only what takes seconds on a CPU")
    parser.add_argument("--seconds", type=float, default=20.0, help="time for each measurement")
    parser.add_argument("--batch-size", type=int, help="in place of the recipes'")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    device = resolve_device(options.device)
    pv.keep_freed_memory()  # as `pyro-vble train` does; here for both loops
    recipes = [r for r in options.recipes if not options.quick or not r.endswith(("-gpu", "-large"))]
    rows = []
    print(
        "| recipe | batch | images/s | CompressAI's loop, float32 | ratio |"
        + (" GPU busy |" if device.type == "cuda" else "")
    )
    print("|---|---|---|---|---|" + ("---|" if device.type == "cuda" else ""))
    for name in recipes:
        row = measure(name, device, options.seconds, options.batch_size)
        rows.append(row)
        plain = f"{row['plain_images_per_second']:.2f} | {row['ratio']:.1f}" if "ratio" in row else "- | -"
        busy = f" {row['gpu_busy_fraction']:.0%} |" if device.type == "cuda" else ""
        batch = f"{row['batch_size']} x {row['crop']}²"
        print(f"| {name} | {batch} | {row['images_per_second']:.2f} | {plain} |{busy}", flush=True)
    if options.output:
        content = {"machine": machine(device), "versions": versions(), "pyro_vble": pv.__version__, "rows": rows}
        with atomic_path(options.output) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
