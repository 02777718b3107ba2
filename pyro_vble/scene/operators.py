"""Operators that measure any window of a scene."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch

from pyro_vble._arguments import brief
from pyro_vble.physics import describe

# Sides of the image on which the ratio of sizes is read off: a multiple of all ratios to 6, and of 8.
_SIDE = 480


class SceneOperator(ABC):
    """A forward operator for every size of image: what a tile of a scene is restored with.

    Attributes:
        ratio: Image pixels a measured pixel, along each side.
    """

    ratio: int

    @abstractmethod
    def physics(self, image_shape: tuple[int, int, int]) -> Any:
        """The operator with its noise for images (C, H, W), a ``deepinv.physics.Physics``."""

    @property
    @abstractmethod
    def words(self) -> str:
        """What it is, in words: a run that is resumed must have the same."""


class AnySize(SceneOperator):
    """One operator that takes images of any size, as most convolutions do."""

    def __init__(self, physics: Any, bands: int) -> None:
        self._physics = physics
        self.ratio = _ratio(self, bands)

    def physics(self, image_shape: tuple[int, int, int]) -> Any:
        """A copy of it: calls change deepinv's operators in place."""
        return copy.deepcopy(self._physics)

    @property
    def words(self) -> str:
        """What it is, in words."""
        return _words(self._physics)


class MadeForSize(SceneOperator):
    """A function from (C, H, W) to an operator, for operators that are told their size."""

    def __init__(self, make: Callable[[tuple[int, int, int]], Any], bands: int) -> None:
        self._make, self._bands = make, bands
        self.ratio = _ratio(self, bands)

    def physics(self, image_shape: tuple[int, int, int]) -> Any:
        """The operator that it makes."""
        return self._make(image_shape)

    @property
    def words(self) -> str:
        """What it is, in words."""
        return _words(self._make((self._bands, _SIDE, _SIDE)))


def _words(physics: Any) -> str:
    """An operator, its noise and its sensor, with their settings: paddings, bits, ..."""
    parts = {"": physics, "sensor": getattr(physics, "sensor_model", None)}
    settings = [
        f"{name} {key}={value}".strip()
        for name, part in parts.items()
        for key, value in sorted(getattr(part, "__dict__", {}).items())
        if isinstance(value, str | int | float) and not key.startswith("_") and key != "training"
    ]
    return "; ".join([describe(physics), *settings])


def scene_operator(physics: Any, bands: int) -> SceneOperator:
    """The operator of a scene, from an operator of any size or a function that makes one of a size.

    Args:
        physics: A ``deepinv.physics.Physics`` that takes images of any size, or a function (C, H, W) -> Physics.
        bands: Bands of the image.

    Raises:
        TypeError: If it is neither.
        ValueError: If A does not make images that are smaller by a whole number.

    Example:
        >>> import deepinv
        >>> from pyro_vble.scene.operators import scene_operator
        >>> blur = deepinv.physics.Blur(deepinv.physics.functional.gaussian_blur(sigma=(1.0, 1.0)), padding="reflect")
        >>> scene_operator(blur, 3).ratio
        1
    """
    if isinstance(physics, SceneOperator):
        return physics
    if callable(getattr(physics, "A", None)):
        return AnySize(physics, bands)
    if callable(physics) and not isinstance(physics, torch.nn.Module):
        return MadeForSize(physics, bands)
    raise TypeError(
        "physics must be a deepinv.physics.Physics that takes images of any size, or a function from (C, H, W) to one; "
        f"received {brief(physics)}; write lambda shape: deepinv.physics.Downsampling(img_size=shape, ...)."
    )


@torch.no_grad()
def _ratio(operator: SceneOperator, bands: int) -> int:
    shape = bands, _SIDE, _SIDE
    try:
        y = operator.physics(shape).A(torch.zeros(1, *shape))
    except Exception as error:  # an operator may refuse in any way
        raise ValueError(
            f"The operator of a scene must take images of any size; of {_SIDE}x{_SIDE} it says {type(error).__name__}: "
            f"{brief(str(error))}; pass a function from (C, H, W) to the operator."
        ) from error
    sides = set(y.shape[-2:]) if y.dim() == 4 else set()
    side = sides.pop() if len(sides) == 1 else 0
    if not side or y.shape[1] != bands or _SIDE % side:
        raise ValueError(
            "The operator of a scene must make an image of the same bands and a whole part of the size; received one "
            f"that makes {tuple(y.shape)} of {(1, *shape)}; choose a padding that keeps the size, as "
            'padding="reflect" does.'
        )
    return _SIDE // side
