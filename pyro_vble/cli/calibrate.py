"""``pyro-vble calibrate``: learn from images whose truth is known how wide error bars must be."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from pyro_vble.cli import options, problems
from pyro_vble.cli.fit import Fit
from pyro_vble.cli.inputs import check_inputs, check_prior
from pyro_vble.cli.problems import Problem

# Of the intervals that are told.
_PROBABILITY = 0.9


@options.unfolded(problem=problems.chosen(), fit=Fit)
def calibrate(
    truths: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            parser=options.path_given,
            help="Sharp, noise-free images from the same sensor, without missing pixels.",
        ),
    ],
    output: Annotated[
        Path, typer.Option(**options.PATH, help="JSON file for `--calibration` of `pyro-vble restore` and `scene`.")
    ],
    problem: Problem,
    noise: options.KnownNoise | None = None,
    measurements: Annotated[
        Path | None,
        typer.Option(**options.PATH, help="Folder of their measurements, of the same names; simulated by default."),
    ] = None,
    scale: options.Scale = None,
    images: Annotated[int, typer.Option(min=1, help="How many, evenly spaced in the sorted folder.")] = 12,
    crop: Annotated[int, typer.Option(min=32, help="Side of the square cut from the centre of each.")] = 256,
    *,
    fit: Fit,
) -> None:
    """Calibrate the error bars on images whose ground truth is known.

    Restores a dozen images as `restore` will, compares with the truth, and writes a conformal calibration: with
    `pyro-vble restore --calibration FILE`, 90 % intervals cover 90 % of the pixels, on average over images like these.
    Use the same problem, noise, prior, guide and settings in `calibrate` and `restore`. Files that cannot be used are
    named and left out.

    Examples:

        pyro-vble calibrate sharp/ --output sensor.json --problem deblur --blur-sigma 1.5 --noise 0.01

        pyro-vble calibrate sharp/ --output sensor.json --problem sensor --sensor pleiades-like --prior cae-aerial
    """
    if not fit.family.spread:
        raise ValueError(f"--guide {fit.family} has no error bars to calibrate; choose another guide.")
    problem.refuse_noise(noise)
    if noise is None and not problem.knows_noise:
        raise ValueError(
            f"--problem {problem} does not say what the noise is; received no --noise; pass its standard deviation on "
            "the scale [0, 1], for example --noise 0.01."
        )
    if problem.fills and measurements is None:
        raise ValueError("Which pixels are missing is not simulated; pass --measurements, images with holes.")
    if problem.completed is not None and measurements is not None:
        raise ValueError(
            f"--problem {problem} has two measurements of each image, which a folder of one does not hold; leave out "
            "--measurements, and they are simulated."
        )
    if problem.enlarged_by is not None and crop % problem.ratio:
        own = options.option_name(problem.enlarged_by)
        raise ValueError(f"--crop must be a multiple of {own} {problem.ratio}; received {crop}.")
    check_inputs({"FOLDER": truths, "--measurements": measurements, **problem.named_files})
    check_prior(fit.prior)

    import torch

    from pyro_vble.cli import report
    from pyro_vble.cli.calibration_images import CalibrationImages
    from pyro_vble.cli.outputs import prepare_file
    from pyro_vble.cli.words import say
    from pyro_vble.diagnostics import Calibration, intervals_by_texture
    from pyro_vble.seeding import derived_seed, seeded

    found = CalibrationImages(truths, measurements, problem=problem, crop=crop, scale=scale)
    prepare_file(output, [*found.files, *problem.files, Path(fit.prior)])
    options.check_computing(fit.device, fit.precision)
    chosen = found.chosen(images)
    prior = fit.load_prior()

    before: list[Any] = []
    after: list[Any] = []
    # Of each image, what its intervals are made of: its samples would not be held by memory.
    kept: list[tuple[Any, ...]] = []

    def pairs() -> Iterator[tuple[Any, Any]]:
        for index, path in enumerate(chosen):
            seen, truth, y = found.read(path)
            if y is None:
                with seeded(derived_seed(fit.seed, "noise", index)):
                    physics, y = seen.simulate(truth, noise)
            else:
                physics = seen.build(y, noise)
            posterior = fit.restore(y, physics, prior)
            if posterior.interrupted:  # half a fit is none to learn from
                raise KeyboardInterrupt
            say(f"{index + 1} of {len(chosen)}: {path.name}")
            drawn = fit.drawn(posterior)
            mean, std = drawn.mmse_x(fit.samples), drawn.std(fit.samples)
            low, high = drawn.interval(_PROBABILITY, fit.samples)
            before.append(intervals_by_texture(mean, low, high, truth, probability=_PROBABILITY))
            kept.append((mean, std, truth))
            yield drawn, truth

    def by(index: int, calibration: Calibration) -> None:
        mean, std, truth = kept[index]
        half = calibration.half_width(std, _PROBABILITY)
        after.append(intervals_by_texture(mean, mean - half, mean + half, truth, probability=_PROBABILITY))

    calibration = Calibration.fit_pairs(pairs(), num_samples=fit.samples, left_out=by)
    learnt_on = "by the calibration on all other images"
    if not after:
        by(0, calibration)
        learnt_on = "by the calibration on this very image, so it says little"
    calibration.save(output)
    rows = [
        {
            "standard deviation": f"{low:.4f} to {high:.4f}",
            "90 % interval": f"± {width:.2f} standard deviations",
        }
        for low, high, width in calibration.groups(_PROBABILITY)
    ]
    report.print_table(rows, f"Learnt on {calibration.num_images} images")
    report.print_table(_by_land(before), "What 90 % intervals covered before, by texture of the estimate")
    report.print_table(_by_land(after), f"What they cover calibrated, {learnt_on}")
    if calibration.left_out_90:
        held = torch.tensor(calibration.left_out_90)
        say(
            f"Leave-one-out: 90 % intervals cover {held.mean():.1%} of the pixels on average, {held.min():.1%} to "
            f"{held.max():.1%} of single images."
        )
    say(f"Written to {output}; use it with pyro-vble restore or scene, --calibration {output}")


def _by_land(found: list[Any]) -> list[dict[str, str]]:
    """Means over images, from the flattest third of each to the most textured."""
    rows = []
    for part, name in enumerate(found[0].names):
        shares, widths, errors = (
            [getattr(one, what)[part] for one in found] for what in ("observed", "width", "rms_error")
        )
        mean = {what: sum(values) / len(values) for what, values in (("c", shares), ("w", widths), ("e", errors))}
        rows.append(
            {
                "third": name,
                "coverage": f"{mean['c']:.1%}",
                "mean width": f"{mean['w']:.4f}",
                "rms error": f"{mean['e']:.4f}",
            }
        )
    return rows
