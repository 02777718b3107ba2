"""What the commands do with a fitted posterior: estimate, write, draw, tell."""

import csv
import errno
import json
import math
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.table import Table
from rich.text import Text
from torch import Tensor

from pyro_vble import metrics
from pyro_vble._version import __version__
from pyro_vble.cli.outputs import ERROR_BARS, IMAGES, SAMPLES
from pyro_vble.cli.words import console, in_options, one_line, printable, say, warn
from pyro_vble.diagnostics import PredictiveCheck, predictive_check
from pyro_vble.figures import RestorationRow, error_bar_figure, restoration_figure
from pyro_vble.io import inference_data
from pyro_vble.io.atomic import atomic_path
from pyro_vble.io.draw_stream import DrawStream
from pyro_vble.io.images import ImageFile, Raster, write_image
from pyro_vble.samples import Fitted, Samples

if TYPE_CHECKING:
    from pyro_vble.training import Evaluation, TrainingResult, VarianceRatios

#: Probability of the intervals and error quantiles that are written.
PROBABILITY = 0.9
# Draws behind the residual of a measurement, whose many values leave little to chance.
_CHECKED = 16


@dataclass(frozen=True)
class Estimates:
    """The estimates of one posterior, and their figures of merit if there is a truth.

    A point estimate has no spread: no standard deviation, error quantile and samples.
    """

    label: str
    mmse_z: Tensor
    mmse_x: Tensor
    std: Tensor | None
    error_quantile: Tensor | None
    samples: Tensor | None
    figures: dict[str, float]
    check: PredictiveCheck

    @property
    def row(self) -> RestorationRow:
        """This posterior's row in the figure.

        Raises:
            ValueError: If it is a point.
        """
        if self.samples is None or self.error_quantile is None:
            raise ValueError(f"A figure shows samples and errors; {self.label} has none; choose another guide.")
        return RestorationRow(
            self.label,
            self.mmse_x[0],
            self.samples[:, 0],
            self.error_quantile[0],
            note=f"{self.figures['psnr_mmse_x']:.2f} dB" if "psnr_mmse_x" in self.figures else "",
            coverage_note=f"covers {self.figures['coverage_90']:.1%}" if "coverage_90" in self.figures else "",
        )


def estimates(
    posterior: Fitted,
    num_samples: int,
    label: str,
    truth: Tensor | None = None,
    *,
    spread: bool = True,
    drawn: Samples | None = None,
) -> Estimates:
    """Estimates and error bars of a posterior, with PSNR, SSIM and coverage where a truth is known.

    Statistics are of ``drawn``, by default the posterior itself.

    All statistics have the posterior's seed, and so share its samples, or their moments where those are too many.
    """
    mmse_z = posterior.mmse_z
    drawn = posterior if drawn is None else drawn
    mmse_x = drawn.mmse_x(num_samples) if spread else mmse_z
    check = predictive_check(posterior, num_samples=_CHECKED if spread else 1)
    figures = {"elbo": float(posterior.elbo[-10:].mean()), "steps": len(posterior.elbo)}
    figures["residual_over_noise"] = float(check.ratio.mean())
    if truth is not None:
        figures |= {
            "psnr_mmse_x": metrics.psnr(mmse_x, truth),
            "psnr_mmse_z": metrics.psnr(mmse_z, truth),
            "ssim_mmse_x": metrics.ssim(mmse_x, truth),
            "coverage_90": metrics.coverage(drawn.interval(PROBABILITY, num_samples), truth),
        }
    return Estimates(
        label,
        mmse_z,
        mmse_x,
        drawn.std(num_samples) if spread else None,
        drawn.error_quantile(PROBABILITY, num_samples) if spread else None,
        drawn.sample(2) if spread else None,
        figures,
        check,
    )


def file_names(suffix: str, *, stem: str = "", spread: bool = True) -> list[str]:
    """Names of the files that :func:`write_estimates` writes."""
    images = (*IMAGES, *SAMPLES) if spread else IMAGES
    bars = ERROR_BARS if spread else ()
    return [f"{stem}{name}{suffix}" for name in images] + [f"{stem}{name}{_bar_suffix(suffix)}" for name in bars]


def write_estimates(
    folder: Path,
    result: Estimates,
    *,
    stem: str = "",
    suffix: str,
    source: ImageFile | None = None,
    missing: Tensor | None = None,
) -> dict[str, Path]:
    """Write the estimates as images of the input's kind, and the error bars as floats in its numbers; returns paths.

    Args:
        folder: Where to.
        result: The estimates.
        stem: What their names begin with.
        suffix: Of the images.
        source: The input, whose data type, scale and georeference they get; without it they have 8 bits.
        missing: Pixels (1, C, H, W) that stay missing.
    """
    dtype, scale = (np.dtype(np.uint8), 255.0) if source is None else (source.dtype, source.scale)
    raster, profile = (None, None) if source is None else (source.raster, source.profile)
    absent = missing if missing is not None and bool(missing.any()) else None
    if absent is not None and suffix == ".npy" and dtype.kind in "ui":  # which say nothing of missing values
        dtype = np.dtype(np.float32)
    images = dict(zip(IMAGES, (result.mmse_x, result.mmse_z), strict=True))
    bars = {}
    if result.std is not None and result.error_quantile is not None and result.samples is not None:
        images |= dict(zip(SAMPLES, result.samples, strict=False))
        bars = dict(zip(ERROR_BARS, (result.std, result.error_quantile), strict=True))
    paths = {}
    for group, kind, settings in (
        (images, suffix, {"dtype": dtype, "scale": scale, "raster": raster, "profile": profile}),
        (bars, _bar_suffix(suffix), {"dtype": np.float32, "scale": scale, "raster": of_error_bars(raster, dtype)}),
    ):
        for name, value in group.items():
            shown = value if absent is None else torch.where(absent, torch.nan, value)
            if source is not None:
                shown = source.in_file(shown) if group is images else source.widths_in_file(shown)
            paths[name] = write_image(folder / f"{stem}{name}{kind}", shown, **settings)
    return paths


def of_error_bars(raster: Raster | None, dtype: np.dtype, *, widths: bool = True) -> Raster | None:
    """What is kept of a raster with error bars, which are widths or bounds, of an image of this type.

    A bar may well be the whole number that stands for a missing pixel: theirs are NaN.
    """
    if raster is None:
        return None
    raster = raster.of_widths() if widths else raster
    return replace(raster, nodata=None) if dtype.kind in "ui" else raster


def mean_error_bar(std: Tensor | None, source: ImageFile, missing: Tensor | None = None) -> str:
    """The mean of standard deviations in the file's numbers, or as a share of white where that is no single number.

    Args:
        std: Standard deviations (1, C, H, W) on [0, 1], or None.
        source: The file.
        missing: Pixels that are missing in the results, and count for nothing.

    Example:
        >>> from pyro_vble.cli.report import mean_error_bar
        >>> mean_error_bar(None, None)
        'none'
    """
    if std is None:
        return "none"
    white = source.white
    plain = isinstance(white, tuple) or white == 1
    widths = std if plain else source.widths_in_file(std) * source.scale
    mean = float((widths if missing is None else widths[~missing]).mean())
    return f"{mean:.4f}" if plain else f"{mean:.3g} of {white:g}"


def draw_error_bars(path: Path, std: Tensor, source: ImageFile, missing: Tensor | None, title: str) -> None:
    """Draw standard deviations (1, C, H, W) with a colour bar, in the file's numbers."""
    widths = source.widths_in_file(std[0]) * source.scale
    if missing is not None:
        widths = torch.where(missing[0], torch.nan, widths)
    white = source.white
    unit = f"white is {white:g}" if isinstance(white, float) and white != 1 else "white is 1"
    unit = "in numbers of the file" if isinstance(white, tuple) else unit
    error_bar_figure(path, widths, label=f"standard deviation ({unit})", title=printable(title))


def draw_figure(path: Path, y: Tensor, result: Estimates, missing: Tensor | None, title: str) -> None:
    """Draw a restoration; missing pixels are grey and have no error."""
    row = result.row
    if missing is not None and bool(missing.any()):
        row = replace(
            row,
            estimate=torch.where(missing[0], torch.nan, row.estimate),
            samples=torch.where(missing[0], torch.nan, row.samples),
            error_quantile=torch.where(missing[0], 0.0, row.error_quantile),
        )
    restoration_figure(path, y[0], [row], title=printable(title))


def _bar_suffix(suffix: str) -> str:
    return ".npy" if suffix == ".npy" else ".tif"


def tell_if_unexplained(check: PredictiveCheck, causes: list[str]) -> None:
    """Say so where a restoration does not explain its measurement, and what options may be the reason.

    Nothing is said where it does: that does not mean that the operator is right.

    Args:
        check: Of one image.
        causes: What usually is the reason, in options.
    """
    found = check.reasons(0)
    if found:
        warn(
            "the restoration does not explain its measurement, so its error bars cannot be trusted: "
            f"{in_options('; '.join(found))}. Usual causes: {', or '.join(causes)}."
        )


def write_netcdf(
    path: Path,
    posterior: Samples,
    num_draws: int,
    truth: Tensor | None = None,
    coords: dict[str, np.ndarray] | None = None,
) -> None:
    """Write posterior draws as NetCDF, for ``arviz.from_netcdf``."""
    groups = {"posterior", "posterior_predictive", "sample_stats", "observed_data", "constant_data"}
    source = DrawStream(posterior, num_draws, None, groups & posterior.groups, truth, coords, None)
    datasets = inference_data.drawn(source)
    size = sum(dataset.nbytes for dataset in datasets.values())
    with atomic_path(path) as temporary:
        _make_room(temporary, size)
        inference_data.write_netcdf(temporary, datasets, source.attrs)


def _make_room(path: Path, size: int) -> None:
    """Raise the system's error where a file of this size has no room: HDF5 ends the process if it meets that itself."""
    if not hasattr(os, "posix_fallocate"):
        return
    with open(path, "wb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
    path.unlink()


def write_metrics(path: Path, content: dict[str, Any]) -> None:
    """Write figures as JSON, with versions and machine; a path is its text."""
    content = content | {
        "pyro_vble": __version__,
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
    }
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(_finite(content), indent=2, default=str) + "\n")


def print_table(rows: list[dict[str, Any]], title: str) -> None:
    """Print figures of merit, a row a guide."""
    table = Table(title=Text(printable(title)), title_justify="left")
    for index, column in enumerate(rows[0]):
        # Eighty columns wrap headings, not the name of what a row is about, nor a number.
        table.add_column(Text(column), justify="left" if index == 0 else "right", no_wrap=index == 0, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(str(value))) for value in row.values()))
    console.print(table)


def _finite(value: Any) -> Any:
    """JSON has no infinity: a perfect restoration's PSNR becomes null."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def training(result: "TrainingResult", data: Sequence[Path]) -> None:
    """Print what a training left behind, and what to do next.

    Args:
        result: The training.
        data: Its images.
    """
    for path, reason in list(result.skipped_files.items())[:20]:
        tell_skipped(path, reason)
    if len(result.skipped_files) > 20:
        warn(f"{len(result.skipped_files) - 20} more files were skipped.")
    skipped = f" ({result.skipped_steps} skipped)" if result.skipped_steps else ""
    state = "Trained" if result.complete else "Interrupted, --resume goes on:"
    title = f"{state} {result.steps:,} steps{skipped} in {result.seconds / 60:.1f} min"
    evaluation(result.evaluation, result.calibration, f"{title}; on {result.evaluation.num_images} images held out")
    folder = result.path.parent
    before, after = _held_out(folder)
    if before is not None:
        say(f"PSNR on squares of the images held out: {before:.2f} dB before, {after:.2f} dB after.")
    say(f"Written to {folder}/; use it with --prior {result.path}")
    if result.calibration is None:
        say(
            "Its error bars are one for all pixels, which costs restorations part of their quality. Next, train error "
            f"bars for every pixel: pyro-vble train decoder_std --init {folder} --data {' '.join(map(str, data))} "
            f"--output {folder.with_name(folder.name + '-std')}"
        )


def _held_out(folder: Path) -> tuple[float | None, float]:
    """PSNR on held-out images before a training and after it; the former None if it began from nothing."""
    with open(folder / "log.csv", newline="") as file:
        rows = [
            (int(row["step"]), float(row["validation_psnr"])) for row in csv.DictReader(file) if row["validation_psnr"]
        ]
    begun = json.loads((folder / "card.json").read_text()).get("init") is not None
    first, last = rows[0] if rows else (1, math.nan), rows[-1][1] if rows else math.nan
    return (first[1] if begun and first[0] == 0 else None), last


def tell_skipped(path: object, reason: str) -> None:
    """Say that a file is left out, and why."""
    console.print(
        Text.assemble(("Skipped", "yellow"), f" {printable(str(path))}: {printable(one_line(reason))}"), soft_wrap=True
    )


def evaluation(figures: "Evaluation", calibration: "VarianceRatios | None", title: str) -> None:
    """Print how good a prior is."""
    row = {"PSNR": f"{figures.psnr:.2f} dB", "KL, bits per pixel": f"{figures.rate:.3f}"}
    if figures.bpp_quantised is not None:
        row["as a codec"] = f"{figures.psnr_quantised:.2f} dB, {figures.bpp_quantised:.3f} bpp"
    print_table([row], title)
    if calibration is None:
        return
    rows = [
        {"decile": i + 1, "standard deviation": f"{std:.4f}", "squared error / variance": f"{ratio:.2f}"}
        for i, (std, ratio) in enumerate(zip(calibration.std, calibration.ratio, strict=True))
    ]
    print_table(rows, "Calibration, pixels sorted by standard deviation (1 is right)")
