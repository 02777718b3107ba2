"""``pyro-vble restore``: restore a user's own image."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from pyro_vble.cli import options, problems
from pyro_vble.cli.fit import Fit
from pyro_vble.cli.problems import Problem

# Above this many values, draws are not written unless asked for: a file of gigabytes surprises.
_LARGE = 50_000_000

_CAVEAT = (
    "The error bars are uncalibrated: error bars of photographs often hold fewer pixels than they claim. pyro-vble "
    "calibrate, on images whose truth is known, mends that."
)


@options.unfolded(problem=problems.chosen(), fit=Fit)
def restore(
    context: typer.Context,
    image: Annotated[
        Path,
        typer.Argument(
            metavar="IN", parser=options.path_given, help="PNG, JPEG, WebP, TIFF (8 or 16 bit, float) or .npy."
        ),
    ],
    output: Annotated[Path, typer.Option(**options.PATH, help="Output folder (created if missing).")],
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
    *,
    fit: Fit,
) -> None:
    """Restore an image of your own, with an error bar on every pixel.

    Writes into the output folder **restored** (the posterior mean) and **mmse_z** (the decoded mean of the latent), in
    the input's type and with its georeference, **std** and **error_quantile_90** (float TIFFs on the scale [0, 1]:
    according to the posterior, 90 % of errors are below the latter), two posterior samples, **figure.png**,
    **fit.pvble** (the posterior itself, for pyro_vble.load_posterior), **posterior.nc** (draws, for ArviZ) and
    **metrics.json**. Pixels that are missing in the input are missing in all these images (nodata, NaN, or transparent
    in a PNG), unless --problem inpaint or --fill has them filled in.

    Examples:

        pyro-vble restore photo.jpg --output out --problem denoise

        pyro-vble restore scan.tif --output out --problem deblur --blur-sigma 1.5 --noise 0.01

        pyro-vble restore small.png --output out --problem super-resolve --factor 2

        pyro-vble restore holes.png --output out --problem inpaint --mask mask.png

        pyro-vble restore colour.tif --output out --problem pansharpen --pan pan.tif
    """
    fit.family.refuse_unused(context)
    problem.refuse_noise(noise)
    if image.is_dir():
        raise ValueError(f"restore takes one image; received the folder {image}; call it for each file in it.")

    from pyro_vble.cli import report
    from pyro_vble.cli.forecast import tell_forecast
    from pyro_vble.cli.measurement import read_measurement, tell_bits, tell_missing
    from pyro_vble.cli.noise import estimated_noise
    from pyro_vble.cli.outputs import prepare_folder
    from pyro_vble.cli.tiled import Tiles, tell_tiles
    from pyro_vble.cli.words import say, stage, warn
    from pyro_vble.diagnostics import Calibration

    spread = fit.family.spread
    suffix = {".npy": ".npy", ".tif": ".tif", ".tiff": ".tif"}.get(image.suffix.lower(), ".png")
    names = [*report.file_names(suffix, spread=spread), "fit.pvble", "metrics.json"]
    names += ["figure.png", "posterior.nc"] if spread else []
    prepare_folder(output, names, [image, mask, calibration, *problem.files, Path(fit.prior)])
    options.check_computing(fit.device, fit.precision)

    learnt = None if calibration is None else Calibration.load(calibration)
    problem, source, y = read_measurement(problem, image, scale=scale, nodata=nodata, mask=mask)
    missing, filled = ~y.isfinite(), fill or problem.fills
    tell_bits(source, scale)
    tell_missing(missing, filled)
    estimated = noise is None and not problem.knows_noise
    if estimated:
        found = estimated_noise(y, quantisation=source.quantisation, jpeg=source.jpeg_quantisation)
        noise = found.level
        raised = f", that of {found.floor}, as what is seen of noise is less" if found.floor else ", as white noise"
        say(f"Noise level estimated from the image: {noise:.4g}{raised} (set it with --noise).")
    measured = problem.measured(source, y, noise, scale)
    y, physics, source = measured.y, measured.physics, measured.source
    prior = fit.load_prior()
    shape = tuple(measured.missing.shape[1:])
    too_large = tell_forecast(shape, prior, fit) if tile is None else None
    if tile is not None or too_large is not None:
        tiles = Tiles(problem, fit, noise, tile or 512)
        refusal = tiles.refusal()
        if refusal is not None:
            raise too_large or ValueError(f"--tile {tile}: {refusal}; leave one of the two out.")
        tell_tiles(tiles, shape, prior, " are more than memory holds" if too_large else "")
        found = tiles.restore(output, source, y, prior, suffix=suffix, fill=filled, calibration=learnt)
        about = _about(image, problem, noise, estimated, missing, fit, fit.rate_scale, calibration)
        report.write_metrics(output / "metrics.json", about | {"interrupted": False} | found)
        if learnt is None:
            say(_CAVEAT)
        say(f"Written to {output}/ (restored{suffix} first)")
        if found["failed_tiles"]:
            raise typer.Exit(3)
        return

    start = time.perf_counter()
    posterior = fit.restore(y, physics, prior)
    interrupted = posterior.interrupted
    if interrupted and not len(posterior.elbo):
        say("Interrupted before the first step was done: nothing is written.")
        raise typer.Exit(130)
    if interrupted:
        say("What is fitted so far is sampled and written, marked as interrupted; Ctrl-C again ends at once.")
    drawn = fit.drawn(posterior).calibrated(learnt)
    if not fit.linearised:  # a calibration of linearised draws is none of the posterior that is saved
        posterior = drawn
    fitted = time.perf_counter()

    rate_scale = posterior.model.prior.settings.get("rate_scale")
    about = _about(image, problem, noise, estimated, missing, fit, rate_scale, calibration)
    metrics = output / "metrics.json"
    # First, and true until the last file is there: whatever ends the run, it says that it ended early.
    report.write_metrics(metrics, about | {"interrupted": True})
    try:
        posterior.save(output / "fit.pvble")
        with stage(f"Drawing {fit.samples} samples for estimates and error bars" if spread else "Decoding"):
            result = report.estimates(posterior, fit.samples, fit.family.name, spread=spread, drawn=drawn)
        seconds = {"fit": fitted - start, "sampling": time.perf_counter() - fitted}
        absent = None if filled else measured.missing
        with stage("Writing"):
            paths = report.write_estimates(output, result, suffix=suffix, source=source, missing=absent)
            if spread:
                report.draw_figure(
                    output / "figure.png", problem.shown(y, physics), result, absent, f"{image.name}: {problem}"
                )
        if draws is None:
            draws = 16 if 16 * result.mmse_x.numel() <= _LARGE else 0
            if spread and not draws:
                say("The image is large: no draws are written; --draws 16 writes them all the same.")
        if spread and draws:
            coords = source.coordinates(*result.mmse_x.shape[-2:])
            with stage(f"Writing {draws} draws"):
                report.write_netcdf(output / "posterior.nc", drawn, draws, coords=coords)
        spent = {"seconds": seconds, "interrupted": interrupted}
        width = {} if result.std is None else {"mean_std": float(result.std.mean())}
        report.write_metrics(metrics, about | width | spent | result.figures)
    except KeyboardInterrupt:
        say(f"Interrupted while results were drawn and written: {output}/ is incomplete, as its metrics.json says.")
        raise typer.Exit(130) from None
    report.print_table(
        [
            {
                "guide": fit.family.name,
                "ELBO": f"{result.figures['elbo']:,.0f}",
                "steps": result.figures["steps"],
                "mean error bar (std)": "none" if result.std is None else f"{float(result.std.mean()):.4f}",
                "residual / noise": f"{result.figures['residual_over_noise']:.2f}",
                "fit": f"{seconds['fit']:.1f} s",
                "sampling": f"{seconds['sampling']:.1f} s",
            }
        ],
        f"Restoration of {image.name}, {missing.shape[-1]}x{missing.shape[-2]} -> "
        f"{result.mmse_x.shape[-1]}x{result.mmse_x.shape[-2]}",
    )
    report.tell_if_unexplained(result.check, _usual_causes(problem, fit, estimated))
    if spread and learnt is None:
        say(_CAVEAT)
    say(f"Written to {output}/ ({paths['restored'].name} first)")
    if interrupted:
        steps, fits = f"{len(posterior.elbo)} of {fit.num_steps} steps", f"{len(posterior.fits)} of {fit.num_fits} fits"
        done = f"{steps} of the first of {fit.num_fits} fits" if len(posterior.elbo) < fit.num_steps else fits
        warn(f"the fit was interrupted after {steps if fit.num_fits == 1 else done}; metrics.json says so.")
        raise typer.Exit(130)


def _about(
    image: Path,
    problem: Problem,
    noise: float | None,
    estimated: bool,
    missing: Any,
    fit: Fit,
    rate_scale: Any,
    calibration: Path | None,
) -> dict[str, Any]:
    """What metrics.json says of what was asked for."""
    return {
        "input": image,
        "problem": problem.name,
        "problem_options": problem.settings,
        "noise": noise,
        "noise_estimated": estimated,
        "missing_pixels": int(missing.any(1).sum()),
        "guide": fit.family.name,
        "prior": fit.prior,
        "kl_weight": fit.kl_weight,
        "rate_scale": rate_scale,
        "symmetries": fit.symmetries,
        "linearised": fit.linearised,
        "calibration": calibration,
        "seed": fit.seed,
        "num_samples": fit.samples if fit.family.spread else None,
    }


def _usual_causes(problem: Problem, fit: Fit, estimated: bool) -> list[str]:
    """What leaves a measurement unexplained, in options."""
    noise = (
        "noise that is not white or was estimated wrongly (set --noise)"
        if estimated
        else "another noise than --noise says"
    )
    noise = "" if problem.knows_noise else noise
    causes = [problem.blame(**problem.settings), noise, fit.family.blame, "a fit that has not converged (more --steps)"]
    return [cause for cause in causes if cause]
