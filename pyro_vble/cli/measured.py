"""What a command restores, once it is read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Measured:
    """A measurement of a command, as ``restore`` takes it.

    Attributes:
        y: The measurement.
        physics: Its operator.
        source: The image file whose type, grid and georeference results have.
        missing: Pixels (1, C, H, W) of the image in which something is missing.
        estimated: Settings of the problem that were not told, and were estimated, by their names.
    """

    y: Any
    physics: Any
    source: Any
    missing: Any
    estimated: Mapping[str, Any] = field(default_factory=dict)
