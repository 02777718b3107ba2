"""The entry point ``pyro-vble``: commands, and how their errors are shown."""

import sys
import warnings

import typer
from rich.console import Console
from rich.markup import escape

from pyro_vble._version import __version__
from pyro_vble.cli.calibrate import calibrate
from pyro_vble.cli.demo import demo
from pyro_vble.cli.models import models_app
from pyro_vble.cli.restore import restore
from pyro_vble.cli.train import train_app

app = typer.Typer(
    name="pyro-vble",
    help="Restore blurred, noisy, low-resolution or holed images, with an error bar on every pixel.\n\n"
    "Start with: pyro-vble demo",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
app.command()(demo)
app.command()(restore)
app.command()(calibrate)
app.add_typer(train_app)
app.add_typer(models_app)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"pyro-vble {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    pass


def main() -> None:
    """Run the command line; a user's mistake ends with one message and exit status 2, not with a traceback."""
    # Dependencies announce their own deprecations at import: nothing a user of the command can act on.
    warnings.simplefilter("ignore", FutureWarning)
    warnings.simplefilter("ignore", DeprecationWarning)
    try:
        app()
    except (ValueError, TypeError, OSError, ImportError, MemoryError, RuntimeError) as error:
        # Of the RuntimeErrors only divergence and exhausted memory are a user's business.
        ours = ("FitDivergedError", "TrainingDivergedError", "OutOfMemoryError")
        known = type(error).__name__ in ours or not isinstance(error, RuntimeError)
        if not known:
            raise
        Console(stderr=True).print(f"[bold red]Error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)
