"""``pyro-vble show``: a restoration as a page in the browser."""

from pathlib import Path
from typing import Annotated

import typer

from pyro_vble.cli import options
from pyro_vble.cli.inputs import check_inputs


def show(
    restoration: Annotated[
        Path,
        typer.Argument(
            metavar="RESTORATION",
            parser=options.path_given,
            help="Output folder of `pyro-vble restore` or `demo`, or the OUT.tif of `pyro-vble scene`.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            **options.PATH,
            help="Page to write, NAME.html; by default page.html in the folder, or OUT.html beside a scene.",
        ),
    ] = None,
    before: Annotated[
        Path | None,
        typer.Option(**options.PATH, help="The image before restoration, if it is no longer where it was."),
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Look at a restoration in the browser.

    Writes one HTML page, which needs no other file and no network: send it by mail, or put it on a server. It shows
    the image before and after with a divider to drag, two blinking samples, the error bars in colour, and the value and
    error bar of the pixel under the cursor. A large image is shown reduced, and the page says so.

    Examples:

        pyro-vble demo && pyro-vble show pyro-vble-demo --open

        pyro-vble show restored.tif --output scene.html
    """
    check_inputs({"RESTORATION": restoration, "--before": before})
    from pyro_vble.cli.outputs import prepare_file
    from pyro_vble.cli.words import say

    if output is None:
        output = restoration / "page.html" if restoration.is_dir() else restoration.with_suffix(".html")
    if output.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--output must be a page, NAME.html; received {output}; choose such a name.")
    prepare_file(output, [restoration, before])
    from pyro_vble.page import content_of, write_page

    write_page(output, content_of(restoration, before))
    say(f"Written to {output} ({output.stat().st_size / 1e6:.1f} MB); open it in a browser.")
    if open_:
        typer.launch(str(output.resolve()))
