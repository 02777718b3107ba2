"""``pyro-vble restore``: restore a user's own image, or a folder of images."""

from pathlib import Path
from typing import Annotated

import typer

from pyro_vble.cli import options, problems
from pyro_vble.cli.fit import Fit
from pyro_vble.cli.inputs import check_inputs, check_prior
from pyro_vble.cli.problems import Problem

_CAVEAT = (
    "The error bars are uncalibrated: on photographs, 90 % intervals often cover fewer than 90 % of the pixels. To "
    "correct them, run pyro-vble calibrate on images whose truth is known."
)


@options.unfolded(problem=problems.chosen(), fit=Fit)
def restore(
    context: typer.Context,
    image: Annotated[
        Path,
        typer.Argument(
            metavar="IN",
            parser=options.path_given,
            help="PNG, JPEG, WebP, TIFF (8 or 16 bit, float) or .npy; or a folder, of which every image is restored.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            **options.PATH, help="Output folder (created if missing); of a folder of images, it gets a folder of each."
        ),
    ],
    problem: Problem,
    noise: options.Noise = None,
    mask: Annotated[
        Path | None, typer.Option(**options.PATH, help="Image of the same size, 0 where pixels are missing.")
    ] = None,
    nodata: Annotated[
        float | None,
        typer.Option(
            callback=options.finite,
            help="Value that marks missing pixels; NaN and, in PNG and WebP, transparent pixels always do.",
        ),
    ] = None,
    fill: Annotated[
        bool,
        typer.Option(
            "--fill", help="Fill missing pixels in, as inpaint does; otherwise they are missing in the results, too."
        ),
    ] = False,
    scale: options.Scale = None,
    draws: Annotated[
        int | None,
        typer.Option(min=0, max=1_000_000, help="Draws in posterior.nc; by default 16, none for large images."),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            **options.PATH,
            help="Calibration of the error bars, from `pyro-vble calibrate` on images of the same sensor.",
        ),
    ] = None,
    tile: Annotated[
        int | None,
        typer.Option(
            min=64,
            help="Restore in tiles of so many pixels a side, a multiple of 64, as pyro-vble scene does; by default "
            "where the image is too large for memory.",
        ),
    ] = None,
    page: Annotated[
        bool,
        typer.Option("--html", help="Write page.html too, to look at the result in a browser; see pyro-vble show."),
    ] = False,
    *,
    fit: Fit,
) -> None:
    """Restore an image of your own, or a folder of them, with an error bar on every pixel.

    Look first at **restored**, the best guess of the sharp, clean image: the average of many images that would explain
    yours (statisticians call it the posterior mean, or MMSE estimate). **sample_1** and **sample_2** are two of those
    many: what is the same in both is known, what differs is not. **error_bars.png** shows where the guess is less
    sure. **figure.png** has all of these side by side. With --html, **page.html** shows them in a browser.

    The numbers behind them are in **std** (the standard deviation of every pixel) and **error_quantile_90** (90 % of
    errors are below it, if the error bars are calibrated), float TIFFs in the numbers of the input: of 0 to 255 in a
    file of 8 bits, digital numbers (DN) of a sensor. **mmse_z** is a second guess, straight from the prior's decoder.
    **fit.pvble** (for pyro_vble.load_posterior), **posterior.nc** (draws, for ArviZ) and **metrics.json** are for
    programs.

    Images come out in the input's type and with its georeference. Pixels that are missing in the input are missing in
    the results (nodata, NaN, or transparent in a PNG), unless --problem inpaint or --fill has them filled in.

    Of a folder every image is restored, into a folder of its own below --output. Images that are there already, made
    with the same options, are left as they are, so the same command goes on where it was ended. What cannot be
    restored is named in the end, and the exit status is 3.

    Examples:

        pyro-vble restore photo.jpg --output out --problem denoise --html

        pyro-vble restore scan.tif --output out --problem deblur --blur-sigma 1.5 --noise 0.01

        pyro-vble restore small.png --output out --problem super-resolve --factor 2

        pyro-vble restore holes.png --output out --problem inpaint --mask mask.png

        pyro-vble restore colour.tif --output out --problem pansharpen --pan pan.tif

        pyro-vble restore holiday/ --output restored/ --problem denoise
    """
    fit.family.refuse_unused(context)
    problem.refuse_noise(noise)
    check_inputs({"IN": image, "--mask": mask, "--calibration": calibration, **problem.named_files})
    check_prior(fit.prior)
    if image.is_dir() and problem.completed is not None:
        raise ValueError(
            f"--problem {problem} has a second image for every first, which a folder does not say; received the folder "
            f"{image}; call restore for each file in it."
        )

    from pyro_vble.cli.folder import restored_folder
    from pyro_vble.cli.restoring import Asked, restored_image
    from pyro_vble.cli.words import say
    from pyro_vble.diagnostics import Calibration

    options.check_computing(fit.device, fit.precision)
    learnt = None if calibration is None else Calibration.load(calibration)
    asked = Asked(problem, fit, noise, mask, nodata, fill, scale, draws, calibration, tile, page)
    if image.is_dir():
        status = restored_folder(image, output, asked, learnt)
    else:
        status = restored_image(image, output, asked, fit.load_prior, learnt).status
    if fit.family.spread and learnt is None and status != 130:
        say(_CAVEAT)
    if status:
        raise typer.Exit(status)
