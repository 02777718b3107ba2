"""The entry point ``pyro-vble``: commands, and how they end."""

import sys
import traceback

import typer

from pyro_vble._allocator import keep_freed_memory
from pyro_vble._version import __version__
from pyro_vble.cli.benchmark import benchmark_app
from pyro_vble.cli.calibrate import calibrate
from pyro_vble.cli.demo import demo
from pyro_vble.cli.endings import end_tidily
from pyro_vble.cli.failures import explanation
from pyro_vble.cli.models import models_app
from pyro_vble.cli.options import option_names
from pyro_vble.cli.restore import restore
from pyro_vble.cli.scene import scene
from pyro_vble.cli.show import show
from pyro_vble.cli.train import train_app
from pyro_vble.cli.words import complain, forgiving_streams, know_options, plain_warnings

app = typer.Typer(
    name="pyro-vble",
    help="Restore images that are blurred, noisy, too small or incomplete, with an error bar on every pixel.\n\n"
    "Start with: pyro-vble demo",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
app.command()(demo)
app.command()(restore)
app.command()(scene)
app.command()(show)
app.command()(calibrate)
app.add_typer(train_app)
app.add_typer(models_app)
app.add_typer(benchmark_app)

_INTERRUPTED = 130  # what typer makes of Ctrl-C
_FOUND_BUG = (
    "This is a fault of pyro-vble, not of yours: please report it, with the command and the lines above, where you got "
    "it from."
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"pyro-vble {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    know_options(option_names(context.command, context.invoked_subcommand))


def main() -> None:
    """Run the command line.

    What a user can cause ends with one line and exit status 2; Ctrl-C with 130, SIGTERM with 143; a fault of the
    program's own with its traceback and 1.
    """
    forgiving_streams()
    plain_warnings()
    end_tidily()
    keep_freed_memory()
    try:
        code = app(standalone_mode=False) or 0
        if code == _INTERRUPTED:
            complain("interrupted.")
        sys.exit(code)
    except Exception as error:
        told = explanation(error)
        if told is None:
            traceback.print_exc()
            complain(_FOUND_BUG)
            sys.exit(1)
        if told:
            complain(told)
        sys.exit(2)
