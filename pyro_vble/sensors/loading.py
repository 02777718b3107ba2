"""Reading a sensor's file."""

import importlib.resources
import os
from pathlib import Path

from pydantic import ValidationError

from pyro_vble._arguments import PathName, brief, checked
from pyro_vble._extras import extra
from pyro_vble.io.validated import problems_of
from pyro_vble.io.yaml_files import plain_content
from pyro_vble.sensors.settings import SensorSettings


@checked
def load_sensor(name: PathName) -> SensorSettings:
    """Read a sensor: one that comes with the package by name, or a YAML file by path.

    Files of measured functions that it names are looked for beside it.

    Raises:
        ImportError: If PyYAML is not installed.
        ValueError: If there is no such sensor, it is no YAML, or a key in it is unknown, missing or impossible.

    Example:
        >>> from pyro_vble.sensors import load_sensor
        >>> physics = load_sensor("pleiades-like").physics(scale=2)
        >>> physics.scale, physics.noise_model
        (2, SignalDependentNoise())
    """
    path, name = Path(name), os.fspath(name)
    if name in sensor_names():
        content = (importlib.resources.files("pyro_vble.sensors") / f"{name}.yaml").read_bytes()
    elif path.is_file():
        content = path.read_bytes()
    else:
        raise ValueError(
            f"A sensor is one of {', '.join(sensor_names())}, or the path of a YAML file; received {brief(name)}."
        )
    with extra("geo"):
        import yaml
    plain = plain_content(yaml, content, f"The sensor {name}")
    try:
        return SensorSettings.model_validate(plain, context={"folder": path.parent})
    except (ValidationError, RecursionError) as error:
        problems = problems_of(error, "sensor") if isinstance(error, ValidationError) else "it refers to itself"
        raise ValueError(f"The sensor {name} cannot be used: {problems}.") from error


def sensor_names() -> list[str]:
    """Names of the sensors that come with the package.

    Example:
        >>> from pyro_vble.sensors import sensor_names
        >>> sensor_names()
        ['pleiades-like', 'sentinel2-like']
    """
    files = importlib.resources.files("pyro_vble.sensors").iterdir()
    return sorted(f.name.removesuffix(".yaml") for f in files if f.name.endswith(".yaml"))
