"""What both commands do with a fitted posterior: estimate, write, draw, tell."""

import json
import math
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from pyro_vble import metrics
from pyro_vble._version import __version__
from pyro_vble.diagnostics import predictive_check
from pyro_vble.figures import RestorationRow
from pyro_vble.io.atomic import atomic_path
from pyro_vble.io.images import write_image
from pyro_vble.posterior import Posterior

if TYPE_CHECKING:
    from pyro_vble.training import Calibration, Evaluation, TrainingResult

console = Console()

#: Probability of the intervals and error quantiles that are written.
PROBABILITY = 0.9
# Draws behind the residual of a measurement, whose many values leave little to chance.
_CHECKED = 16


@dataclass(frozen=True)
class Estimates:
    """The estimates of one posterior, and their figures of merit if there is a truth."""

    label: str
    mmse_z: Tensor
    mmse_x: Tensor
    std: Tensor
    error_quantile: Tensor
    samples: Tensor
    figures: dict[str, float]

    @property
    def row(self) -> RestorationRow:
        """This posterior's row in the figure."""
        return RestorationRow(
            self.label,
            self.mmse_x[0],
            self.samples[:, 0],
            self.error_quantile[0],
            note=f"{self.figures['psnr_mmse_x']:.2f} dB" if "psnr_mmse_x" in self.figures else "",
            coverage_note=f"covers {self.figures['coverage_90']:.1%}" if "coverage_90" in self.figures else "",
        )


def estimates(posterior: Posterior, num_samples: int, label: str, truth: Tensor | None = None) -> Estimates:
    """Estimates and error bars of a posterior, with PSNR, SSIM and coverage where a truth is known."""
    mmse_z, mmse_x = posterior.mmse_z, posterior.mmse_x(num_samples)
    figures = {"elbo": float(posterior.elbo[-10:].mean()), "steps": len(posterior.elbo)}
    figures["residual_over_noise"] = float(predictive_check(posterior, num_samples=_CHECKED).ratio.mean())
    if truth is not None:
        figures |= {
            "psnr_mmse_x": metrics.psnr(mmse_x, truth),
            "psnr_mmse_z": metrics.psnr(mmse_z, truth),
            "ssim_mmse_x": metrics.ssim(mmse_x, truth),
            "coverage_90": metrics.coverage(posterior.interval(PROBABILITY, num_samples), truth),
        }
    return Estimates(
        label,
        mmse_z,
        mmse_x,
        posterior.std(num_samples),
        posterior.error_quantile(PROBABILITY, num_samples),
        posterior.sample(2),
        figures,
    )


def write_estimates(
    folder: Path, result: Estimates, *, stem: str = "", suffix: str, dtype: np.dtype | type, scale: float | None = None
) -> dict[str, Path]:
    """Write the estimates as images of the input's kind, and the error bars as float TIFFs; returns the paths."""
    images = {"restored": result.mmse_x, "mmse_z": result.mmse_z}
    images |= {f"sample_{i + 1}": sample for i, sample in enumerate(result.samples)}
    bars = {"std": result.std, "error_quantile_90": result.error_quantile}
    paths = {
        name: write_image(folder / f"{stem}{name}{suffix}", value, dtype=dtype, scale=scale)
        for name, value in images.items()
    }
    bar_suffix = ".npy" if suffix == ".npy" else ".tif"
    return paths | {
        name: write_image(folder / f"{stem}{name}{bar_suffix}", value, dtype=np.float32) for name, value in bars.items()
    }


def write_netcdf(
    path: Path,
    posterior: Posterior,
    num_draws: int,
    truth: Tensor | None = None,
    coords: dict[str, np.ndarray] | None = None,
) -> None:
    """Write posterior draws as NetCDF, for ``arviz.from_netcdf``."""
    groups = ("posterior", "posterior_predictive", "sample_stats", "observed_data", "constant_data")
    idata = posterior.to_arviz(num_draws, include=groups, truth=truth, coords=coords)
    with atomic_path(path) as temporary:
        idata.to_netcdf(str(temporary), engine="h5netcdf")


def write_metrics(path: Path, content: dict[str, Any]) -> None:
    """Write figures as JSON, with versions and machine."""
    content = content | {
        "pyro_vble": __version__,
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
    }
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(_finite(content), indent=2) + "\n")


def print_table(rows: list[dict[str, Any]], title: str) -> None:
    """Print figures of merit, a row a guide."""
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(rows[0]):
        # Eighty columns wrap headings, not the name of what a row is about.
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=index == 0)
    for row in rows:
        table.add_row(*map(str, row.values()))
    console.print(table)


def _finite(value: Any) -> Any:
    """JSON has no infinity: a perfect restoration's PSNR becomes null."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def training(result: "TrainingResult") -> None:
    """Print what a training left behind."""
    for path, reason in list(result.skipped_files.items())[:20]:
        console.print(f"[yellow]Skipped[/] {escape(path)}: {escape(reason)}", highlight=False)
    if len(result.skipped_files) > 20:
        console.print(f"[yellow]and {len(result.skipped_files) - 20} more files[/]")
    skipped = f" ({result.skipped_steps} skipped)" if result.skipped_steps else ""
    state = "Trained" if result.complete else "Interrupted, --resume goes on:"
    title = f"{state} {result.steps:,} steps{skipped} in {result.seconds / 60:.1f} min"
    evaluation(result.evaluation, result.calibration, f"{title}; on {result.evaluation.num_images} images held out")
    console.print(f"Written to {result.path.parent}/; use it with --prior {result.path}", highlight=False)


def evaluation(figures: "Evaluation", calibration: "Calibration | None", title: str) -> None:
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
