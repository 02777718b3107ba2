"""``pyro-vble restore``: restore a user's own image."""

import time
from pathlib import Path
from typing import Annotated

import typer

from pyro_vble.cli import options
from pyro_vble.cli.options import GuideName, Problem

# Above this many values, draws are not written unless asked for: a file of gigabytes surprises.
_LARGE = 50_000_000
# Residuals over noise that need no warning: with the right operator and noise 1.0 to 1.8 were measured.
_EXPLAINED = 0.7, 2.0
# What glare and noise may make of white, and how many values are enough to tell.
_BRIGHTEST, _ENOUGH = 3.0, 1_000_000


def restore(
    image: Annotated[Path, typer.Argument(metavar="IN", help="PNG, JPEG, WebP, TIFF (8 or 16 bit, float) or .npy.")],
    output: Annotated[Path, typer.Option(help="Folder for the results; it is made.")],
    problem: Annotated[Problem, typer.Option(help="What happened to the image.")],
    noise: Annotated[
        float | None,
        typer.Option(min=0.0, help="Noise level (standard deviation) on the scale [0, 1]; estimated if left out."),
    ] = None,
    blur_sigma: Annotated[float, typer.Option(help="deblur: standard deviation of a Gaussian blur, in pixels.")] = 1.0,
    kernel: Annotated[
        Path | None, typer.Option(help="deblur: point-spread function, an image or .npy, instead of --blur-sigma.")
    ] = None,
    factor: Annotated[int, typer.Option(min=2, help="super-resolve: enlargement.")] = 2,
    mask: Annotated[Path | None, typer.Option(help="Image of the same size, 0 where pixels are missing.")] = None,
    nodata: Annotated[
        float | None, typer.Option(help="Value that marks missing pixels; NaN does, and in PNG and WebP transparency.")
    ] = None,
    scale: Annotated[
        float | None, typer.Option(help="Value that is white: 4095 for 12 bits. Default: the type's largest.")
    ] = None,
    guide: Annotated[
        GuideName,
        typer.Option(
            help="vble-xz-free restores best; vble-xz and vble as published; map-z is fast, without error bars."
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
        int | None, typer.Option(min=0, help="Draws in posterior.nc; by default 16, none for large images.")
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(help="Calibration of the error bars, from `pyro-vble calibrate` on images of the same sensor."),
    ] = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
) -> None:
    """Restore an image of your own, with an error bar on every pixel.

    Writes into the output folder **restored** (the posterior mean, in the input's type), **std** and
    **error_quantile_90** (float TIFFs on the scale [0, 1]: the error is below the latter in 90 % of cases, says the
    posterior), two posterior samples, **figure.png**, **fit.pvble** (the posterior itself, for
    pyro_vble.load_posterior), **posterior.nc** (draws, for ArviZ) and **metrics.json**.

    Examples:

        pyro-vble restore photo.jpg --output out --problem denoise

        pyro-vble restore scan.tif --output out --problem deblur --blur-sigma 1.5 --noise 0.01

        pyro-vble restore small.png --output out --problem super-resolve --factor 2

        pyro-vble restore holes.png --output out --problem inpaint --mask mask.png
    """

    import pyro_vble as pv
    from pyro_vble.cli import report
    from pyro_vble.diagnostics import Calibration
    from pyro_vble.figures import restoration_figure
    from pyro_vble.io.images import read_image

    learnt = None if calibration is None else Calibration.load(calibration)
    source = read_image(image, scale=scale, nodata=nodata)
    y = _without_masked(source.values, mask, needed=problem is Problem.inpaint)
    _check_scale(y, scale)
    if noise is None:
        noise = _estimated_noise(y)
        report.console.print(f"Noise level estimated from the image: {noise:.4f} (set it with --noise)")
    physics = operator_of(problem, y, noise, blur_sigma, kernel, factor)
    prior_model = pv.load_prior(prior, alpha=alpha)

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
    posterior = posterior.calibrated(learnt)
    fitted = time.perf_counter()
    result = report.estimates(posterior, samples, guide.value)
    seconds = {"fit": fitted - start, "sampling": time.perf_counter() - fitted}

    suffix = {".npy": ".npy", ".tif": ".tif", ".tiff": ".tif"}.get(image.suffix.lower(), ".png")
    paths = report.write_estimates(output, result, suffix=suffix, dtype=source.dtype, scale=source.scale)
    posterior.save(output / "fit.pvble")
    restoration_figure(output / "figure.png", y[0], [result.row], title=f"{image.name}: {problem.value}")
    if draws is None:
        draws = 16 if 16 * result.mmse_x.numel() <= _LARGE else 0
        if not draws:
            report.console.print("The image is large: no draws are written; --draws 16 writes them all the same.")
    if draws:
        coords = source.coordinates(*result.mmse_x.shape[-2:])
        report.write_netcdf(output / "posterior.nc", posterior, draws, coords=coords)
    report.write_metrics(
        output / "metrics.json",
        {
            "input": str(image),
            "problem": problem.value,
            "noise": noise,
            "guide": guide.value,
            "prior": prior,
            "kl_weight": kl_weight,
            "rate_scale": posterior.model.prior.settings.get("rate_scale"),
            "calibration": calibration and str(calibration),
            "seed": seed,
            "num_samples": samples,
            "mean_std": float(result.std.mean()),
            "seconds": seconds,
        }
        | result.figures,
    )
    report.print_table(
        [
            {
                "guide": guide.value,
                "ELBO": f"{result.figures['elbo']:,.0f}",
                "steps": result.figures["steps"],
                "mean error bar (std)": f"{float(result.std.mean()):.4f}",
                "residual / noise": f"{result.figures['residual_over_noise']:.2f}",
                "fit": f"{seconds['fit']:.1f} s",
                "sampling": f"{seconds['sampling']:.1f} s",
            }
        ],
        f"Restoration of {image.name}, {y.shape[-1]}x{y.shape[-2]} -> "
        f"{result.mmse_x.shape[-1]}x{result.mmse_x.shape[-2]}",
    )
    _tell_if_unexplained(result.figures["residual_over_noise"], problem, guide)
    report.console.print(f"Written to {output}/ ({paths['restored'].name} first)")


def _check_scale(y, scale: float | None) -> None:
    """Refuse an image far brighter than white, before noise is read off it on a scale of its own."""
    import torch

    values = y[torch.isfinite(y)]
    values = values[:: len(values) // _ENOUGH + 1]  # a quantile, which no broken pixel decides
    bright = float(values.quantile(0.99)) if len(values) else 0.0
    if bright > _BRIGHTEST:
        given = f"--scale {scale:g}" if scale else "without --scale floating point is taken as it is, which"
        raise ValueError(
            f"White must be 1; {given} leaves the brightest hundredth at {bright:.4g}; pass the value that is white in "
            "the file, for example --scale 4095 for a sensor of 12 bits."
        )


def _tell_if_unexplained(ratio: float, problem: Problem, guide: GuideName) -> None:
    """Say so where the restoration does not explain the measurement, and what the reason may be."""
    from pyro_vble.cli import report

    low, high = _EXPLAINED
    if low <= ratio <= high:
        return
    if ratio < low:
        reasons = ["a noise level that is lower than --noise says"]
    else:
        operator = {
            Problem.deblur: "another blur than was told",
            Problem.super_resolve: "another way of downscaling",
        }
        reasons = [operator[problem]] if problem in operator else []
        reasons.append("noise above --noise")
        if guide is not GuideName.vble_xz_free:
            reasons.append("detail beyond the prior's decoder, which --guide vble-xz-free has room for")
    report.console.print(
        f"[yellow]Warning:[/yellow] the measurement is off the restoration by {ratio:.2g} times the noise, where 1 is "
        f"right: error bars cannot be trusted. The cause may be {' or '.join(reasons)}."
    )


def _estimated_noise(y) -> float:
    """Robust wavelet estimate of the noise level, averaged over bands; at least half an 8-bit step."""
    import torch
    from skimage.restoration import estimate_sigma

    from pyro_vble.physics import fill_missing

    observed = torch.isfinite(y)
    if float(observed.float().mean()) < 0.9:
        raise ValueError(
            "The noise level cannot be estimated where more than a tenth of the pixels is missing; received an image "
            f"with {1 - float(observed.float().mean()):.0%} missing; pass --noise, for example --noise 0.01."
        )
    bands = fill_missing(y, observed)[0].numpy()
    return max(float(estimate_sigma(bands, channel_axis=0, average_sigmas=True)), 0.5 / 255)


def _without_masked(y, mask: Path | None, *, needed: bool):
    """The image with NaN where it is missing, by the mask or of itself."""
    import torch

    from pyro_vble.io.images import read_image

    observed = torch.isfinite(y)
    if mask is not None:
        known = read_image(mask).values
        if known.shape[-2:] != y.shape[-2:]:
            raise ValueError(
                f"The mask must have the image's size {tuple(y.shape[-2:])}; received {tuple(known.shape[-2:])}."
            )
        observed = observed & (known > 0).all(1, keepdim=True)
    elif needed and bool(observed.all()):
        raise ValueError(
            "Inpainting needs to know which pixels are missing; received no --mask, no --nodata, and an image without "
            "NaN or transparent pixels; pass one of them."
        )
    return torch.where(observed, y, torch.nan)


def operator_of(problem: Problem, y, noise: float, blur_sigma: float, kernel: Path | None, factor: int):
    """The operator of a problem.

    Raises:
        ValueError: If a kernel is given for a problem without blur.
    """
    from pyro_vble.io.images import read_image
    from pyro_vble.physics import problems

    if kernel is not None and problem is not Problem.deblur:
        raise ValueError(f"--kernel belongs to --problem deblur; received it with {problem.value}; leave it out.")
    if problem is Problem.denoise:
        return problems.denoising(noise)
    if problem is Problem.deblur:
        psf = problems.gaussian_kernel(blur_sigma) if kernel is None else read_image(kernel).values[0].mean(0)
        return problems.deblurring(noise, psf)
    if problem is Problem.super_resolve:
        return problems.super_resolution(noise, (y.shape[1], factor * y.shape[2], factor * y.shape[3]), factor)
    return problems.inpainting(noise, y[0].isfinite().float())
