"""The guides by the names that the command line has for them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import typer

from pyro_vble.cli.options import Entry, given, option_name

# What a point estimate has no use for.
_OF_SPREAD = ("samples", "draws", "calibration", "linearised")


@dataclass(frozen=True)
class Guide(Entry):
    """A variational family.

    Attributes:
        family: Its class in ``pyro_vble.guides``.
        settings: Arguments of the class.
        spread: Whether it has samples and error bars.
        blame: Why it may leave a measurement unexplained; empty if it has no reason of its own.
    """

    family: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    spread: bool = True
    blame: str = ""

    def load(self) -> Callable:
        """The guide as ``restore`` takes it."""
        from pyro_vble import guides

        return partial(getattr(guides, self.family), **self.settings)

    def refuse_unused(self, context: typer.Context) -> None:
        """Refuse options that were given and would be ignored.

        Raises:
            ValueError: If there is one.
        """
        for name in () if self.spread else _OF_SPREAD:
            if name in given(context):
                raise ValueError(
                    f"--guide {self} is one image without samples and error bars; received {option_name(name)}, which "
                    "belongs to those; leave it out, or choose another guide."
                )


_BOUND = "detail beyond the prior's decoder, which --guide vble-xz-free has room for"

#: The guides, each under its name.
GUIDES: dict[str, Guide] = {
    guide.name: guide
    for guide in (
        Guide(
            "vble",
            "the fastest; its error bars know only of what the prior can draw, and are the shortest",
            "VBLE",
            blame=_BOUND,
        ),
        Guide("vble-xz", "error bars also for detail that the prior cannot draw", "VBLExz", blame=_BOUND),
        Guide(
            "vble-xz-free",
            "recommended: the same, and the restored image itself may have such detail",
            "VBLExz",
            {"free_mean": True},
        ),
        Guide(
            "vble-xz-correlated",
            "the same with wider error bars, for wide blur and enlargement",
            "VBLExz",
            {"family": "correlated", "free_mean": True},
        ),
        Guide("map-z", "one image, without error bars or samples", "MAPz", spread=False, blame=_BOUND),
    )
}
