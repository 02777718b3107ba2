"""Docstrings are written to be read in a terminal; here they become reStructuredText that Sphinx accepts.

Shapes such as (*, B, C, H, W) and conditions such as p(y|x) would be taken for markup.
"""

import re
from typing import Any

_STAR = re.compile(r"(?<![\\`*\w])\*(?=[\w,])")
_BAR = re.compile(r"(?<!\\)\|")
_VERBATIM = re.compile(r"(``[^`]*``|:math:`[^`]*`|`[^`]*`)")
# What begins a block that is not prose: an example, or a displayed formula.
_BLOCK = re.compile(r"^\s*(>>>|\.\. math::)")


def _escaped(line: str) -> str:
    if line.lstrip().startswith("| "):  # a line of a block of lines, as references have it
        return line
    parts = _VERBATIM.split(line)
    parts[::2] = [_BAR.sub(r"\|", _STAR.sub(r"\*", part)) for part in parts[::2]]
    return "".join(parts)


def as_rst(lines: list[str]) -> list[str]:
    """The lines of a docstring; blocks that are no prose stay as they are, up to the next line indented no further."""
    found: list[str] = []
    block: int | None = None
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if block is not None and line.strip() and indent <= block and not _BLOCK.match(line):
            block = None
        if block is None and _BLOCK.match(line):
            block = indent - (">>>" in line)
        found.append(line if block is not None else _escaped(line))
    return found


def _process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = as_rst(lines)


def setup(app: Any) -> dict[str, Any]:
    """Before napoleon, which takes sections apart."""
    app.connect("autodoc-process-docstring", _process, priority=100)
    return {"parallel_read_safe": True}
