"""Docstrings are written to be read in a terminal; here they become reStructuredText that Sphinx accepts.

Shapes such as (*, B, C, H, W) and conditions such as p(y|x) would be taken for markup.
"""

import re
from typing import Any

_STAR = re.compile(r"(?<![\\`*\w])\*(?=[\w,])")
_BAR = re.compile(r"(?<!\\)\|")
_VERBATIM = re.compile(r"(``[^`]*``|:math:`[^`]*`|`[^`]*`)")


def _escaped(line: str) -> str:
    if line.lstrip().startswith("| "):  # a line of a block of lines, as references have it
        return line
    parts = _VERBATIM.split(line)
    parts[::2] = [_BAR.sub(r"\|", _STAR.sub(r"\*", part)) for part in parts[::2]]
    return "".join(parts)


def as_rst(lines: list[str]) -> list[str]:
    """The lines of a docstring: examples, up to an empty line, and displayed formulas stay as they are."""
    found: list[str] = []
    example, formula = False, None  # the indentation of the formula
    for line in lines:
        text, indent = line.strip(), len(line) - len(line.lstrip())
        example = bool(text) and (example or text.startswith(">>>"))
        if formula is not None and text and indent <= formula:
            formula = None
        if text.startswith(".. math::"):
            formula = indent
        found.append(line if example or formula is not None else _escaped(line))
    return found


def _process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = as_rst(lines)


def setup(app: Any) -> dict[str, Any]:
    """Before napoleon, which takes sections apart."""
    app.connect("autodoc-process-docstring", _process, priority=100)
    return {"parallel_read_safe": True}
