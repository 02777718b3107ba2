"""``pyro-vble benchmark``: VBLE beside other methods, on the same measurements."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from pyro_vble.cli import options

benchmark_app = typer.Typer(
    name="benchmark",
    help="Compare methods on the same measurements of your images: **bsd** (photographs) or **satellite**; then "
    "**report**.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _part(text: str | tuple[int, int]) -> tuple[int, int]:
    if isinstance(text, tuple):
        return text
    first, _, last = text.partition("/")
    if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise typer.BadParameter(f"a part is written i/n, from 1/n to n/n; received {text!r}.")
    return int(first), int(last)


@dataclass(frozen=True)
class Comparison:
    """What every benchmark is asked; each field is an option."""

    images: Annotated[Path, typer.Option(**options.PATH, help="Folder of images.")]
    output: Annotated[
        Path, typer.Option(**options.PATH, help="Folder of results; what is in it is not made again.")
    ] = Path("benchmark")
    methods: Annotated[
        str | None, typer.Option(metavar="NAME,..", help="Only these methods; by default all of the benchmark.")
    ] = None
    problems: Annotated[
        str | None,
        typer.Option(metavar="NAME,..", help="Only these problems, or those that begin so; by default all."),
    ] = None
    quick: Annotated[
        bool, typer.Option("--quick", help="Few and small images, few steps: to see that all is well.")
    ] = False
    count: Annotated[int | None, typer.Option(min=1, help="So many of the images, evenly spaced; by default all.")] = (
        None
    )
    denoiser: Annotated[
        str, typer.Option(help="drunet (downloaded on first use), or the file of FFDNet's weights.")
    ] = "drunet"
    networks: Annotated[
        Path | None, typer.Option(**options.PATH, help="Folder of networks that pyro-vble train direct wrote.")
    ] = None
    lpips: Annotated[
        Path | None,
        typer.Option(
            **options.PATH,
            help="File of torchvision's VGG16 or AlexNet weights; by default VGG's are downloaded, and if they cannot "
            "be, Alex's.",
        ),
    ] = None
    settings: Annotated[
        Path | None, typer.Option(**options.PATH, help="A changed copy of the settings that come with the package.")
    ] = None
    prior: Annotated[str | None, typer.Option(help="Prior, in place of the benchmark's own.")] = None
    split: Annotated[
        tuple | None,
        typer.Option(
            parser=_part,
            metavar="i/n",
            help="The i-th of n parts of the measurements, for as many processes on one folder.",
        ),
    ] = None
    replace: Annotated[
        bool, typer.Option("--replace", help="Make results of other settings anew, which are an error otherwise.")
    ] = False
    device: options.Device = "auto"


@benchmark_app.command()
@options.unfolded(comparison=Comparison)
def bsd(*, comparison: Comparison) -> None:
    """Blur, motion blur, x2, x4 and missing pixels, at the published settings.

    Writes one JSON a method, problem and image; ended at any moment, the same command goes on.

    Examples:

        pyro-vble benchmark bsd --images test47 --output results --quick

        pyro-vble benchmark bsd --images test47 --output results --methods dpir,vble --problems gaussian,x2

        pyro-vble benchmark report results
    """
    _run("bsd", comparison)


@benchmark_app.command()
@options.unfolded(comparison=Comparison)
def satellite(*, comparison: Comparison) -> None:
    """Restoration, and restoration with doubled resolution, of images as a satellite's sensor measures them.

    Direct networks are those of --networks, a folder of files that **pyro-vble train direct** wrote; those that are
    missing are left out.

    Examples:

        pyro-vble benchmark satellite --images aerial/test --networks direct --output results
    """
    _run("satellite", comparison)


@benchmark_app.command()
def report(
    folder: Annotated[Path, typer.Argument(parser=options.path_given, metavar="DIR", help="Folder of results.")],
    output: Annotated[Path | None, typer.Option(**options.PATH, help="Where to write; by default DIR/report.")] = None,
) -> None:
    """Write tables (Markdown and LaTeX) and figures of the results in a folder."""
    from pyro_vble.benchmark.report import write_report
    from pyro_vble.cli.words import say

    for path in write_report(folder, output):
        say(f"Wrote {path}")


def _run(name: str, asked: Comparison) -> None:
    from pyro_vble.benchmark import load_benchmark
    from pyro_vble.benchmark.resources import Resources
    from pyro_vble.benchmark.runner import Run, image_paths
    from pyro_vble.cli.outputs import prepare_folder
    from pyro_vble.cli.words import say, warn
    from pyro_vble.inference import resolve_device

    options.check_computing(asked.device, "auto")
    benchmark = load_benchmark(name, quick=asked.quick, settings=asked.settings)
    benchmark = benchmark.of(_names(asked.methods), _names(asked.problems))
    if asked.prior is not None:
        benchmark = benchmark.model_copy(update={"prior": asked.prior})
    images = image_paths(asked.images, asked.count or benchmark.images)
    prepare_folder(asked.output, [], [])
    device = resolve_device(asked.device)
    resources = Resources(device, benchmark.prior, asked.denoiser, asked.networks)
    perceptual = _perceptual(asked.lpips, device)
    run = Run(
        benchmark,
        images,
        asked.output,
        resources,
        perceptual,
        replace=asked.replace,
        part=asked.split or (1, 1),
        tell=say,
    )
    outcome = run()
    say(
        f"{outcome.made} results made, {outcome.kept} were there; pyro-vble benchmark report {asked.output} shows them."
    )
    if outcome.failed:
        warn(f"{len(outcome.failed)} failed, and will be tried again by the same command.")
        raise typer.Exit(3)


def _perceptual(weights: Path | None, device: Any) -> Any:
    """LPIPS; None, and a word about it, where neither weights nor package are there."""
    from pyro_vble.benchmark.perceptual import NAMES, load_perceptual
    from pyro_vble.cli.words import say, warn

    try:
        perceptual = load_perceptual(weights, device=device)
    except (ImportError, OSError) as error:
        if weights is not None:
            raise
        warn(f"LPIPS is left out: {error}")
        return None
    say(f"LPIPS is that of {NAMES[perceptual.network]}.")
    return perceptual
