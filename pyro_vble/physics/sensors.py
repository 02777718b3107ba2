"""Sensors that saturate or quantise: what ``physics.sensor_model`` does to a measurement, read off the function."""

import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Far beyond any signal: what a sensor returns there is where it saturates.
_FAR = 1e6
# Windows in which steps are looked for, from counts to 16 bits: widths, and how many points each has.
_WINDOWS, _POINTS = (256.0, 4.0, 2**-4, 2**-10), 4097
_MIDDLE = 0.3713
_EXACT = 1e-6
# How far from a threshold a point must lie, in steps, for rounding to be sure.
_SURE = 0.02


@dataclass(frozen=True)
class Sensor:
    """A sensor that clips to a range and rounds to steps.

    Attributes:
        low: Smallest value that it returns; -inf if there is none.
        high: Largest value.
        step: Distance of the values it returns; 0 if it returns all.
        shift: How far the middle of what is rounded to a value lies above it: half a step for one that cuts off.
    """

    low: float = -math.inf
    high: float = math.inf
    step: float = 0.0
    shift: float = 0.0

    @property
    def is_ideal(self) -> bool:
        """Whether it returns what it is given."""
        return self == Sensor()


_known: "weakref.WeakKeyDictionary[Any, Sensor]" = weakref.WeakKeyDictionary()


def sensor_of(physics: Any) -> Sensor:
    """What the operator's ``sensor_model`` does to a measurement.

    A function that says so itself, by an attribute ``sensor``, is believed. Others, as deepinv's are of any kind, are
    tried on values from -1e6 to 1e6: saturation, rounding to evenly spaced values, and both are recognised.

    Raises:
        TypeError: If it does something else, or not the same to each value alone.
    """
    model = getattr(physics, "sensor_model", None)
    if model is None:
        return Sensor()
    told = getattr(model, "sensor", None)
    if isinstance(told, Sensor):
        return told
    try:
        if model in _known:
            return _known[model]
    except TypeError:  # what has no hash, or no weak references, is looked at every time
        return _recognised(model)
    found = _known[model] = _recognised(model)
    return found


@torch.no_grad()
def _recognised(model: Callable[[Tensor], Tensor]) -> Sensor:
    far = torch.tensor([-_FAR, _FAR], dtype=torch.float64)
    low, high = (_bound(value, end) for value, end in zip(_sensed(model, far).tolist(), far.tolist(), strict=True))
    if not low < high:
        raise _unknown("it returns one value whatever it is given")
    grids = [_MIDDLE + width * torch.linspace(-0.5, 0.5, _POINTS, dtype=torch.float64) for width in _WINDOWS]
    values = [(grid, _sensed(model, grid)) for grid in grids]
    for grid, sensed in values:
        if bool((sensed != _sensed(model, grid)).any()):
            raise _unknown("it returns something else each time")
    candidates = [Sensor(low, high), *(_stepped(low, high, grid, sensed) for grid, sensed in values)]
    for sensor in candidates:
        if sensor is not None and all(_agrees(sensor, grid, sensed) for grid, sensed in values):
            return sensor
    raise _unknown("it neither clips nor rounds to evenly spaced values")


def _sensed(model: Callable[[Tensor], Tensor], grid: Tensor) -> Tensor:
    try:
        found = model(grid.clone())
    except Exception as error:  # a function of the user's may refuse in any way
        raise _unknown(f"on single values it fails with {type(error).__name__}: {error}") from error
    if not isinstance(found, Tensor) or found.shape != grid.shape or bool(found.isnan().any()):
        raise _unknown("of single values it does not return as many")
    return found.double()


def _bound(value: float, end: float) -> float:
    """Where it saturates, or that end of the real line."""
    return math.copysign(math.inf, end) if abs(value - end) < 1e-3 * abs(end) else value


def _stepped(low: float, high: float, grid: Tensor, sensed: Tensor) -> Sensor | None:
    """The rounding sensor that explains one window, if it shows at least two whole steps."""
    inside = (sensed > low) & (sensed < high)
    levels = sensed[inside].unique()
    if len(levels) > 1:  # numbers that differ by rounding alone are one
        apart = levels.diff()
        levels = levels[torch.cat((apart.new_ones(1, dtype=torch.bool), apart > _EXACT * apart.amax()))]
    if len(levels) < 3 or len(levels) > _POINTS // 8:
        return None
    step = float((levels[-1] - levels[0]) / (len(levels) - 1))
    whole = inside & (sensed > levels[0]) & (sensed < levels[-1])
    off = float((grid - sensed)[whole].mean()) / step  # 0 where it rounds, 1/2 where it cuts off
    return Sensor(low, high, step, round(2 * off) / 2 * step)


def _agrees(sensor: Sensor, grid: Tensor, sensed: Tensor) -> bool:
    expected, sure = grid, torch.ones_like(grid, dtype=torch.bool)
    if sensor.step:
        within = sensed[(sensed > sensor.low) & (sensed < sensor.high)]
        origin = float(within[0]) if len(within) else 0.0
        place = (grid - sensor.shift - origin) / sensor.step
        expected = place.round() * sensor.step + origin
        sure = ((place - place.round()).abs() - 0.5).abs() > _SURE
        # The last step below saturation may be a part of one.
        sure &= (grid > sensor.low + 2 * sensor.step) & (grid < sensor.high - 2 * sensor.step) | (sensed == expected)
        sure |= (grid < sensor.low - sensor.step) | (grid > sensor.high + sensor.step)
    expected = expected.clamp(sensor.low, sensor.high)
    tolerance = _EXACT * grid.abs().clamp_min(1.0) + 1e-3 * sensor.step
    return bool(((sensed - expected).abs() <= tolerance)[sure].all())


def _unknown(reason: str) -> TypeError:
    return TypeError(
        "physics.sensor_model must be a function whose likelihood is known: clipping (torch.clamp), rounding to evenly "
        f"spaced values, or both, of each value alone; received one of which {reason}; undo it in y, mark the values "
        "that it spoilt as NaN, and set physics.sensor_model = lambda x: x."
    )
