"""``pyro-vble calibrate``: learn from images whose truth is known how wide error bars must be."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from pyro_vble.cli import options
from pyro_vble.cli.options import GuideName, Problem


def calibrate(
    context: typer.Context,
    truths: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            parser=options.path_given,
            help="Sharp, noise-free images from the same sensor, without missing pixels.",
        ),
    ],
    output: Annotated[Path, typer.Option(**options.PATH, help="JSON file for `pyro-vble restore --calibration`.")],
    problem: Annotated[Problem, typer.Option(help="Kind of degradation that such images suffer.")],
    noise: options.KnownNoise,
    measurements: Annotated[
        Path | None,
        typer.Option(**options.PATH, help="Folder of their measurements, of the same names; simulated by default."),
    ] = None,
    blur_sigma: options.BlurSigma = 1.0,
    kernel: options.Kernel = None,
    factor: options.Factor = 2,
    scale: options.Scale = None,
    images: Annotated[int, typer.Option(min=1, help="How many, evenly spaced in the sorted folder.")] = 12,
    crop: Annotated[int, typer.Option(min=32, help="Side of the square cut from the centre of each.")] = 256,
    guide: Annotated[GuideName, typer.Option(help="As for restore.")] = GuideName.vble_xz_free,
    prior: options.Prior = "cae-bsd",
    alpha: options.Alpha = None,
    steps: options.Steps = 60,
    lr: options.LearningRate = 0.2,
    kl_weight: options.KLWeight = 1.0,
    rate_scale: options.RateScale = "1",
    samples: options.Samples = 100,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
) -> None:
    """Calibrate the error bars on images whose ground truth is known.

    Restores a dozen images as `restore` will, compares with the truth, and writes a conformal calibration: with
    `pyro-vble restore --calibration FILE`, 90 % intervals hold 90 % of the pixels, on average over images like these.
    Use the same problem, noise, prior, guide and settings in `calibrate` and `restore`. Files that cannot be used are
    named and left out.

    Example:

        pyro-vble calibrate sharp/ --output sensor.json --problem deblur --blur-sigma 1.5 --noise 0.01
    """
    options.refuse_unused(context, problem)
    if guide is GuideName.map_z:
        raise ValueError("--guide map-z has no error bars to calibrate; choose another guide.")
    if problem is Problem.inpaint and measurements is None:
        raise ValueError("Which pixels are missing is not simulated; pass --measurements, images with holes.")
    if problem is Problem.super_resolve and crop % factor:
        raise ValueError(f"--crop must be a multiple of --factor {factor}; received {crop}.")

    import torch

    import pyro_vble as pv
    from pyro_vble.cli import report
    from pyro_vble.cli.calibration_images import CalibrationImages
    from pyro_vble.cli.measurement import operator_of
    from pyro_vble.cli.outputs import prepare_file
    from pyro_vble.cli.words import say
    from pyro_vble.diagnostics import Calibration
    from pyro_vble.seeding import derived_seed, seeded

    ratio = factor if problem is Problem.super_resolve else 1
    found = CalibrationImages(truths, measurements, ratio=ratio, crop=crop, scale=scale)
    prepare_file(output, [*found.files, kernel, Path(prior)])
    options.check_computing(device, precision)
    chosen = found.chosen(images)
    prior_model = pv.load_prior(prior, alpha=alpha)

    def pairs() -> Iterator[tuple[Any, Any]]:
        for index, path in enumerate(chosen):
            truth, y = found.read(path)
            blank = truth[..., ::ratio, ::ratio] if y is None else y
            physics = operator_of(problem, blank, noise, blur_sigma, kernel, factor)
            if y is None:
                with seeded(derived_seed(seed, "noise", index)):
                    y = physics(truth)
            posterior = pv.restore(
                y,
                physics,
                prior_model,
                guide=options.guide_of(guide),
                num_steps=steps,
                lr=lr,
                kl_weight=kl_weight,
                rate_scale=options.rate_scale_of(rate_scale),
                seed=seed,
                device=device,
                precision=precision,
            )
            if posterior.interrupted:  # half a fit is none to learn from
                raise KeyboardInterrupt
            say(f"{index + 1} of {len(chosen)}: {path.name}")
            yield posterior, truth

    calibration = Calibration.fit_pairs(pairs(), num_samples=samples)
    calibration.save(output)
    rows = [
        {
            "standard deviation": f"{low:.4f} to {high:.4f}",
            "90 % interval": f"± {width:.2f} standard deviations",
        }
        for low, high, width in calibration.groups(0.9)
    ]
    report.print_table(rows, f"Learnt on {calibration.num_images} images")
    if calibration.left_out_90:
        held = torch.tensor(calibration.left_out_90)
        say(
            f"Leave-one-out: 90 % intervals hold {held.mean():.1%} of the pixels on average, {held.min():.1%} to "
            f"{held.max():.1%} of single images."
        )
    say(f"Written to {output}; use it with pyro-vble restore --calibration {output}")
