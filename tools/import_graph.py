"""Draw who imports whom, one layer a row, and fail where an arrow runs back up.

    python -m tools.import_graph [graph.png]

Rows stand from the ground up. A module belongs to the longest prefix of its name that is listed. An import inside a
function, to be lazy, counts like any other; annotations (``if TYPE_CHECKING``) do not.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = {"pyro_vble": "pyro_vble", "pyro_vble.models": "models", "pyro_vble.guides": "guides"}

#: What everything stands on: arguments and their rules, random numbers, memory, precision, metrics.
FOUNDATIONS = (
    "pyro_vble._version",
    "pyro_vble._deprecated",
    "pyro_vble._extras",
    "pyro_vble._one_at_a_time",
    "pyro_vble._arguments",
    "pyro_vble.seeding",
    "pyro_vble._allocator",
    "pyro_vble._precision",
    "pyro_vble._cuda_graphs",
    "pyro_vble._tensors",
    "pyro_vble._streaming",
    "pyro_vble._traces",
    "pyro_vble.memory",
    "pyro_vble.metrics",
    "pyro_vble.recipes",
    "pyro_vble.weights",
    # Old names of modules, which find the new ones when they are asked.
    "pyro_vble.posterior",
    "pyro_vble.ensemble",
)

#: From the ground up; what stands in one row may be imported by the same row's later names only.
ROWS: tuple[tuple[str, ...], ...] = (
    FOUNDATIONS,
    ("pyro_vble.distributions", "pyro_vble.physics"),
    ("pyro_vble.models", "pyro_vble.guides"),
    ("pyro_vble.inference",),
    ("pyro_vble.io", "pyro_vble.figures", "pyro_vble.page"),
    ("pyro_vble.samples", "pyro_vble.training", "pyro_vble.sensors"),
    (
        "pyro_vble.fitting",
        "pyro_vble.restoration",
        "pyro_vble._forecast",
        "pyro_vble.baselines",
        "pyro_vble.deepinv",
        "pyro_vble.scene",
    ),
    ("pyro_vble.diagnostics", "pyro_vble.transfer"),
    ("pyro_vble.loading", "pyro_vble.benchmark"),
    ("pyro_vble",),
    ("pyro_vble.cli",),
)


def modules() -> dict[str, Path]:
    """Every module of the library and its file."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in (ROOT / folder).rglob("*.py"):
            inside = path.relative_to(ROOT / folder).with_suffix("").parts
            name = ".".join((package, *inside)).removesuffix(".__init__")
            if not path.is_symlink() and all(not p.is_symlink() for p in path.parents):
                found[name] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The library's modules that a file imports."""
    tree = ast.parse(path.read_text())
    typing = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    skipped = {id(inner) for node in typing for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "pyro_vble":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known else node.module


def group_of(name: str) -> str:
    """The name in ``ROWS`` that a module belongs to.

    Raises:
        LookupError: If there is none.
    """
    groups = [group for row in ROWS for group in row if name == group or name.startswith(f"{group}.")]
    groups = [group for group in groups if group != "pyro_vble" or name in ("pyro_vble", "pyro_vble.__main__")]
    if not groups:
        raise LookupError(f"{name} is in no row; add it to ROWS of tools/import_graph.py.")
    return max(groups, key=len)


def arrows() -> dict[tuple[str, str], list[tuple[str, str]]]:
    """From group to imported group, and the modules behind it."""
    known, found = modules(), {}
    for name, path in known.items():
        for other in imports(path, known):
            if name != other:
                found.setdefault((group_of(name), group_of(other)), []).append((name, other))
    return found


def back_arrows() -> list[tuple[str, str]]:
    """Imports of a module that stands in a higher row, or later in its own."""
    order = {group: (row, place) for row, groups in enumerate(ROWS) for place, group in enumerate(groups)}
    wrong = []
    for (a, b), pairs in arrows().items():
        if a != b and b != "pyro_vble" and order[b] > order[a]:
            wrong += pairs
    return wrong


def circles() -> list[list[str]]:
    """Modules that import one another in a circle, largest first."""
    known = modules()
    edges = {name: {other for other in imports(path, known) if other != name} for name, path in known.items()}
    # A package's __init__ gathers its modules: that they import each other through it is no circle of their own.
    packages = {name for name, path in known.items() if path.name == "__init__.py"}
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in edges[node] - packages:
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            circle = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(circle) > 1:
                found.append(sorted(circle))

    for name in known.keys() - packages:
        if name not in index:
            visit(name)
    return sorted(found, key=len, reverse=True)


def draw(path: Path) -> None:
    """The graph as a picture: a row a layer, the width of an arrow by the number of imports."""
    import matplotlib.pyplot as plt

    rows = [("foundations",) if row == FOUNDATIONS else row for row in ROWS]
    width = max(map(len, rows))
    place = {
        group: (width * (i + 0.5) / len(row), float(y)) for y, row in enumerate(rows) for i, group in enumerate(row)
    }
    place |= dict.fromkeys(FOUNDATIONS, place["foundations"])
    fig, ax = plt.subplots(figsize=(11, 9), layout="constrained")
    for (a, b), pairs in arrows().items():
        if place[a] == place[b] or a == "pyro_vble" or b == "pyro_vble":
            continue
        up = place[b][1] > place[a][1]
        style = {"arrowstyle": "-|>", "color": "crimson" if up else "0.6", "lw": 0.4 + 0.12 * min(len(pairs), 20)}
        ax.annotate("", xy=place[b], xytext=place[a], arrowprops=style | {"shrinkA": 14, "shrinkB": 14})
    for group, (x, y) in place.items():
        if group in FOUNDATIONS:
            continue
        label = group.removeprefix("pyro_vble.") if group != "pyro_vble" else "pyro_vble (the face)"
        ax.text(x, y, label, ha="center", va="center", bbox={"boxstyle": "round", "fc": "white", "ec": "0.3"})
    ax.set(xlim=(0, width), ylim=(-0.7, len(ROWS) - 0.3), title="Who imports whom: every arrow runs down")
    ax.axis("off")
    fig.savefig(path, dpi=110)
    plt.close(fig)


def main() -> int:
    """Print what runs back, and draw if a path is given."""
    if len(sys.argv) > 1:
        draw(Path(sys.argv[1]))
    wrong, round_about = back_arrows(), circles()
    for a, b in wrong:
        print(f"back: {a} imports {b}")
    for circle in round_about:
        print(f"circle: {', '.join(circle)}")
    print(f"{len(modules())} modules, {len(wrong)} arrows back, {len(round_about)} circles")
    return bool(wrong or round_about)


if __name__ == "__main__":
    sys.exit(main())
