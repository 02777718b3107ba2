"""``pyro-vble demo``: see it work, in half a minute."""

import time
from pathlib import Path
from typing import Annotated

import typer

from pyro_vble.cli import options
from pyro_vble.cli.guides import GUIDES
from pyro_vble.cli.problems import PROBLEMS, Problem

_IMAGES = ("cat", "astronaut", "coffee", "rocket", "retina", "camera")

Degradation = Annotated[Problem, typer.Option(**options.choice(PROBLEMS, "How the photograph is degraded."))]


def demo(
    context: typer.Context,
    output: Annotated[
        Path, typer.Option(**options.PATH, help="Output folder (created if missing): images, figure, draws, figures.")
    ] = Path("pyro-vble-demo"),
    problem: Degradation = PROBLEMS["deblur"],
    image: Annotated[str, typer.Option(help=f"Photograph that scikit-image ships: {', '.join(_IMAGES)}.")] = "cat",
    size: Annotated[int, typer.Option(min=24, help="Side of the square cut from its centre, in pixels.")] = 256,
    noise: options.KnownNoise = 0.03,
    prior: options.Prior = "cae-bsd",
    alpha: options.Alpha = None,
    steps: options.Steps | None = None,
    samples: options.Samples = 100,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
) -> None:
    """Spoil a photograph, restore it with two guides, and compare both with the photograph as it was.

    The guides are VBLE and VBLE-xz with a free mean, the recommended one.

    Writes **figure.png** (truth, measurement, estimate, samples, true and predicted error; one row a guide), the
    images, **posterior.nc** (draws of the second guide, for ArviZ) and **metrics.json** into the output folder, and
    prints PSNR before and after, the coverage of the 90 % intervals and the time.
    """
    import torch

    import pyro_vble as pv
    from pyro_vble import metrics
    from pyro_vble.cli import report
    from pyro_vble.cli.outputs import prepare_folder
    from pyro_vble.cli.words import say, stage
    from pyro_vble.figures import restoration_figure
    from pyro_vble.io.images import write_image
    from pyro_vble.seeding import seeded

    labels = {"VBLE": GUIDES["vble"], "VBLE-xz-free": GUIDES["vble-xz-free"]}
    names = ["truth.png", "measurement.png", "figure.png", "posterior.nc", "metrics.json"]
    names += [name for label in labels for name in report.file_names(".png", stem=label.lower() + "_")]
    prepare_folder(output, names, [])
    options.check_computing(device, precision)
    problem = problem.having(**problem.example)
    truth = _photograph(image, size // problem.ratio * problem.ratio)
    problem.refuse_noise(noise if "noise" in options.given(context) else None)
    description = problem.title.format(noise=noise, **problem.settings)
    with seeded(seed):
        physics, y = problem.simulate(truth, noise)
    prior_model = pv.load_prior(prior, alpha=alpha)
    say(f"{description} of scikit-image's '{image}', prior {prior}")

    from pyro_vble._tensors import shape_of_image
    from pyro_vble.physics import initial_image

    before = metrics.psnr(initial_image(physics, y, shape_of_image(truth)), truth)
    results, posteriors, seconds = [], {}, {}
    for label, guide in labels.items():
        start = time.perf_counter()
        posterior = pv.restore(
            y,
            physics,
            prior_model,
            guide=guide.load(),
            num_steps=steps,
            seed=seed,
            device=device,
            precision=precision,
        )
        if posterior.interrupted:  # half a fit is none to show
            raise KeyboardInterrupt
        fitted = time.perf_counter()
        with stage(f"Drawing {samples} samples of {label}"):
            results.append(report.estimates(posterior, samples, label, truth))
        posteriors[label] = posterior
        seconds[label] = {"fit": fitted - start, "sampling": time.perf_counter() - fitted}

    write_image(output / "truth.png", truth)
    shown = problem.shown(y, physics)
    write_image(output / "measurement.png", torch.nan_to_num(shown))
    for result in results:
        stem = result.label.lower() + "_"
        report.write_estimates(output, result, stem=stem, suffix=".png")
    restoration_figure(
        output / "figure.png",
        shown[0],
        [result.row for result in results],
        truth=truth[0],
        measurement_note=f"{before:.2f} dB" if shown.shape == truth.shape else f"{before:.2f} dB, resized",
        title=f"{description}, scikit-image's '{image}'",
    )
    report.write_netcdf(output / "posterior.nc", posteriors["VBLE-xz-free"], min(samples, 50), truth)
    report.write_metrics(
        output / "metrics.json",
        {
            "problem": description,
            "image": image,
            "prior": prior,
            "seed": seed,
            "num_samples": samples,
            "psnr_before": before,
            "guides": {r.label: r.figures | {"seconds": seconds[r.label]} for r in results},
        },
    )
    report.print_table(
        [
            {
                "guide": r.label,
                "PSNR before": f"{before:.2f} dB",
                "PSNR after": f"{r.figures['psnr_mmse_x']:.2f} dB",
                "SSIM": f"{r.figures['ssim_mmse_x']:.3f}",
                "coverage of 90 %": f"{r.figures['coverage_90']:.1%}",
                "fit": f"{seconds[r.label]['fit']:.1f} s",
                f"{samples} samples and statistics": f"{seconds[r.label]['sampling']:.1f} s",
            }
            for r in results
        ],
        "Restoration",
    )
    say(
        "The coverage is that of uncalibrated error bars; to correct them, run pyro-vble calibrate on images whose "
        "truth is known."
    )
    say(f"Written to {output}/ (figure.png first); pyro-vble show {output} makes a page for the browser of it.")


def _photograph(name: str, size: int):
    """The centre of a photograph of scikit-image, (1, C, size, size) in [0, 1]."""
    import numpy as np
    import skimage.data
    import torch

    if name not in _IMAGES:
        raise ValueError(f"--image must be one of {', '.join(_IMAGES)}; received {name!r}.")
    array = np.atleast_3d(getattr(skimage.data, name)())[..., :3]
    if min(array.shape[:2]) < size:
        raise ValueError(f"--size must not exceed the photograph's {min(array.shape[:2])} pixels; received {size}.")
    top, left = ((side - size) // 2 for side in array.shape[:2])
    crop = array[top : top + size, left : left + size]
    return torch.from_numpy(crop.copy()).permute(2, 0, 1)[None].float() / 255
