"""The documentation: its examples run, its links lead somewhere, its reference has every public name."""

import ast
import importlib
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs" / "_ext"))
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/api/*.md"), *ROOT.glob("benchmarks/results/*.md")]
)
GALLERY = sorted((ROOT / "docs" / "gallery").glob("plot_*.py"))
PACKAGES = re.findall(r"^   (pyro_vble[.\w]*)$", (ROOT / "docs" / "api" / "index.md").read_text(), re.MULTILINE)
# What the site makes of other files.
GENERATED = {"auto_gallery/index.rst": "gallery/README.rst"}


def code_of(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", ["extending", pytest.param("start", marks=pytest.mark.slow)])
def test_examples_of_a_page_run(name, monkeypatch):
    """In the page's order, and in one program."""
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    blocks = code_of(ROOT / "docs" / f"{name}.md")
    assert blocks
    program = {"__name__": "page"}
    monkeypatch.setitem(sys.modules, "page", type(sys)("page"))
    for block in blocks:
        exec(compile(block, f"{name}.md", "exec"), program)
    assert program["posterior"].shape[0] == 1


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_in_pages_compiles(page):
    for block in code_of(page):
        ast.parse(block)


def anchors_of(page: Path) -> set[str]:
    """As GitHub and myst-parser make them of headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_within_the_repository_lead_somewhere(page):
    text = re.sub(r"```.*?```|\$\$.*?\$\$", "", page.read_text(), flags=re.DOTALL)
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:|mailto:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if re.fullmatch(r"auto_gallery/plot_\w+\.rst", path):
            target = ROOT / "docs" / "gallery" / Path(path).with_suffix(".py").name
        target = ROOT / "docs" / GENERATED[path] if path in GENERATED else target
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("script", GALLERY, ids=lambda script: script.stem)
def test_a_gallery_script_is_short_and_says_what_to_look_at(script):
    source = script.read_text()
    tree = ast.parse(source)
    docstring = ast.get_docstring(tree)
    lines = {line for node in ast.walk(tree) if hasattr(node, "lineno") for line in (node.lineno, node.end_lineno)}
    prose = range(tree.body[0].lineno, tree.body[0].end_lineno + 1)
    assert len(lines - set(prose)) < 40
    assert "**Look at**" in docstring


def test_the_gallery_has_an_order_for_every_script():
    settings = (ROOT / "docs" / "conf.py").read_text()
    listed = re.findall(r'^    "(\w+)",$', settings.split("_GALLERY = [")[1].split("]")[0], re.MULTILINE)
    assert sorted(f"plot_{name}" for name in listed) == [script.stem for script in GALLERY]


def test_the_reference_has_every_public_package():
    """Every subpackage that ``pyro_vble`` names, and the pages list what each says in ``__all__``."""
    face = importlib.import_module("pyro_vble")
    # Those of io are listed one by one.
    wanted = {f"pyro_vble.{name}" for name in face._SUBPACKAGES} - {"pyro_vble.io"}
    assert wanted <= set(PACKAGES)
    for package in PACKAGES:
        module = importlib.import_module(package)
        assert all(getattr(module, name).__doc__ for name in module.__all__ if callable(getattr(module, name)))


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("Measurement (*, B, C) of p(y|x).", r"Measurement (\*, B, C) of p(y\|x)."),
        ("A product ``a * b`` and :math:`|x|`.", "A product ``a * b`` and :math:`|x|`."),
        ("    | A paper (Somebody, 2020)", "    | A paper (Somebody, 2020)"),
        (">>> f(*a) | b", ">>> f(*a) | b"),
    ],
)
def test_docstrings_are_read_as_they_were_meant(written, read):
    from plain_docstrings import as_rst

    assert as_rst([written]) == [read]


def test_prose_after_an_example_is_escaped_again():
    from plain_docstrings import as_rst

    assert as_rst([">>> a | b", "c | d", "", "Of (*, B)."]) == [">>> a | b", "c | d", "", r"Of (\*, B)."]
    assert as_rst([".. math:: a | b", "", "    c | d", "Of (*, B)."])[2:] == ["    c | d", r"Of (\*, B)."]
