"""What happened to a scene: the sensor, or the blur, of ``pyro-vble scene``."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from pyro_vble.cli import options
from pyro_vble.cli.problems import PROBLEMS, BlurSigma, Kernel
from pyro_vble.cli.sensors import Sensor, sensor_bands

# Windows on which the noise is estimated, along each side of the scene, and pixels of a side of each.
_LOOKS, _LOOK = 3, 512


@dataclass(frozen=True)
class Forward:
    """What happened to the scene: a sensor, or a blur, an enlargement and a noise level."""

    sensor: Sensor = None
    scale: Annotated[int, typer.Option(min=1, max=8, help="Enlargement: 2 restores on a grid twice as fine.")] = 1
    blur_sigma: BlurSigma | None = None
    kernel: Kernel = None
    noise: options.Noise = None
    white: Annotated[
        float | None,
        typer.Option(
            callback=options.positive,
            help="Pixel value of white, e.g. 4095 for 12-bit data; by default that of --sensor, or the type's largest.",
        ),
    ] = None


def radiometry_and_physics(forward: Forward, source: Any, given: set[str]) -> tuple[Any, Any]:
    """Radiometry and operator of a sensor, or of what the options say.

    Raises:
        ValueError: If options exclude each other, or the sensor has other bands.
    """
    if forward.sensor is not None:
        own = given & {"blur_sigma", "kernel", "noise"}
        if own:
            raise ValueError(
                f"--sensor says what blur and noise are; received {' and '.join(map(options.option_name, sorted(own)))}"
                " too; leave them out, or write a sensor's file of your own."
            )
        return _of_sensor(forward.sensor, forward, source)
    if forward.blur_sigma is not None and forward.kernel is not None:
        raise ValueError("--kernel stands in place of --blur-sigma; received both; leave one out.")
    blurred = forward.blur_sigma is not None or forward.kernel is not None
    if blurred and forward.scale > 1:
        raise ValueError(
            f"A blur and --scale {forward.scale} together need a sensor's file (--sensor FILE); received "
            "--blur-sigma or --kernel; write one, with its MTF at Nyquist."
        )
    from pyro_vble.scene.restoration import default_radiometry

    radiometry = default_radiometry(source.dtype, forward.white)
    noise = _estimated_noise(source, radiometry) if forward.noise is None else forward.noise
    return radiometry, _physics(forward, noise, source.shape[0])


def _of_sensor(sensor: Path, forward: Forward, source: Any) -> tuple[Any, Any]:
    if forward.white is not None:
        raise ValueError("--sensor says what white is; received --white too; leave it out.")
    described = source.raster.descriptions if source.raster is not None else ()
    remedy = "choose some with --bands, or name them in the file"
    bands = sensor_bands(sensor, described, source.shape[0], remedy)
    return bands.radiometry, bands.physics(forward.scale)


def _physics(forward: Forward, noise: float, bands: int) -> Any:
    """The operator of what the options say."""
    from pyro_vble.cli.any_size import physics_of_any_size

    blur = {"blur_sigma": forward.blur_sigma, "kernel": forward.kernel}
    given = {name: value for name, value in blur.items() if value is not None}
    if forward.scale > 1:
        problem = PROBLEMS["super-resolve"].having(factor=forward.scale)
    else:
        problem = PROBLEMS["deblur"].having(**given) if given else PROBLEMS["denoise"]
    return physics_of_any_size(problem, noise, bands)


def _estimated_noise(source: Any, radiometry: Any) -> float:
    """The median of noise levels of windows over the scene."""
    import numpy as np
    import torch

    from pyro_vble.cli.noise import estimated_noise
    from pyro_vble.cli.words import say
    from pyro_vble.io.images import unit_step
    from pyro_vble.io.photographs import jpeg_error_of

    # What a file's numbers are rounded to, and JPEG's errors, are seen as less noise than they are.
    step = unit_step(radiometry, source.shape[0]) if source.dtype.kind in "ui" else 0.0
    floors = {"quantisation": step / math.sqrt(12), "jpeg": jpeg_error_of(Path(source.name))}
    found = []
    _, height, width = source.shape
    for row in range(_LOOKS):
        for column in range(_LOOKS):
            top = max(0, (2 * row + 1) * height // (2 * _LOOKS) - _LOOK // 2)
            left = max(0, (2 * column + 1) * width // (2 * _LOOKS) - _LOOK // 2)
            rows, columns = slice(top, min(top + _LOOK, height)), slice(left, min(left + _LOOK, width))
            y = np.asarray(radiometry.to_unit(source.read(rows, columns)), np.float32)
            if np.isfinite(y).mean() > 0.5:
                found.append(estimated_noise(torch.from_numpy(y)[None], **floors))
    if not found:
        raise ValueError("A noise level cannot be estimated where most pixels are missing; pass --noise.")
    middle = sorted(found, key=lambda one: one.level)[len(found) // 2]
    parts = f"{len(found)} parts of the scene"
    say(f"Noise level estimated from {parts}: {middle.level:.4g}, {middle.reason} (set it with --noise).")
    return middle.level
