"""``pyro-vble scene``: restore a satellite scene of any size."""

import contextlib
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from pyro_vble.cli import options
from pyro_vble.cli.forward import Forward, radiometry_and_physics
from pyro_vble.cli.guides import GUIDES, Guide
from pyro_vble.cli.inputs import check_inputs, check_prior

# What the manifest calls results.
_PRODUCTS = {"mean": "restored", "std": "standard-deviation"}
_GUIDE = "Guide: what kind of distribution is fitted to the scene, which decides its error bars."
_SCENE_GUIDES = {name: GUIDES[name] for name in ("vble-xz-free", "vble-xz", "vble")}


def _workers(value: int | None) -> int | None:
    if value is not None and value < 0:
        raise typer.BadParameter(f"it must be a number of processes, 0 for this one alone; received {value}.")
    return value


@options.unfolded(forward=Forward)
def scene(
    context: typer.Context,
    image: Annotated[
        Path,
        typer.Argument(metavar="IN", parser=options.path_given, help="GeoTIFF, JPEG 2000, VRT, or what GDAL reads."),
    ],
    output: Annotated[
        Path,
        typer.Argument(metavar="OUT", parser=options.path_given, help="Cloud-Optimised GeoTIFF to write, OUT.tif."),
    ],
    forward: Forward,
    bands: Annotated[
        str | None, typer.Option(help="Bands to restore, by number or name, separated by commas; by default all.")
    ] = None,
    window: Annotated[
        str | None, typer.Option(help="Part to restore: COLUMN,ROW,WIDTH,HEIGHT in pixels of the input.")
    ] = None,
    nodata: Annotated[
        float | None,
        typer.Option(callback=options.finite, help="Value that marks missing pixels, if the file does not say."),
    ] = None,
    fill: Annotated[bool, typer.Option("--fill", help="Fill missing pixels in.")] = False,
    prior: options.Prior = "cae-aerial",
    alpha: options.Alpha = None,
    guide: Annotated[Guide, typer.Option(**options.choice(_SCENE_GUIDES, _GUIDE))] = GUIDES["vble-xz-free"],
    quality: options.Quality = "fast",
    steps: options.Steps | None = None,
    lr: options.LearningRate = 0.2,
    kl_weight: options.KLWeight = 1.0,
    rate_scale: Annotated[
        float, typer.Option(min=1e-3, max=1.0, help="s in (0, 1]: less is smoother; see pyro-vble restore.")
    ] = 1.0,
    tile: Annotated[
        int | None,
        typer.Option(min=64, help="Side of a tile, a multiple of 64 pixels of the output; by default 512."),
    ] = None,
    halo: Annotated[
        str,
        typer.Option(
            help="Pixels about a tile that are fitted with it: auto (what network and sensor reach), or a "
            "multiple of 64."
        ),
    ] = "auto",
    samples: options.Samples = 100,
    write_samples: Annotated[
        int, typer.Option(min=0, max=100, help="How many posterior samples are written as files of their own.")
    ] = 0,
    probability: Annotated[
        float, typer.Option(min=0.01, max=0.999, help="Probability of the interval from OUT_low to OUT_high.")
    ] = 0.9,
    calibration: Annotated[
        Path | None,
        typer.Option(**options.PATH, help="Calibration of the interval, from pyro-vble calibrate."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            callback=_workers,
            help="Worker processes; by default one a GPU, or one a core as far as memory goes; 0: none.",
        ),
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Address of a running Dask scheduler, tcp://HOST:PORT, instead.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run that was ended, whatever ended it.")
    ] = False,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
) -> None:
    """Restore a scene of any size, georeferenced, with an error bar on every pixel.

    Writes **OUT.tif** (the posterior mean, in the input's type), **OUT_std.tif** (its standard deviation),
    **OUT_low.tif** and **OUT_high.tif** (the interval that covers a pixel with --probability), Cloud-Optimised GeoTIFFs
    in the input's numbers, **OUT.json** (a STAC item: what made them), and the folder **OUT.scene**, from which
    pyro_vble.open_scene draws any window of any posterior sample. Tiles are restored by worker processes. A run that
    was ended goes on with --resume and ends in the same bits. A tile that fails three times is left missing, and the
    exit status is 3.

    Examples:

        pyro-vble scene pan.tif restored.tif --sensor pleiades-like

        pyro-vble scene pan.tif finer.tif --sensor my-sensor.yaml --scale 2 --workers 8

        pyro-vble scene rgb.tif sharp.tif --blur-sigma 1.2 --noise 0.01 --window 0,0,4096,4096
    """
    # What GDAL names otherwise, a part of an archive for example, it looks for itself.
    path = None if str(image).startswith("/vsi") or ":" in str(image) else image
    check_inputs({"IN": path, "--calibration": calibration, "--kernel": forward.kernel})
    check_prior(prior)
    from pyro_vble._forecast import in_words
    from pyro_vble.cli.outputs import prepare_file
    from pyro_vble.cli.sensors import files_of_sensor
    from pyro_vble.cli.words import say, warn
    from pyro_vble.diagnostics import Calibration
    from pyro_vble.io.checksums import digest_of
    from pyro_vble.scene import restore_scene
    from pyro_vble.scene.manifest import Making, write_manifest
    from pyro_vble.scene.outputs import output_paths, write_outputs
    from pyro_vble.scene.sources import open_source

    if output.suffix.lower() not in (".tif", ".tiff"):
        raise ValueError(f"OUT must be a GeoTIFF, NAME.tif; received {output}; other formats: pyro-vble restore.")
    store = output.with_suffix(".scene")
    if (store / "scene.json").exists() and not resume:
        raise FileExistsError(
            f"There is a scene at {store}; go on with it by --resume, remove it, or choose another OUT."
        )
    options.check_computing(device, precision)
    source = open_source(image, _bands(bands), nodata, _numbers(window))
    names = ["mean", "std", "low", "high", *(f"sample_{k}" for k in range(write_samples))]
    manifest = output.with_suffix(".json")
    read = [image, calibration, forward.kernel, forward.sensor, *files_of_sensor(forward.sensor), Path(prior)]
    for path in (*output_paths(output, names).values(), manifest):
        prepare_file(path, read)
    radiometry, physics = radiometry_and_physics(forward, source, options.given(context))
    learnt = None if calibration is None else Calibration.load(calibration)
    started = datetime.now(UTC)
    rows, columns = (forward.scale * side for side in source.shape[1:])
    say(f"{source.shape[2]}x{source.shape[1]} pixels of {source.shape[0]} bands -> {columns}x{rows}")
    from pyro_vble import load_prior

    with bar() as told:
        restored = restore_scene(
            source,
            physics,
            load_prior(prior, alpha=alpha),
            store,
            guide=guide.load(),
            quality=quality,
            num_steps=steps,
            lr=lr,
            kl_weight=kl_weight,
            rate_scale=rate_scale,
            tile=tile,
            halo=_halo(halo),
            samples=samples,
            kept_samples=write_samples,
            probability=probability,
            radiometry=radiometry,
            fill=fill,
            calibration=learnt,
            seed=seed,
            device=device,
            precision=precision,
            workers=workers,
            scheduler=scheduler,
            resume=resume,
            progress=told,
            told=say,
        )
    say("Writing GeoTIFFs ...")
    paths = write_outputs(restored, output, source)
    ended = datetime.now(UTC)
    making = Making(
        started,
        ended,
        prior,
        digest_of(restored.prior),
        sensor=None if forward.sensor is None else str(forward.sensor),
        settings=restored.settings,
        seeds={"fits and samples": seed},
        failed=[_offsets(restored.cell(place)) for place in restored.failed],
        source=str(image) if path is None else os.path.abspath(image),
        source_window=source.window,
        source_bands=source.band_numbers,
        source_fingerprint=source.fingerprint(),
    )
    products = {_PRODUCTS.get(name, name): path for name, path in paths.items()}
    raster = None if source.raster is None else source.raster.enlarged(rows, columns)
    write_manifest(manifest, products | {"posterior": store}, raster, making)
    written = ", ".join(str(path) for path in (*paths.values(), manifest))
    say(f"Written to {written} in {in_words((ended - started).total_seconds()).removeprefix('about ')}")
    if learnt is None:
        say("The error bars are uncalibrated; to correct them, run pyro-vble calibrate on image pairs of the sensor.")
    say(f"To look at it in a browser: pyro-vble show {output}")
    if restored.failed:
        for place, why in restored.failed.items():
            warn(f"the tile at {restored.cell(place)} failed three times and is missing: {why}")
        raise typer.Exit(3)


def _offsets(window: Any) -> tuple[int, int, int, int]:
    return window.left, window.top, window.width, window.height


# --- what options say ---


def _bands(text: str | None) -> list[int | str] | None:
    if text is None:
        return None
    named = [part.strip() for part in text.split(",")]
    return [int(part) if part.isdigit() else part for part in named]


def _numbers(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) != 4 or not all(part.strip().isdigit() for part in parts):
        raise ValueError(
            f"--window must be COLUMN,ROW,WIDTH,HEIGHT in pixels, such as 0,0,2048,2048; received {text!r}."
        )
    return tuple(int(part) for part in parts)


def _halo(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdigit():
        raise ValueError(f"--halo must be auto or a number of pixels; received {text!r}.")
    return int(text)


@contextlib.contextmanager
def bar() -> Iterator[Callable[[Any], None]]:
    """A bar of tiles with what is left of the whole run; elsewhere than on a terminal, a line now and then."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from pyro_vble._forecast import in_words
    from pyro_vble.cli.words import console, say

    said = ""

    def told(progress: Any) -> None:
        nonlocal said
        left = "" if progress.remaining is None else f"{in_words(progress.remaining)} left"
        name = f"Tiles {progress.stage}"
        shown.update(task, description=name, completed=progress.done, total=progress.total, left=left)
        line = f"{name}: {progress.done} of {progress.total}{', ' * bool(left)}{left}"
        tenth = max(1, progress.total // 10)
        often = progress.done % tenth == 0 or progress.done == progress.total
        if not console.is_terminal and line != said and often:
            said = line
            say(line)

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[left]}")
    with Progress(*columns, console=console, disable=not console.is_terminal) as shown:
        task = shown.add_task("", total=None, left="")
        yield told
