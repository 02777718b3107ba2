"""``pyro-vble restore``: restore a user's own image."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from pyro_vble.cli import options
from pyro_vble.cli.options import GuideName, Problem

# Above this many values, draws are not written unless asked for: a file of gigabytes surprises.
_LARGE = 50_000_000
# Up to so many pixels nobody waits long, and any machine has memory enough.
_QUICK = 2**18

_CAVEAT = (
    "The error bars are uncalibrated: error bars of photographs often hold fewer pixels than they claim. pyro-vble "
    "calibrate, on images whose truth is known, mends that."
)


def restore(
    context: typer.Context,
    image: Annotated[
        Path,
        typer.Argument(
            metavar="IN", parser=options.path_given, help="PNG, JPEG, WebP, TIFF (8 or 16 bit, float) or .npy."
        ),
    ],
    output: Annotated[Path, typer.Option(**options.PATH, help="Output folder (created if missing).")],
    problem: Annotated[Problem, typer.Option(help="Kind of degradation to undo.")],
    noise: options.Noise = None,
    blur_sigma: options.BlurSigma = 1.0,
    kernel: options.Kernel = None,
    factor: options.Factor = 2,
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
    guide: Annotated[
        GuideName,
        typer.Option(
            help="vble-xz-free restores best; vble-xz and vble as published; map-z is one image, without error bars."
        ),
    ] = GuideName.vble_xz_free,
    prior: options.Prior = "cae-bsd",
    alpha: options.Alpha = None,
    steps: options.Steps = 60,
    lr: options.LearningRate = 0.2,
    kl_weight: options.KLWeight = 1.0,
    rate_scale: options.RateScale = "1",
    samples: options.Samples = 100,
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
    seed: options.Seed = 0,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
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
    """
    options.refuse_unused(context, problem, guide)
    if image.is_dir():
        raise ValueError(f"restore takes one image; received the folder {image}; call it for each file in it.")

    import pyro_vble as pv
    from pyro_vble.cli import report
    from pyro_vble.cli.measurement import operator_of, read_measurement, tell_bits, tell_missing
    from pyro_vble.cli.noise import estimated_noise
    from pyro_vble.cli.outputs import prepare_folder
    from pyro_vble.cli.words import say, stage, warn
    from pyro_vble.diagnostics import Calibration

    spread = guide is not GuideName.map_z
    suffix = {".npy": ".npy", ".tif": ".tif", ".tiff": ".tif"}.get(image.suffix.lower(), ".png")
    names = [*report.file_names(suffix, spread=spread), "fit.pvble", "metrics.json"]
    names += ["figure.png", "posterior.nc"] if spread else []
    prepare_folder(output, names, [image, mask, kernel, calibration, Path(prior)])
    options.check_computing(device, precision)

    learnt = None if calibration is None else Calibration.load(calibration)
    measured = read_measurement(image, problem, scale=scale, nodata=nodata, mask=mask)
    y, source = measured.y, measured.source
    filled = fill or problem is Problem.inpaint
    tell_bits(source, scale)
    tell_missing(measured.missing, filled)
    estimated = noise is None
    if estimated:
        found = estimated_noise(y, quantisation=source.quantisation, jpeg=source.jpeg_quantisation)
        noise = found.level
        raised = f", that of {found.floor}, as what is seen of noise is less" if found.floor else ", as white noise"
        say(f"Noise level estimated from the image: {noise:.4g}{raised} (set it with --noise).")
    physics = operator_of(problem, y, noise, blur_sigma, kernel, factor)
    prior_model = pv.load_prior(prior, alpha=alpha)
    ratio = factor if problem is Problem.super_resolve else 1
    shape = (y.shape[1], ratio * y.shape[2], ratio * y.shape[3])
    _tell_forecast(shape, prior_model, guide, steps, samples if spread else 1, device, precision)

    start = time.perf_counter()
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
    interrupted = posterior.interrupted
    if interrupted and not len(posterior.elbo):
        say("Interrupted before the first step was done: nothing is written.")
        raise typer.Exit(130)
    if interrupted:
        say("What is fitted so far is sampled and written, marked as interrupted; Ctrl-C again ends at once.")
    posterior = posterior.calibrated(learnt)
    fitted = time.perf_counter()

    about = {
        "input": str(image),
        "problem": problem.value,
        "noise": noise,
        "noise_estimated": estimated,
        "missing_pixels": int(measured.missing.any(1).sum()),
        "guide": guide.value,
        "prior": prior,
        "kl_weight": kl_weight,
        "rate_scale": posterior.model.prior.settings.get("rate_scale"),
        "calibration": calibration and str(calibration),
        "seed": seed,
        "num_samples": samples if spread else None,
    }
    metrics = output / "metrics.json"
    # First, and true until the last file is there: whatever ends the run, it says that it ended early.
    report.write_metrics(metrics, about | {"interrupted": True})
    try:
        posterior.save(output / "fit.pvble")
        with stage(f"Drawing {samples} samples for estimates and error bars" if spread else "Decoding"):
            result = report.estimates(posterior, samples, guide.value, spread=spread)
        seconds = {"fit": fitted - start, "sampling": time.perf_counter() - fitted}
        missing = None if filled else _enlarged(measured.missing, ratio)
        with stage("Writing"):
            paths = report.write_estimates(output, result, suffix=suffix, source=source, missing=missing)
            if spread:
                _draw_figure(output, y, result, missing, f"{image.name}: {problem.value}")
        if draws is None:
            draws = 16 if 16 * result.mmse_x.numel() <= _LARGE else 0
            if spread and not draws:
                say("The image is large: no draws are written; --draws 16 writes them all the same.")
        if spread and draws:
            coords = source.coordinates(*result.mmse_x.shape[-2:])
            with stage(f"Writing {draws} draws"):
                report.write_netcdf(output / "posterior.nc", posterior, draws, coords=coords)
        spent = {"seconds": seconds, "interrupted": interrupted}
        width = {} if result.std is None else {"mean_std": float(result.std.mean())}
        report.write_metrics(metrics, about | width | spent | result.figures)
    except KeyboardInterrupt:
        say(f"Interrupted while results were drawn and written: {output}/ is incomplete, as its metrics.json says.")
        raise typer.Exit(130) from None
    report.print_table(
        [
            {
                "guide": guide.value,
                "ELBO": f"{result.figures['elbo']:,.0f}",
                "steps": result.figures["steps"],
                "mean error bar (std)": "none" if result.std is None else f"{float(result.std.mean()):.4f}",
                "residual / noise": f"{result.figures['residual_over_noise']:.2f}",
                "fit": f"{seconds['fit']:.1f} s",
                "sampling": f"{seconds['sampling']:.1f} s",
            }
        ],
        f"Restoration of {image.name}, {y.shape[-1]}x{y.shape[-2]} -> "
        f"{result.mmse_x.shape[-1]}x{result.mmse_x.shape[-2]}",
    )
    report.tell_if_unexplained(result.check, _usual_causes(problem, guide, kernel, estimated))
    if spread and learnt is None:
        say(_CAVEAT)
    say(f"Written to {output}/ ({paths['restored'].name} first)")
    if interrupted:
        warn(f"the fit was interrupted after {len(posterior.elbo)} of {steps} steps; metrics.json says so.")
        raise typer.Exit(130)


def _tell_forecast(
    shape: tuple[int, int, int], prior: Any, guide: GuideName, steps: int, samples: int, device: str, precision: str
) -> None:
    """Say how long a large image takes and how much memory.

    Raises:
        MemoryError: If it surely does not fit.
    """
    from pyro_vble.cli.forecast import forecast
    from pyro_vble.cli.words import say, stage
    from pyro_vble.inference import resolve_device

    if shape[1] * shape[2] < _QUICK or getattr(prior, "image_shape", None) is not None:
        return
    where = resolve_device(device)
    settings = {"steps": steps, "samples": samples, "device": where, "precision": precision}
    with stage("Estimating time and memory"):
        expected = forecast(shape, prior, options.guide_of(guide), **settings)
    free = "" if expected.free is None else f"; {expected.free / 1e9:.1f} GB are free"
    if not expected.fits:
        remedies = ["cut the image into smaller ones"]
        remedies += ["--samples 20"] if samples > 20 else []
        remedies += ["--device cuda on a machine with a GPU"] if where.type == "cpu" else ["--device cpu"]
        raise MemoryError(
            f"Restoring {shape[2]}x{shape[1]} pixels needs about {expected.needed / 1e9:.1f} GB of memory{free}; "
            f"{', or '.join(remedies)}."
        )
    say(f"{shape[2]}x{shape[1]} pixels take {expected}{free}.")


def _draw_figure(folder: Path, y: Any, result: Any, missing: Any, title: str) -> None:
    """The figure, in which missing pixels are grey and have no error."""
    import dataclasses

    import torch

    from pyro_vble.cli.words import printable
    from pyro_vble.figures import restoration_figure

    row = result.row
    if missing is not None and bool(missing.any()):
        row = dataclasses.replace(
            row,
            estimate=torch.where(missing[0], torch.nan, row.estimate),
            samples=torch.where(missing[0], torch.nan, row.samples),
            error_quantile=torch.where(missing[0], 0.0, row.error_quantile),
        )
    restoration_figure(folder / "figure.png", y[0], [row], title=printable(title))


def _enlarged(missing: Any, ratio: int) -> Any:
    return missing.repeat_interleave(ratio, -1).repeat_interleave(ratio, -2)


def _usual_causes(problem: Problem, guide: GuideName, kernel: Path | None, estimated: bool) -> list[str]:
    """What leaves a measurement unexplained, in options."""
    blur = "--kernel" if kernel is not None else "--blur-sigma"
    operator = {
        Problem.deblur: f"another blur than {blur} says",
        Problem.super_resolve: "another way of downscaling than bicubic, or another --factor",
    }
    causes = [operator[problem]] if problem in operator else []
    causes.append(
        "noise that is not white or was estimated wrongly (set --noise)"
        if estimated
        else "another noise than --noise says"
    )
    if guide is not GuideName.vble_xz_free:
        causes.append("detail beyond the prior's decoder, which --guide vble-xz-free has room for")
    causes.append("a fit that has not converged (more --steps)")
    return causes
