"""``pyro-vble calibrate``: learn from images whose truth is known how wide error bars must be."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from pyro_vble.cli import options
from pyro_vble.cli.options import GuideName, Problem


def calibrate(
    truths: Annotated[Path, typer.Argument(metavar="FOLDER", help="Sharp, clean, whole images of the same sensor.")],
    output: Annotated[Path, typer.Option(help="JSON file for `pyro-vble restore --calibration`.")],
    problem: Annotated[Problem, typer.Option(help="What happens to such images.")],
    noise: Annotated[float, typer.Option(min=0.0, help="Noise level (standard deviation) on the scale [0, 1].")],
    measurements: Annotated[
        Path | None,
        typer.Option(help="Folder of their measurements, of the same names; without it they are simulated."),
    ] = None,
    blur_sigma: Annotated[float, typer.Option(help="deblur: standard deviation of a Gaussian blur, in pixels.")] = 1.0,
    kernel: Annotated[
        Path | None, typer.Option(help="deblur: point-spread function, an image or .npy, instead of --blur-sigma.")
    ] = None,
    factor: Annotated[int, typer.Option(min=2, help="super-resolve: enlargement.")] = 2,
    scale: Annotated[
        float | None, typer.Option(help="Value that is white: 4095 for 12 bits. Default: the type's largest.")
    ] = None,
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
    """Learn how wide error bars must be, from images whose truth is known.

    Restores a dozen images as `restore` will, compares with the truth, and writes a conformal calibration: with
    `pyro-vble restore --calibration FILE`, 90 % intervals hold 90 % of the pixels, on average over images like these.
    Use the same problem, noise, prior, guide and settings here and there.

    Example:

        pyro-vble calibrate sharp/ --output sensor.json --problem deblur --blur-sigma 1.5 --noise 0.01
    """
    import torch

    import pyro_vble as pv
    from pyro_vble.cli import report
    from pyro_vble.cli.restore import operator_of
    from pyro_vble.diagnostics import Calibration
    from pyro_vble.io.images import SUFFIXES, evenly_spaced, read_image
    from pyro_vble.seeding import derived_seed, seeded

    if problem is Problem.inpaint and measurements is None:
        raise ValueError("Which pixels are missing is not simulated; pass --measurements, images with holes.")
    if problem is Problem.super_resolve and crop % factor:
        raise ValueError(f"--crop must be a multiple of --factor {factor}; received {crop}.")
    paths = _images_in(truths)
    if not paths:
        raise ValueError(f"The folder must hold images ({', '.join(SUFFIXES)}); {truths} holds none.")
    paths = evenly_spaced(paths, images)
    prior_model = pv.load_prior(prior, alpha=alpha)
    ratio = factor if problem is Problem.super_resolve else 1

    def pairs() -> Iterator[tuple[Any, Any]]:
        for index, path in enumerate(paths):
            whole = read_image(path, scale=scale).values
            if measurements is None:
                truth = whole[_centre([side // ratio for side in whole.shape[-2:]], crop // ratio, ratio)]
                blank = truth[..., ::ratio, ::ratio]
                physics = operator_of(problem, blank, noise, blur_sigma, kernel, factor)
                with seeded(derived_seed(seed, "noise", index)):
                    y = physics(truth)
            else:
                y = read_image(_of_the_same_name(measurements, path), scale=scale).values
                if [ratio * side for side in y.shape[-2:]] != list(whole.shape[-2:]):
                    raise ValueError(
                        f"A truth must be {ratio} times the size of its measurement; {path.name} has "
                        f"{tuple(whole.shape[-2:])} pixels for {tuple(y.shape[-2:])}; crop them alike."
                    )
                window = list(y.shape[-2:]), crop // ratio
                truth, y = whole[_centre(*window, ratio)], y[_centre(*window, 1)]
                physics = operator_of(problem, y, noise, blur_sigma, kernel, factor)
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
            report.console.print(f"{index + 1} of {len(paths)}: {path.name}", highlight=False)
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
        report.console.print(
            f"Each image calibrated on the others: 90 % intervals hold {held.mean():.1%}, single images "
            f"{held.min():.1%} to {held.max():.1%}.",
            highlight=False,
        )
    report.console.print(f"Written to {output}; use it with pyro-vble restore --calibration {output}", highlight=False)


def _images_in(folder: Path) -> list[Path]:
    from pyro_vble.io.images import SUFFIXES

    if not folder.is_dir():
        raise FileNotFoundError(f"No folder at {folder}; give one of images.")
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


def _centre(size: list[int], side: int, ratio: int) -> tuple[Any, ...]:
    """The window of the middle of an image, at most a square of this side, on a grid ``ratio`` times finer."""
    kept = [min(side, whole) for whole in size]
    starts = [(whole - own) // 2 for whole, own in zip(size, kept, strict=True)]
    return (..., *(slice(ratio * a, ratio * (a + n)) for a, n in zip(starts, kept, strict=True)))


def _of_the_same_name(folder: Path, path: Path) -> Path:
    found = [other for other in _images_in(folder) if other.stem == path.stem]
    if not found:
        raise FileNotFoundError(f"Every image needs its measurement; {folder} has none named {path.stem}.")
    return found[0]
