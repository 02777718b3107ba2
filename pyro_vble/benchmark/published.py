"""What the papers report, to stand beside what is measured."""

import importlib.resources

from pydantic import Field, TypeAdapter

from pyro_vble._extras import extra
from pyro_vble.benchmark.problems import Plain
from pyro_vble.io.yaml_files import plain_content

_OWN = "published.yaml"


class PublishedRow(Plain):
    """A published row.

    Attributes:
        label: What the paper calls the method.
        method: Our method to compare with.
        psnr: In dB.
        lpips: LPIPS.
        seconds_samples: Seconds until 100 samples are there.
    """

    label: str
    method: str
    psnr: float
    lpips: float | None = None
    seconds_samples: float | None = None


class PublishedTable(Plain):
    """A published table.

    Attributes:
        title: Its title.
        source: Where it is from.
        problems: Our problems whose mean stands beside it.
        lpips: The network of its LPIPS.
        rows: Its rows.
        differences: Why ours differ.
    """

    title: str
    source: str
    problems: list[str] = Field(min_length=1)
    lpips: str
    rows: list[PublishedRow] = Field(min_length=1)
    differences: list[str]


def published_tables(benchmark: str) -> list[PublishedTable]:
    """The tables to stand beside a benchmark; none for one of the user's own.

    Example:
        >>> from pyro_vble.benchmark.published import published_tables
        >>> [row.label for row in published_tables("bsd")[0].rows]
        ['DPIR', 'DiffPIR', 'PnP-ULA', 'VBLE']
    """
    with extra("benchmark"):
        import yaml
    content = (importlib.resources.files("pyro_vble.benchmark") / _OWN).read_bytes()
    plain = plain_content(yaml, content, _OWN)
    return TypeAdapter(list[PublishedTable]).validate_python(plain.get(benchmark, []))
