"""Results as tables: a row a method, means over images, and the difference to one method image by image."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pyro_vble.benchmark.perceptual import NAMES

#: Records by image, of one method and problem.
Records = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        key: Of the figure.
        title: What the table calls it.
        digits: After the point.
        better: "more", "less", or "" where neither is: which is set in bold.
        median: Whether the median stands for the images, in place of the mean: of times, whose first is longer.
    """

    key: str
    title: str
    digits: int
    better: str = ""
    median: bool = False

    def of(self, records: Records) -> float | None:
        """The mean (or median) of a method's figures; None where a record has none."""
        values = [record["figures"].get(self.key) for record in records.values()]
        if not values or any(value is None for value in values):
            return None
        return statistics.median(values) if self.median else statistics.fmean(values)

    def text(self, value: float | None) -> str:
        """A figure as the table has it."""
        if value is None or not math.isfinite(value):
            return "-"
        if self.key == "coverage":
            return f"{100 * value:.0f} %"
        if self.key.startswith("seconds"):
            return f"{value:.1f}" if value < 10 else f"{value:,.0f}"
        return f"{value:.{self.digits}f}"


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        label: Of the method.
        cells: Its figures as text.
        values: Its figures.
    """

    label: str
    cells: list[str]
    values: list[float | None]


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: Its title.
        columns: Titles of its columns.
        rows: Its rows.
        better: For every column "more", "less" or "".
        notes: What is to be known of it.
    """

    title: str
    columns: list[str]
    rows: list[Row]
    better: list[str]
    notes: list[str]

    def best(self) -> list[set[int]]:
        """For every column the rows that are best, as printed."""
        found = []
        for k, better in enumerate(self.better):
            known = {i: row.values[k] for i, row in enumerate(self.rows)}
            values = {i: value for i, value in known.items() if value is not None}
            if not better or len(values) < 2:
                found.append(set())
                continue
            top = (max if better == "more" else min)(values, key=lambda i: values[i])
            text = self.rows[top].cells[k]
            found.append({i for i in values if self.rows[i].cells[k] == text})
        return found


def columns_of(records: Iterable[dict[str, Any]]) -> list[Column]:
    """The columns for some results: LPIPS says of which network it is."""
    figures = [record["figures"] for record in records]
    networks = {one["lpips_network"] for one in figures if "lpips_network" in one}
    lpips = f"LPIPS ({' and '.join(sorted(NAMES[name] for name in networks))})" if networks else "LPIPS"
    rules = {(record["rules"]["samples"], record["rules"]["probability"]) for record in _made_with(records)}
    samples, probability = min(rules) if rules else (100, 0.9)
    return [
        Column("psnr", "PSNR, dB", 2, "more"),
        Column("ssim", "SSIM", 4, "more"),
        # Two networks have two scales, of which there is no mean.
        Column("lpips" if len(networks) == 1 else "", lpips, 4, "less"),
        Column("seconds", "restoration, s", 1, median=True),
        Column("seconds_samples", f"{samples} samples, s", 1, median=True),
        Column("coverage", f"coverage of {100 * probability:g} %", 3),
        Column("interval_score", "interval score", 4, "less"),
        Column("crps", "CRPS", 4, "less"),
        Column("peak_memory", "memory, MiB", 0),
    ]


def problem_table(title: str, results: dict[str, Records], labels: dict[str, str], reference: str) -> Table:
    """The table of one problem.

    Args:
        title: Its title.
        results: Records by image, by method.
        labels: What the methods are called.
        reference: The method that others are compared with.
    """
    columns = columns_of([record for records in results.values() for record in records.values()])
    rows = []
    compared = reference in results
    for method, records in results.items():
        values = [column.of(records) for column in columns]
        cells = [column.text(value) for column, value in zip(columns, values, strict=True)]
        difference = [paired(records, results[reference]) if method != reference else ""] if compared else []
        extra: list[float | None] = [None] * len(difference)
        counted = [str(len(records)), *cells[:1], *difference, *cells[1:]]
        rows.append(Row(labels.get(method, method), counted, [None, *values[:1], *extra, *values[1:]]))
    against = [f"PSNR less that of {labels.get(reference, reference)}, dB"] if compared else []
    titles = ["images", columns[0].title, *against, *(column.title for column in columns[1:])]
    better = ["", columns[0].better, *("" for _ in against), *(column.better for column in columns[1:])]
    notes = []
    if len({frozenset(records) for records in results.values()}) > 1:
        notes.append(
            "Not all methods have restored the same images: figures of different rows are means over different images, "
            "and only differences of PSNR, which are taken image by image, compare."
        )
    return Table(title, titles, rows, better, notes)


def paired(records: Records, others: Records) -> str:
    """The mean difference of PSNR on the images that two methods have both restored, and its standard error."""
    both = [name for name in records if name in others]
    differences = [records[name]["figures"]["psnr"] - others[name]["figures"]["psnr"] for name in both]
    if not differences:
        return "-"
    mean = statistics.fmean(differences)
    if len(differences) < 2:
        return f"{mean:+.2f}"
    return f"{mean:+.2f} ± {statistics.stdev(differences) / math.sqrt(len(differences)):.2f}"


def mean_over(results: Sequence[Records], column: Column) -> float | None:
    """The mean over problems of their means over images; None where a problem has none."""
    values = [column.of(records) for records in results]
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known and len(known) == len(values) else None


def markdown(table: Table) -> str:
    """The table in Markdown, the best figures in bold."""
    best = table.best()
    lines = [
        f"### {table.title}",
        "",
        f"| method | {' | '.join(table.columns)} |",
        f"|---|{'---:|' * len(table.columns)}",
    ]
    for i, row in enumerate(table.rows):
        cells = [f"**{cell}**" if i in best[k] else cell for k, cell in enumerate(row.cells)]
        lines.append(f"| {row.label} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"{note}\n" for note in table.notes)])


def latex(table: Table) -> str:
    """The table for LaTeX with the package booktabs, the best figures in bold."""
    best = table.best()
    head = " & ".join(["method", *map(_escaped, table.columns)])
    lines = [
        r"\begin{table}",
        rf"\caption{{{_escaped(table.title)}}}",
        rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
        r"\toprule",
        rf"{head} \\",
        r"\midrule",
    ]
    for i, row in enumerate(table.rows):
        cells = [rf"\textbf{{{_escaped(c)}}}" if i in best[k] else _escaped(c) for k, c in enumerate(row.cells)]
        lines.append(rf"{' & '.join([_escaped(row.label), *cells])} \\")
    notes = [rf"\par {_escaped(note)}" for note in table.notes]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", *notes, r"\end{table}", ""])


def _escaped(text: str) -> str:
    for plain, written in (("\\", r"\textbackslash "), ("&", r"\&"), ("%", r"\%"), ("_", r"\_"), ("#", r"\#")):
        text = text.replace(plain, written)
    return text.replace("±", r"$\pm$").replace("λ", r"$\lambda$")


def _made_with(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [record["made_with"] for record in records]
