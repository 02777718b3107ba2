"""What every worker of a scene is told."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from pyro_vble.models import Prior
from pyro_vble.scene.grid import Grid, Window
from pyro_vble.scene.operators import SceneOperator
from pyro_vble.scene.store import Store


class Measured(Protocol):
    """Where a scene is read from."""

    shape: tuple[int, int, int]
    dtype: np.dtype
    raster: Any

    def fingerprint(self) -> str:
        """What tells whether it is still the one that a run began with."""
        ...

    def read(self, rows: slice, columns: slice) -> np.ndarray:
        """Measured values (C, h, w) in numbers of the file, NaN where there are none."""
        ...


class Radiometric(Protocol):
    """How numbers of a file become values of an image, and back."""

    def to_unit(self, values: Any) -> Any:
        """From numbers of the file to [0, 1]."""
        ...

    def from_unit(self, x: Any, dtype: Any = None) -> Any:
        """From [0, 1] to numbers of the file, as a data type or as they are."""
        ...


@dataclass(frozen=True)
class Job:
    """A scene to be restored, in pieces that workers can do alone.

    Attributes:
        store: Folder of the scene.
        source: Where it is read from.
        radiometry: From its numbers to [0, 1].
        operator: The forward operator, of any size.
        guide: What makes the guide, (model, y) -> guide.
        options: Further options of ``restore``: quality, num_steps, ...
        grid: How the restored scene is cut.
        reach: Latents on either side that a decoded pixel depends on.
        margin: Image pixels on either side that a measured value depends on.
        seed: Seed of fits and samples.
        samples: Samples behind every statistic.
        kept_samples: How many of them are written too.
        probability: Of intervals.
        fill: Whether missing pixels are filled in.
        calibration: A :class:`~pyro_vble.diagnostics.Calibration` of intervals, or None.
    """

    store: str
    source: Measured
    radiometry: Radiometric
    operator: SceneOperator
    guide: Callable
    grid: Grid
    reach: int
    margin: int
    seed: int
    options: dict[str, Any] = field(default_factory=dict)
    samples: int = 100
    kept_samples: int = 0
    probability: float = 0.9
    fill: bool = False
    calibration: Any = None

    @property
    def bands(self) -> int:
        """Bands of the scene."""
        return self.source.shape[0]

    def measurement(self, window: Window) -> np.ndarray:
        """What was measured of a window of the image, (C, h, w) in [0, 1], NaN where it is missing."""
        ratio = self.operator.ratio
        measured = Window(*(side // ratio for side in window))
        return np.asarray(self.radiometry.to_unit(self.source.read(*measured.slices)), np.float32)

    def numbers(self, x: np.ndarray) -> np.ndarray:
        """Values of an image in numbers of the file, not rounded."""
        return np.asarray(self.radiometry.from_unit(x, np.float32), np.float32)

    def missing(self, window: Window) -> np.ndarray:
        """Pixels of a window of the image (C, h, w) whose measurement is missing."""
        absent = np.isnan(self.measurement(window))
        return absent.repeat(self.operator.ratio, 1).repeat(self.operator.ratio, 2)


def prior_of(store: str) -> Prior:
    """The prior of a scene; a process loads it once."""
    path = Store(store).prior
    told = path.stat()
    # Another scene may have taken the place of one that was removed.
    return _loaded(str(path), told.st_ino, told.st_mtime_ns, Store(store).about["rate_scale"])


@lru_cache(maxsize=2)
def _loaded(path: str, file: int, written: int, rate_scale: float) -> Prior:
    from pyro_vble.io.priors import load_prior

    prior = load_prior(path)
    return prior if rate_scale == 1 else prior.with_rate_scale(rate_scale)
