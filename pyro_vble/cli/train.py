"""``pyro-vble train``: make a prior of one's own."""

import time
from pathlib import Path
from typing import Annotated

import typer

train_app = typer.Typer(
    name="train",
    help="Train a prior on a folder of images: first its mean (**cae** or **vae**), then its error bars "
    "(**decoder-std**).",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

RecipeName = Annotated[str, typer.Option(help="Recipe that comes with the package, or a YAML file.")]
Data = Annotated[list[Path], typer.Option(help="Folder of images (or idx file) to train on; more may follow it.")]
More = Annotated[list[Path] | None, typer.Argument(metavar="[DIR]...", help="Further folders of images.")]
Output = Annotated[Path, typer.Option(help="Folder for weights, checkpoint, log and card; it is made.")]
Init = Annotated[
    str | None, typer.Option(help="Start from this prior: a name, a file, or the folder of another training.")
]
Validation = Annotated[Path | None, typer.Option(help="Images to measure on; otherwise some of the data are held out.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where the training in the output folder stopped.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Number of steps, in place of the recipe's.")]
Minutes = Annotated[float | None, typer.Option(help="End after so many minutes, in place of a number of steps.")]
Device = Annotated[str, typer.Option(help="auto (CUDA where there is one), cpu, cuda or cuda:N.")]
TensorBoard = Annotated[bool, typer.Option("--tensorboard", help="Log for TensorBoard as well.")]


@train_app.command()
def cae(
    data: Data,
    output: Output,
    recipe: RecipeName = "cae-natural-cpu",
    more: More = None,
    init: Init = None,
    validation: Validation = None,
    resume: Resume = False,
    steps: Steps = None,
    minutes: Minutes = None,
    device: Device = "auto",
    tensorboard: TensorBoard = False,
) -> None:
    """Train a compressive autoencoder."""
    _train("cae", recipe, [*data, *(more or [])], output, init, validation, resume, steps, minutes, device, tensorboard)


@train_app.command()
def vae(
    data: Data,
    output: Output,
    recipe: RecipeName = "vae-mnist",
    more: More = None,
    init: Init = None,
    validation: Validation = None,
    resume: Resume = False,
    steps: Steps = None,
    minutes: Minutes = None,
    device: Device = "auto",
    tensorboard: TensorBoard = False,
) -> None:
    """Train a variational autoencoder."""
    _train("vae", recipe, [*data, *(more or [])], output, init, validation, resume, steps, minutes, device, tensorboard)


@train_app.command()
def decoder_std(
    data: Data,
    output: Output,
    init: Annotated[str, typer.Option(help="The prior: a name, a file, or the folder of its training.")],
    recipe: RecipeName = "decoder-std-natural-cpu",
    more: More = None,
    validation: Validation = None,
    resume: Resume = False,
    steps: Steps = None,
    minutes: Minutes = None,
    device: Device = "auto",
    tensorboard: TensorBoard = False,
) -> None:
    """Train the decoder of standard deviations of a prior, everything else frozen."""
    folders = [*data, *(more or [])]
    _train("decoder-std", recipe, folders, output, init, validation, resume, steps, minutes, device, tensorboard)


def _train(
    kind: str,
    recipe_name: str,
    data: list[Path],
    output: Path,
    init: str | None,
    validation: Path | None,
    resume: bool,
    steps: int | None,
    minutes: float | None,
    device: str,
    tensorboard: bool,
) -> None:
    started = time.monotonic()
    from pyro_vble.cli import report
    from pyro_vble.training import load_recipe, train

    recipe = load_recipe(recipe_name)
    if recipe.kind != kind:
        raise ValueError(f"`train {kind}` follows recipes of its kind; {recipe_name} is for `train {recipe.kind}`.")
    result = train(
        recipe_name,
        data,
        output,
        init=init,
        validation=validation,
        resume=resume,
        steps=steps,
        minutes=minutes,
        device=device,
        tensorboard=tensorboard,
        started=started,
    )
    report.training(result)
