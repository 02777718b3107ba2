"""The report of a folder of results: tables in Markdown and LaTeX, figures, and what made them."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyro_vble._arguments import PathName, checked
from pyro_vble._extras import extra
from pyro_vble.benchmark.figures import frontier, sampling, strips
from pyro_vble.benchmark.perceptual import NAMES
from pyro_vble.benchmark.published import PublishedTable, published_tables
from pyro_vble.benchmark.records import Place, check_comparable, read_pictures, read_records
from pyro_vble.benchmark.settings import Benchmark
from pyro_vble.benchmark.tables import (
    Records,
    Row,
    Table,
    columns_of,
    latex,
    markdown,
    mean_over,
    problem_table,
)
from pyro_vble.io.atomic import atomic_path

SETTINGS = "settings.json"


@dataclass(frozen=True)
class Results:
    """The results of one benchmark.

    Attributes:
        folder: Of all results.
        benchmark: The settings of the run.
        records: Records by image, by method, by problem, in the order of the settings.
    """

    folder: Path
    benchmark: Benchmark
    records: dict[str, dict[str, Records]]

    @property
    def labels(self) -> dict[str, str]:
        """What the methods are called."""
        return {name: method.label for name, method in self.benchmark.methods.items()}

    @property
    def everything(self) -> list[dict[str, Any]]:
        """All records."""
        return [r for methods in self.records.values() for records in methods.values() for r in records.values()]

    def over_problems(self, method: str, problems: Iterable[str]) -> list[Records]:
        """The records of a method, of each of some problems that it was run on."""
        return [self.records[one][method] for one in problems if method in self.records.get(one, {})]


def write_settings(folder: Path, benchmark: Benchmark) -> None:
    """Write a run's settings where its report finds them, with the methods and problems of earlier ones."""
    path = folder / benchmark.name / SETTINGS
    content = benchmark.plain()
    if path.is_file():
        earlier = json.loads(path.read_text())
        for key in ("methods", "problems"):
            content[key] = earlier[key] | content[key]
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


@checked
def read_results(folder: PathName) -> list[Results]:
    """All results of a folder, by benchmark.

    Raises:
        ValueError: If there are none, or those of one benchmark cannot stand in one table.
    """
    folder, found = Path(folder), []
    everything = list(read_records(folder))
    for path in sorted(folder.glob(f"*/{SETTINGS}")):
        benchmark = Benchmark.model_validate(json.loads(path.read_text()))
        own = [record for record in everything if record["benchmark"] == benchmark.name]
        check_comparable((record["problem"], record["image"], record["made_with"]) for record in own)
        records: dict[str, dict[str, Records]] = {}
        for problem in benchmark.problems:
            methods = {name: _by_image(own, problem, name) for name in benchmark.methods}
            if any(methods.values()):
                records[problem] = {name: images for name, images in methods.items() if images}
        if records:
            found.append(Results(folder, benchmark, records))
    if not found:
        raise ValueError(f"There are no results in {folder}; pyro-vble benchmark bsd --output {folder} makes some.")
    return found


@checked
def write_report(folder: PathName, output: PathName | None = None) -> list[Path]:
    """Write tables and figures of the results in a folder; returns the paths.

    Args:
        folder: Where a benchmark has put its results.
        output: Where to write; by default ``folder/report``.

    Raises:
        ValueError: If there are no results.
    """
    target = Path(folder) / "report" if output is None else Path(output)
    paths = []
    for results in read_results(folder):
        name = results.benchmark.name
        tables = [*_problem_tables(results), *_published_tables(results)]
        figures = _write_figures(results, target)
        text = [f"# {results.benchmark.title}", "", _provenance(results), ""]
        text += [markdown(table) for table in tables]
        text += [f"![{title}]({path.relative_to(target)})\n\n*{title}*\n" for path, title in figures]
        text += ["## Settings", "", "```yaml", _yaml(results.benchmark.plain()), "```", ""]
        written = {f"{name}.md": "\n".join(text), f"{name}.tex": "\n".join(map(latex, tables))}
        for file, content in written.items():
            with atomic_path(target / file) as temporary:
                temporary.write_text(content)
            paths.append(target / file)
        paths += [path for path, _ in figures]
    return paths


def _by_image(records: list[dict[str, Any]], problem: str, method: str) -> Records:
    return {r["image"]: r for r in records if r["problem"] == problem and r["method"] == method}


def _problem_tables(results: Results) -> list[Table]:
    benchmark = results.benchmark
    return [
        problem_table(benchmark.problems[problem].label, methods, results.labels, benchmark.reference)
        for problem, methods in results.records.items()
    ]


def _published_tables(results: Results) -> list[Table]:
    """Ours beside theirs, where any of the problems was run."""
    found = []
    for table in published_tables(results.benchmark.name):
        run = [problem for problem in table.problems if problem in results.records]
        if run:
            found.append(_beside(results, table, run))
    return found


def _beside(results: Results, table: PublishedTable, problems: list[str]) -> Table:
    columns = {column.key: column for column in columns_of(results.everything)}
    compared = [columns["psnr"]]
    if "lpips" in columns:
        compared.append(columns["lpips"])
    if any(row.seconds_samples is not None for row in table.rows):
        compared.append(columns["seconds_samples"])
    theirs_of = {"lpips": f"LPIPS ({NAMES[table.lpips]})"}
    titles = [t for c in compared for t in (f"{theirs_of.get(c.key, c.title)}, published", f"{c.title}, ours")]
    rows = []
    for row in table.rows:
        records = results.over_problems(row.method, problems)
        complete = len(records) == len(problems)
        cells = []
        for column in compared:
            cells += [column.text(getattr(row, column.key))]
            cells += [column.text(mean_over(records, column) if complete else None)]
        rows.append(Row(row.label, cells, [None] * len(cells)))
    names = ", ".join(results.benchmark.problems[one].label for one in problems)
    notes = [f"Published: {table.source}.", f"Ours: the mean over {names}.", "Why they differ:"]
    notes[-1] += "".join(f"\n- {difference}" for difference in table.differences)
    return Table(f"Beside the published figures. {table.title}", titles, rows, [""] * len(titles), notes)


def _provenance(results: Results) -> str:
    """What made the results, in a few lines."""
    about = [record["about"] for record in results.everything]
    told = {
        "machine": "Machine",
        "prior": "Prior",
        "denoiser": "Denoiser",
        "torch": "PyTorch",
        "pyro_vble": "pyro-vble",
    }
    lines = []
    for key, name in told.items():
        values = sorted({str(one[key]) for one in about if key in one})
        if values:
            lines.append(f"- {name}: {', '.join(values)}")
    images = {record["image"] for record in results.everything}
    lines.append(f"- Images: {len(images)}, the middle {results.benchmark.crop}x{results.benchmark.crop} pixels")
    return "\n".join(lines) + (
        "\n\nFigures are means over images, times medians. Estimates are clipped to [0, 1]; the border of "
        f"{results.benchmark.border} pixels is left out. The time of samples includes the restoration. Of methods that "
        "give no error bars, CRPS is the mean absolute error. Coverage should be what the interval claims; of "
        "the other figures the best is in bold."
    )


def _write_figures(results: Results, target: Path) -> list[tuple[Path, str]]:
    written, name = [], results.benchmark.name
    for problem, methods in results.records.items():
        label = results.benchmark.problems[problem].label
        for image in sorted({image for records in methods.values() for image in records}):
            place = Place(results.folder, name, problem, image)
            given = read_pictures(place.measurement)
            shown = {
                results.labels[one]: (methods[one][image], read_pictures(place.pictures(one)))
                for one in methods
                if image in methods[one]
            }
            pictured = {label: (record, found) for label, (record, found) in shown.items() if found is not None}
            if given is None or not pictured:
                continue
            path = target / f"{name}-{problem}-{Path(image).stem}.png"
            strips(path, given, pictured, title=f"{label}: {image}")
            written.append((path, f"{label}: {image}"))
            if name == "satellite":
                path = path.with_name(f"{path.stem}-samples.png")
                if sampling(path, given, pictured, title=f"{label}: {image}"):
                    written.append((path, f"{label}: samples, {image}"))
    path = target / f"{name}-frontier.png"
    means = {
        results.labels[method]: [
            mean_over(records, column) for column in columns_of(results.everything) if column.key in ("psnr", "seconds")
        ]
        for method in results.benchmark.methods
        if len(records := results.over_problems(method, results.records)) == len(results.records)
    }
    if frontier(path, means):
        written.append((path, "Accuracy against time, means over the problems of this report"))
    return written


def _yaml(content: dict[str, Any]) -> str:
    with extra("benchmark"):
        import yaml
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110).rstrip()
