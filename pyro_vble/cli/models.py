"""``pyro-vble models``: the priors that come with the package, and how good any prior is."""

from pathlib import Path
from typing import Annotated, Any

import typer

from pyro_vble.cli import options
from pyro_vble.cli.inputs import check_inputs

_SQUARE = 64  # of an image with missing pixels, a square of so many is measured

models_app = typer.Typer(
    name="models",
    help="List the priors that come with the package, show a card, or measure a prior on images of your own.",
    invoke_without_command=True,
    rich_markup_mode="markdown",
)


@models_app.callback()
def models(context: typer.Context) -> None:
    """List the bundled priors."""
    if context.invoked_subcommand is not None:
        return
    from pyro_vble.cli.report import print_table
    from pyro_vble.cli.words import say
    from pyro_vble.io.cards import load_card
    from pyro_vble.io.priors import available_priors

    rows = []
    for name in available_priors():
        card = load_card(name)
        measured = card["measured"]
        rate = measured.get("bpp_quantised")
        rows.append(
            {
                "prior": name,
                "images": card["images_of"],
                "alpha": card.get("alpha") or "",
                "decoded": f"{measured['psnr']:.1f} dB",
                "bits a pixel": "" if rate is None else f"{rate:.2f}",
                "file": f"{card['bytes'] / 1e6:.0f} MB",
            }
        )
    print_table(rows, "Bundled priors")
    say("decoded: PSNR of images encoded and decoded; bits a pixel: as a codec. Neither is that of a restoration.")
    say("pyro-vble models show NAME prints a card; load_prior also takes other names and files.")


@models_app.command()
def show(name: Annotated[str, typer.Argument(help="Bundled prior.")]) -> None:
    """Print the card of a bundled prior, as JSON."""
    import json

    from pyro_vble.io.cards import load_card

    typer.echo(json.dumps(load_card(name), indent=2))


@models_app.command()
def evaluate(
    prior: Annotated[str, typer.Argument(help="Any prior that load_prior takes.")],
    folder: Annotated[Path, typer.Argument(parser=options.path_given, metavar="FOLDER", help="Images to measure on.")],
    alpha: options.Alpha = None,
    precision: Annotated[str, typer.Option(help="float32, or bfloat16 for the networks.")] = "float32",
    device: options.Device = "auto",
    scale: options.Scale = None,
) -> None:
    """Autoencode the images of a folder: PSNR, bits per pixel, calibration of the standard deviation."""
    check_inputs({"FOLDER": folder})
    from pyro_vble import load_prior
    from pyro_vble.cli import report
    from pyro_vble.inference import resolve_device
    from pyro_vble.training import read_images

    options.check_computing(device, precision)
    network = load_prior(prior, alpha=alpha).to(resolve_device(device))
    images = read_images(folder, bands=network.bands, scale=scale)
    figures = figures_of(network, images, precision)
    report.evaluation(*figures, title=f"{prior} on {len(images.images)} images")


def figures_of(prior: Any, images: Any, precision: str) -> tuple[Any, Any]:
    """Evaluation of a prior on whole images, and its calibration if it has error bars of its own."""
    from pyro_vble.training import evaluation

    one_size = getattr(prior, "image_shape", None)
    side = one_size[-1] if one_size else max(side for image in images.images for side in image.shape[1:])
    usable = [i for i in range(len(images.images)) if i not in images.missing or images.has_square(i, _SQUARE)]

    def whole() -> Any:
        return (images.middle(i, side, _SQUARE) for i in usable)

    # A VAE of small images has learnt the width of their digital steps.
    return evaluation.evaluate_with_calibration(prior, whole, dequantize=one_size is not None, precision=precision)
