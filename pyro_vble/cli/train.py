"""``pyro-vble train``: make a prior of one's own."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from pyro_vble.cli import options
from pyro_vble.cli.inputs import check_inputs

train_app = typer.Typer(
    name="train",
    help="Train a prior on a folder of images: first its mean (**cae** or **vae**), then its error bars "
    "(**decoder_std**).",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

_WRITTEN = ("prior.safetensors", "training.ckpt", "card.json", "recipe.yaml", "log.csv")

RecipeName = Annotated[str, typer.Option(help="Recipe that comes with the package, or a YAML file.")]
Init = Annotated[
    str | None, typer.Option(help="Start from this prior: a name, a file, or the folder of another training.")
]


Sizes = dict[str, int]


def _sizes(text: str | Sizes) -> Sizes:
    """Sizes as typed, N=96,M=192."""
    if isinstance(text, dict):
        return text
    parts = [part.partition("=") for part in text.split(",")]
    sizes = {name.strip(): value.strip() for name, _, value in parts}
    if not sizes.keys() <= {"N", "M"} or len(sizes) != len(parts) or not all(v.isdecimal() for v in sizes.values()):
        raise typer.BadParameter(f"sizes are written N=96,M=192, or one of the two; received {text!r}.")
    return {name: int(value) for name, value in sizes.items()}


@dataclass(frozen=True)
class Run:
    """What every training is asked; each field is an option."""

    data: Annotated[
        list[Path],
        typer.Option(**options.PATH, help="Folder of images (or idx file) to train on; more may follow it."),
    ]
    output: Annotated[
        Path,
        typer.Option(**options.PATH, help="Output folder (created if missing): weights, checkpoint, log and card."),
    ]
    more: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[DIR]...", parser=options.path_given, help="Further folders of images."),
    ] = None
    validation: Annotated[
        Path | None,
        typer.Option(**options.PATH, help="Validation images; by default some of the training images are held out."),
    ] = None
    resume: Annotated[bool, typer.Option("--resume", help="Resume the training in the output folder.")] = False
    steps: Annotated[
        int | None, typer.Option(min=1, max=2**31 - 1, help="Number of steps, in place of the recipe's.")
    ] = None
    minutes: Annotated[
        float | None,
        typer.Option(callback=options.positive, help="End after so many minutes, in place of a number of steps."),
    ] = None
    lr: Annotated[
        float | None,
        typer.Option(
            "--lr",
            callback=options.positive,
            help="Largest learning rate, in place of the recipe's; less from a good --init.",
        ),
    ] = None
    device: options.Device = "auto"
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Log for TensorBoard as well.")] = False


@train_app.command()
@options.unfolded(run=Run)
def cae(
    recipe: RecipeName = "cae-natural-cpu",
    init: Init = None,
    grow: Annotated[
        Sizes | None,
        typer.Option(
            parser=_sizes,
            metavar="N=..,M=..",
            help="Grow --init to these sizes, in place of the recipe's: a wider network that computes the same at "
            "first.",
        ),
    ] = None,
    *,
    run: Run,
) -> None:
    """Train a compressive autoencoder."""
    _train("cae", recipe, init, run, grow=grow)


@train_app.command()
@options.unfolded(run=Run)
def vae(recipe: RecipeName = "vae-mnist", init: Init = None, *, run: Run) -> None:
    """Train a variational autoencoder."""
    _train("vae", recipe, init, run)


@train_app.command("decoder-std", hidden=True, deprecated=True)
@train_app.command("decoder_std")
@options.unfolded(run=Run)
def decoder_std(
    recipe: RecipeName = "decoder_std-natural-cpu",
    init: Annotated[
        str | None, typer.Option(help="The prior: a name, a file, or the folder of its training; not when resuming.")
    ] = None,
    alpha: options.Alpha = None,
    init_std: Annotated[
        str | None,
        typer.Option(help="Start from this prior's decoder of standard deviations, in place of --init's own or none."),
    ] = None,
    *,
    run: Run,
) -> None:
    """Train the decoder of standard deviations of a prior, everything else frozen."""
    _train("decoder_std", recipe, init, run, alpha, init_std=init_std)


@train_app.command()
def direct(
    data: Annotated[list[Path], typer.Option(**options.PATH, help="Folder of images to train on; may be repeated.")],
    output: Annotated[Path, typer.Option(**options.PATH, help="File of the network, .safetensors.")],
    sensor: Annotated[
        str, typer.Option(help="Optical sensor: a name (pleiades-like) or a YAML file of your own.")
    ] = "pleiades-like",
    scale: Annotated[int, typer.Option(min=1, max=8, help="Enlargement: 1, 2, 4 or 8.")] = 1,
    network: Annotated[str, typer.Option(help="srresnet or rdn.")] = "srresnet",
    bands: Annotated[int, typer.Option(min=1, help="Bands of the images.")] = 3,
    steps: Annotated[int, typer.Option(min=1, max=2**31 - 1, help="Number of steps.")] = 20_000,
    crop: Annotated[int, typer.Option(min=8, max=4096, help="Side of the crops, in the image's pixels.")] = 96,
    batch: Annotated[int, typer.Option(min=1, max=4096, help="Crops a step.")] = 16,
    lr: Annotated[float, typer.Option(callback=options.positive, help="Largest learning rate.")] = 2e-4,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, crops and noise.")] = None,
    device: options.Device = "auto",
) -> None:
    """Train a direct inversion network, to compare with, on pairs that a sensor simulates."""
    from pyro_vble.baselines import train_direct
    from pyro_vble.cli.outputs import prepare_file
    from pyro_vble.cli.words import say
    from pyro_vble.sensors import load_sensor

    options.check_computing(device, "auto")
    prepare_file(output, data)
    physics = load_sensor(sensor).physics(scale)
    sizes: dict[str, Any] = {"scale": scale, "bands": bands, "crop": crop, "batch_size": batch}
    train_direct(data, physics, output, architecture=network, num_steps=steps, lr=lr, seed=seed, device=device, **sizes)
    say(f"Wrote {output}: pyro_vble.baselines.direct(y, physics, {str(output)!r}) restores with it.")


def _train(
    kind: str,
    recipe: str,
    init: str | None,
    run: Run,
    alpha: float | None = None,
    grow: Sizes | None = None,
    **priors: Any,
) -> None:
    started = time.monotonic()
    for folder in (*run.data, *(run.more or [])):
        check_inputs({"--data": folder})
    check_inputs({"--validation": run.validation})
    from pyro_vble import load_prior
    from pyro_vble.cli import report
    from pyro_vble.cli.outputs import prepare_folder
    from pyro_vble.training import load_recipe, train

    needed = load_recipe(recipe).kind
    if needed != kind:
        raise ValueError(f"`train {kind}` follows recipes of its kind; {recipe} is for `train {needed}`.")
    options.check_computing(run.device, "auto")
    # A training that is resumed has its own files for inputs.
    read = [] if run.resume else [recipe, *(_weights(name) for name in (init, *priors.values()) if name)]
    prepare_folder(run.output, _WRITTEN, map(Path, read))
    start = init if init is None or alpha is None else load_prior(init, alpha=alpha)
    settings = {name: value for name, value in vars(run).items() if name not in ("data", "more", "output")} | priors
    data = [*run.data, *(run.more or [])]
    result = train(recipe, data, run.output, init=start, grow=grow, started=started, **settings)
    report.training(result, data)


def _weights(name: str) -> Path:
    """The file that a prior to start from is read from: itself, or what a training left in its folder."""
    path = Path(name)
    return path / _WRITTEN[0] if path.is_dir() else path
