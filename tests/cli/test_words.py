"""Messages of the library, as the command line says them."""

import ast
import functools
import re
from collections.abc import Iterator

import pytest
import typer

from pyro_vble.cli import words
from pyro_vble.cli.app import app
from pyro_vble.cli.options import option_names
from pyro_vble.cli.words import in_options, know_options
from tools import import_graph

COMMANDS = ("restore", "scene", "calibrate", "train")


@pytest.fixture(autouse=True)
def options():
    before = dict(words._options)
    know_options(option_names(typer.main.get_command(app), "restore"))
    yield
    know_options(before)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("num_samples must be 2 or more; received 1.", "--samples must be 2 or more; received 1."),
        ("page must be True or False; received 3.", "--html must be True or False; received 3."),
        ("It was nan; check the scale of y, or lower lr. The exception's attribute `posterior` holds the last state.",
         "It was nan; check the scale of the measurement, or lower --lr."),
        ("Memory ran out; choose precision=\"bfloat16\".", "Memory ran out; choose --precision bfloat16."),
        ("y must be dense; pass y.to_dense().", "The measurement must be dense."),
        ("A halo; build it with RestorationModel(prior, x=1), or use a smaller tile.", "A halo; use a smaller tile."),
        ("They are narrow; raise max_iterations.", "They are narrow."),
        ("It failed; pass its path: load_prior('.../a.tar', alpha=0.1).", "It failed; pass its path."),
        # What a user typed stays as it is, whatever it looks like.
        ("Nothing is at photo(1).png (IN); check the path.", "Nothing is at photo(1).png (IN); check the path."),
        ("--output must be a folder; my_lr=2.png is a file; choose another.",) * 2,
        ("Crops must be alike; received my_image.png; crop them alike.",) * 2,
    ],
)  # fmt: skip
def test_arguments_are_options(message, said):
    assert in_options(message) == said


def test_options_are_those_of_the_running_command():
    whole = typer.main.get_command(app)
    assert option_names(whole, "scene")["white"] == "--white"
    assert "white" not in option_names(whole, "restore")
    assert option_names(whole, "train")["init_std"] == "--init-std"
    know_options(option_names(whole, "scene"))
    assert in_options("tile must be 64 or more.") == "--tile must be 64 or more."
    know_options(option_names(whole, "models"))
    assert in_options("tile must be 64 or more.") == "tile must be 64 or more."


@functools.cache
def messages() -> list[tuple[str, str]]:
    return list(_messages())


def _messages() -> Iterator[tuple[str, str]]:
    """Every text of an error or a warning of the library, 7 in place of what is put in, with the place it stands at."""
    for name, path in import_graph.modules().items():
        for node in ast.walk(ast.parse(path.read_text())):
            call = node.exc if isinstance(node, ast.Raise) else node
            if not isinstance(call, ast.Call):
                continue
            if isinstance(node, ast.Raise) or ast.unparse(call.func) in ("warnings.warn", "warn"):
                for argument in call.args:
                    if isinstance(argument, ast.JoinedStr | ast.Constant):
                        yield f"{name}:{call.lineno}", text(argument)


def text(node: ast.JoinedStr | ast.Constant) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    return "".join(str(part.value) if isinstance(part, ast.Constant) else "7" for part in node.values)


@pytest.mark.parametrize("command", COMMANDS)
def test_no_message_names_an_argument_that_has_an_option(command):
    options = option_names(typer.main.get_command(app), command)
    know_options(options)
    names = "|".join(name for name in {**options, "num_steps": "", "num_samples": ""} if "_" in name)
    single = "|".join(options)
    found = {
        place: said
        for place, said in ((place, in_options(message)) for place, message in messages())
        if re.search(rf"(?<![-\w.])({names})\b(?![-=(]|\.\w)|^({single}) must\b", said)
    }
    assert len(messages()) > 300
    assert found == {}
