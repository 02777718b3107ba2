"""One image restored by the command line, from its file to the files of the results."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from pyro_vble.cli import report
from pyro_vble.cli.fit import Fit
from pyro_vble.cli.forecast import tell_forecast
from pyro_vble.cli.measured import Measured
from pyro_vble.cli.measurement import read_measurement, tell_bits, tell_missing
from pyro_vble.cli.noise import estimated_noise
from pyro_vble.cli.outputs import earlier_results, prepare_folder, remove_others
from pyro_vble.cli.problems import Problem
from pyro_vble.cli.sensors import files_of_sensor
from pyro_vble.cli.tiled import Tiles, tell_tiles, tile_names
from pyro_vble.cli.words import say, stage, warn
from pyro_vble.io.checksums import digest_of

# Above this many values, draws are not written unless asked for: a file of gigabytes surprises.
_LARGE = 50_000_000
_ENDINGS = {".npy": ".npy", ".tif": ".tif", ".tiff": ".tif"}


@dataclass(frozen=True)
class Asked:
    """What is asked for of every image.

    Attributes:
        problem: What happened to it.
        fit: How it is restored.
        noise: Its noise level; None where it is to be estimated, or the problem knows it.
        mask: File that says which pixels are missing.
        nodata: Value that says so.
        fill: Whether missing pixels are filled in.
        scale: The value that is white.
        draws: How many draws are written; None for a usual number.
        calibration: File of a calibration.
        tile: Side of tiles.
        page: Whether a page for the browser is written.
    """

    problem: Problem
    fit: Fit
    noise: float | None = None
    mask: Path | None = None
    nodata: float | None = None
    fill: bool = False
    scale: float | None = None
    draws: int | None = None
    calibration: Path | None = None
    tile: int | None = None
    page: bool = False

    @property
    def files(self) -> list[Path]:
        """Files that are read beside the image."""
        named = [self.mask, self.calibration, *self.problem.files, Path(self.fit.prior)]
        named += files_of_sensor(self.problem.settings.get("sensor"))
        return [path for path in named if path is not None]

    @cached_property
    def words(self) -> dict[str, Any]:
        """The same as JSON holds it; the files are read once, whatever the number of images."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("problem", "fit")}
        told = {"problem": self.problem.name, **self.problem.settings, **vars(self.fit), **own}
        plain = (int, float, str, type(None))
        words = {name: value if isinstance(value, plain) else str(value) for name, value in told.items()}
        # A file may have changed since, under the same name.
        there = [path for path in self.files if path.is_file()]
        return words | ({"files": {str(path): digest_of(path)[:16] for path in there}} if there else {})


@dataclass(frozen=True)
class Outcome:
    """How a restoration ended.

    Attributes:
        interrupted: Whether the user ended it early.
        written: Whether there are results.
        failed_tiles: How many tiles are missing.
        first: Name of the file to look at first.
    """

    interrupted: bool = False
    written: bool = True
    failed_tiles: int = 0
    first: str = ""

    @property
    def status(self) -> int:
        """The exit status."""
        return 130 if self.interrupted else 3 if self.failed_tiles else 0


def restored_image(image: Path, output: Path, asked: Asked, load_prior: Callable[[], Any], learnt: Any) -> Outcome:
    """Restore an image and write the results into a folder.

    Args:
        image: The file.
        output: The folder.
        asked: What is asked for.
        load_prior: Called for the prior once the image is read.
        learnt: A calibration, or None.

    Raises:
        ValueError: If the image cannot be restored so.
        OSError: If a file cannot be read or written.
    """
    fit, spread = asked.fit, asked.fit.family.spread
    suffix = _ENDINGS.get(image.suffix.lower(), ".png")
    names = [*report.file_names(suffix, spread=spread), "fit.pvble", "metrics.json"]
    names += report.file_names(".tif", spread=spread) if suffix == ".png" else []  # of what no PNG holds
    names += ["figure.png", "error_bars.png", "posterior.nc"] if spread else []
    names += ["page.html"] if asked.page else []
    read = [image, *asked.files]
    prepare_folder(output, names, read)
    earlier = earlier_results(output, read)

    problem, source, y = read_measurement(asked.problem, image, scale=asked.scale, nodata=asked.nodata, mask=asked.mask)
    missing, filled = ~y.isfinite(), asked.fill or problem.fills
    tell_bits(source, asked.scale)
    tell_missing(missing, filled)
    noise, estimated = asked.noise, asked.noise is None and not problem.knows_noise
    if estimated:
        noise = _told_noise(y, source)
    measured = problem.measured(source, y, noise, asked.scale)
    prior = load_prior()
    about = {
        "input": os.path.abspath(image),
        "problem": problem.name,
        "problem_options": {**problem.settings, **measured.estimated},
        "problem_options_estimated": sorted(measured.estimated),
        "noise": noise,
        "noise_estimated": estimated,
        "missing_pixels": int(missing.any(1).sum()),
        "mask": None if asked.mask is None else os.path.abspath(asked.mask),
        "nodata": asked.nodata,
        "white": measured.source.white,
        "width_of_white": measured.source.width_of_white,
        "guide": fit.family.name,
        "prior": fit.prior,
        "kl_weight": fit.kl_weight,
        "symmetries": fit.symmetries,
        "linearised": fit.linearised,
        "calibration": asked.calibration,
        "seed": fit.seed,
        "num_samples": fit.samples if spread else None,
        "asked": asked.words | stamp(image),
    }
    shape = tuple(measured.missing.shape[1:])
    too_large = tell_forecast(shape, prior, fit) if asked.tile is None else None
    if asked.tile is not None or too_large is not None:
        tiles = Tiles(problem, fit, noise, asked.tile)
        refusal = tiles.refusal()
        if refusal is not None:
            raise too_large or ValueError(f"--tile {asked.tile}: {refusal}; leave one of the two out.")
        tiles = tell_tiles(tiles, shape, prior, " are more than memory holds" if too_large else "")
        prepare_folder(output, tile_names(suffix), read)
        found, written = tiles.restore(
            output, measured.source, measured.y, prior, suffix=suffix, fill=filled, calibration=learnt
        )
        first = next(path for path in written if path.stem == "restored")
        written += [output / "metrics.json", output / "error_bars.png"]
        remove_others(earlier, written)
        metrics = about | {"rate_scale": fit.rate_scale, "interrupted": False} | found
        report.write_metrics(output / "metrics.json", metrics)
        outcome = Outcome(failed_tiles=found["failed_tiles"], first=first.name)
    else:
        outcome = _in_one_piece(image, output, asked, problem, measured, prior, learnt, about, earlier, filled=filled)
    if not outcome.written:
        return outcome
    if asked.page:
        write_page_of(output, image)
    say(f"Written to {output}/ ({outcome.first} first)")
    return outcome


def stamp(image: Path) -> dict[str, int]:
    """What tells whether an image's file is still the same."""
    status = image.stat()
    return {"input_bytes": status.st_size, "input_modified": status.st_mtime_ns}


def _told_noise(y: Any, source: Any) -> float:
    found = estimated_noise(y, quantisation=source.quantisation, jpeg=source.jpeg_quantisation)
    say(f"Noise level estimated from the image: {found.level:.4g}, {found.reason} (set it with --noise).")
    return found.level


def _in_one_piece(
    image: Path,
    output: Path,
    asked: Asked,
    problem: Problem,
    measured: Measured,
    prior: Any,
    learnt: Any,
    about: dict[str, Any],
    earlier: list[Path],
    *,
    filled: bool,
) -> Outcome:
    fit, spread = asked.fit, asked.fit.family.spread
    y, physics, source = measured.y, measured.physics, measured.source
    start = time.perf_counter()
    posterior = fit.restore(y, physics, prior)
    interrupted = posterior.interrupted
    if interrupted and not len(posterior.elbo):
        say("Interrupted before the first step was done: nothing is written.")
        return Outcome(interrupted=True, written=False)
    if interrupted:
        say("What is fitted so far is sampled and written, marked as interrupted; Ctrl-C again ends at once.")
    drawn = fit.drawn(posterior).calibrated(learnt)
    if not fit.linearised:  # a calibration of linearised draws is none of the posterior that is saved
        posterior = drawn
    fitted = time.perf_counter()

    about = about | {"rate_scale": posterior.model.prior.settings.get("rate_scale")}
    metrics = output / "metrics.json"
    # First, and true until the last file is there: whatever ends the run, it says that it ended early.
    report.write_metrics(metrics, about | {"interrupted": True})
    try:
        posterior.save(output / "fit.pvble")
        with stage(f"Drawing {fit.samples} samples for estimates and error bars" if spread else "Decoding"):
            result = report.estimates(posterior, fit.samples, fit.family.name, spread=spread, drawn=drawn)
        seconds = {"fit": fitted - start, "sampling": time.perf_counter() - fitted}
        absent = None if filled else measured.missing
        suffix = _ENDINGS.get(image.suffix.lower(), ".png")
        title = f"{image.name}: {problem}"
        with stage("Writing"):
            paths = report.write_estimates(output, result, suffix=suffix, source=source, missing=absent)
            written = [*paths.values(), metrics, output / "fit.pvble"]
            if result.std is not None:
                report.draw_figure(output / "figure.png", problem.shown(y, physics), result, absent, title)
                report.draw_error_bars(output / "error_bars.png", result.std, source, absent, title)
                written += [output / "figure.png", output / "error_bars.png"]
        if _write_draws(output / "posterior.nc", asked, result, drawn, source):
            written.append(output / "posterior.nc")
        remove_others(earlier, written)
        spent = {"seconds": seconds, "interrupted": interrupted}
        std = None if result.std is None else result.std if absent is None else result.std[~absent]
        width = {} if std is None or not std.numel() else {"mean_std": float(std.mean())}
        report.write_metrics(metrics, about | width | spent | result.figures)
    except KeyboardInterrupt:
        say(f"Interrupted while results were drawn and written: {output}/ is incomplete, as its metrics.json says.")
        raise
    report.print_table(
        [
            {
                "guide": fit.family.name,
                "ELBO": f"{result.figures['elbo']:,.0f}",
                "steps": result.figures["steps"],
                "mean error bar (std)": report.mean_error_bar(result.std, source, absent),
                "residual / noise": f"{result.figures['residual_over_noise']:.2f}",
                "fit": f"{seconds['fit']:.1f} s",
                "sampling": f"{seconds['sampling']:.1f} s",
            }
        ],
        f"Restoration of {image.name}, {source.values.shape[-1]}x{source.values.shape[-2]} -> "
        f"{result.mmse_x.shape[-1]}x{result.mmse_x.shape[-2]}",
    )
    report.tell_if_unexplained(result.check, _usual_causes(problem, fit, estimated=about["noise_estimated"]))
    if interrupted:
        steps, fits = f"{len(posterior.elbo)} of {fit.num_steps} steps", f"{len(posterior.fits)} of {fit.num_fits} fits"
        done = f"{steps} of the first of {fit.num_fits} fits" if len(posterior.elbo) < fit.num_steps else fits
        warn(f"the fit was interrupted after {steps if fit.num_fits == 1 else done}; metrics.json says so.")
    return Outcome(interrupted=interrupted, first=paths["restored"].name)


def _write_draws(path: Path, asked: Asked, result: report.Estimates, drawn: Any, source: Any) -> bool:
    """Write draws, unless none are wanted; returns whether there are some."""
    if not asked.fit.family.spread:
        return False
    draws = asked.draws
    if draws is None:
        draws = 16 if 16 * result.mmse_x.numel() <= _LARGE else 0
        if not draws:
            say("The image is large: no draws are written; --draws 16 writes them all the same.")
    if draws:
        coords = source.coordinates(*result.mmse_x.shape[-2:])
        with stage(f"Writing {draws} draws"):
            report.write_netcdf(path, drawn, draws, coords=coords)
    return bool(draws)


def write_page_of(output: Path, image: Path) -> None:
    """Write the page of a restored image into the folder of its results."""
    from pyro_vble.page import content_of, write_page

    with stage("Writing the page"):
        write_page(output / "page.html", content_of(output, image))
    say(f"Open {output / 'page.html'} in a browser to look at it.")


def _usual_causes(problem: Problem, fit: Fit, *, estimated: bool) -> list[str]:
    """What leaves a measurement unexplained, in options."""
    noise = (
        "noise that is not white or was estimated wrongly (set --noise)"
        if estimated
        else "another noise than --noise says"
    )
    noise = "" if problem.knows_noise else noise
    causes = [problem.blame(**problem.settings), noise, fit.family.blame, "a fit that has not converged (more --steps)"]
    return [cause for cause in causes if cause]
