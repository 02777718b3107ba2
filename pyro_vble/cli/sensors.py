"""Optical sensors of the commands (``--sensor``): which bands an image has of them, and what its numbers mean."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyro_vble.cli import options

if TYPE_CHECKING:
    from pyro_vble.cli.problems import Problem
    from pyro_vble.io.images import ImageFile

Sensor = Annotated[
    Path | None,
    typer.Option(
        parser=options.path_given,
        metavar="NAME|FILE",
        help="Optical sensor: a name (pleiades-like, sentinel2-like) or a YAML file of your own.",
    ),
]


def files_of_sensor(sensor: Any) -> list[Path]:
    """Files that a sensor's own file names, if it is one."""
    if not isinstance(sensor, Path) or not sensor.is_file():
        return []
    from pyro_vble.sensors import load_sensor

    return load_sensor(sensor).files


@dataclass(frozen=True)
class SensorBands:
    """Some bands of a sensor, in the order of an image's.

    Attributes:
        settings: The sensor, a :class:`~pyro_vble.sensors.SensorSettings`.
        names: Names of the bands; one may stand for all bands of an image.
    """

    settings: Any
    names: tuple[str, ...]

    @property
    def radiometry(self) -> Any:
        """What numbers of a file mean, a :class:`~pyro_vble.physics.Radiometry`."""
        return self.settings.radiometry_of(list(self.names))

    def physics(self, scale: int) -> Any:
        """The operator of images whose pixels are 1 / ``scale`` of the sensor's."""
        return self.settings.physics(scale, list(self.names))

    def is_held_by(self, dtype: Any) -> bool:
        """Whether numbers of a type reach half of the sensor's white: those that do not are hardly the sensor's."""
        import numpy as np

        if dtype.kind == "f":
            return True
        largest = np.full((len(self.names), 1, 1), np.iinfo(dtype).max, np.float64)
        return bool((self.radiometry.to_unit(largest) >= 0.5).all())


def sensor_bands(sensor: Path, described: Sequence[str | None], count: int, remedy: str) -> SensorBands:
    """The bands of a sensor that an image of so many bands has: those that it names, or else the sensor's all.

    Args:
        sensor: Name or file.
        described: What the image calls its bands, as far as it does.
        count: How many it has.
        remedy: What to do where they do not fit.

    Raises:
        ValueError: If there is no such sensor, or it has another number of bands and more than one.
    """
    from pyro_vble.sensors import load_sensor

    settings = load_sensor(sensor)
    names = list(settings.bands)
    chosen = [name for name in described if name in names]
    if len(chosen) != count:
        chosen = names
    if len(chosen) not in (1, count):
        raise ValueError(
            f"--sensor {sensor} has the bands {', '.join(names)}; received {count} bands without these names; {remedy}."
        )
    return SensorBands(settings, tuple(chosen))


def told_bands(sensor: Path | None, names: str | Sequence[str] | None, count: int) -> SensorBands:
    """The bands of a sensor that an image of so many has, where nothing is known of it but what the options say.

    Raises:
        ValueError: If there is no sensor, or it has other bands.
    """
    if sensor is None:
        raise ValueError("--problem sensor needs the sensor; pass --sensor, a name (pleiades-like) or a YAML file.")
    remedy = "say which these are with --sensor-bands"
    if names is None:
        return sensor_bands(sensor, (), count, remedy)
    named = [one.strip() for one in names.split(",")] if isinstance(names, str) else list(names)
    if len(named) not in (1, count):
        raise ValueError(
            f"--sensor-bands must name as many bands as the image has, {count}, or one for all; received "
            f"{', '.join(named)}."
        )
    found = sensor_bands(sensor, named, len(named), f"--sensor-bands says {', '.join(named)}; choose from the sensor's")
    return SensorBands(found.settings, tuple(named))


def read_sensed(
    problem: "Problem", path: Path, scale: float | None, nodata: float | None, *, measured: bool
) -> "tuple[Problem, ImageFile]":
    """An image in numbers of a sensor, as values in [0, 1], and the problem with the bands that it has.

    White is that of the sensor's numbers unless ``scale`` says otherwise, also in a file of floats. A truth that is no
    measurement and of a type that does not reach half of it, a photograph of 8 bits for example, has its own.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, or the sensor has other bands.
    """
    from pyro_vble.cli.words import warn
    from pyro_vble.io.images import read_image

    source = read_image(path, scale=1.0 if scale is None else scale, nodata=nodata)
    count, names = source.values.shape[1], problem.settings["sensor_bands"]
    if problem.settings["sensor"] is None or names is not None:
        bands = told_bands(problem.settings["sensor"], names, count)
    else:
        described = source.raster.descriptions if source.raster is not None else ()
        remedy = "name them in the file, or with --sensor-bands"
        bands = sensor_bands(problem.settings["sensor"], described, count, remedy)
    problem = problem.having(sensor_bands=bands.names)
    if scale is not None:
        return problem, source
    if not bands.is_held_by(source.dtype):
        if not measured:
            return problem, read_image(path, nodata=nodata)
        warn(
            f"numbers of {source.dtype} do not reach half of what is white for --sensor {problem.settings['sensor']}; "
            "if white is another number, pass --scale."
        )
    return problem, source.read_by(bands.radiometry)
