"""Making one measurement of several."""

from collections.abc import Sequence
from typing import Any

import torch
from deepinv.physics import LinearPhysics
from torch import Tensor

from pyro_vble._arguments import ImageShape, brief, checked
from pyro_vble.physics.joint import Jointly, LinearJointly
from pyro_vble.physics.operators import check_image_shape, image_shape_of, operator_on


@checked
def jointly(operators: Any, image_shape: ImageShape) -> Jointly:
    r"""The operator of several measurements of images of this shape, :math:`A(x) = (A_1(x), \dots, A_K(x))` in a row.

    Args:
        operators: The operators, a list, each with its noise model; or a deepinv ``StackedPhysics``.
        image_shape: (C, H, W).

    Raises:
        TypeError: If one of them has no method ``A``.
        ValueError: If there is none, or one of them does not measure such images.

    Example:
        >>> import torch
        >>> from deepinv.physics import Denoising, Downsampling, GaussianNoise
        >>> from pyro_vble.physics import jointly
        >>> coarse = Downsampling(img_size=(3, 32, 32), filter="bicubic", factor=2, noise_model=GaussianNoise(0.01))
        >>> physics = jointly([Denoising(GaussianNoise(0.1)), coarse], (3, 32, 32))
        >>> y = physics(torch.rand(2, 3, 32, 32))
        >>> y.shape, [tuple(part.shape) for part in physics.split(y)]
        (torch.Size([2, 3840]), [(2, 3, 32, 32), (2, 3, 16, 16)])
    """
    operators = _operators(operators)
    return _made(operators, [_measured_shape(one, image_shape) for one in operators], image_shape)


@checked
def joined(measurements: Any, operators: Any, image_shape: ImageShape | None = None) -> tuple[Tensor, Jointly]:
    r"""Several measurements of one image as one measurement and its operator: :math:`p(y|x) = \prod_k p_k(y_k|x)`.

    ``restore`` joins lists of them by itself.

    Args:
        measurements: One of each operator, each (B, ...) of the same batch; NaN where unobserved. A list, or deepinv's
            ``TensorList``.
        operators: The operators, a list, each with its noise model; or a ``StackedPhysics``, or what :func:`jointly`
            makes.
        image_shape: (C, H, W) of the image, where it can be read off no operator.

    Returns:
        The measurement (B, n), and the operator.

    Raises:
        TypeError: If a measurement is no tensor, or an operator has no method ``A``.
        ValueError: If there is not one operator for each, they have different batches or devices, or they are not
            measurements of images of one shape.

    Example:
        >>> import torch
        >>> from deepinv.physics import Denoising, GaussianNoise
        >>> from pyro_vble.physics import joined
        >>> exposures = [Denoising(GaussianNoise(0.1)), Denoising(GaussianNoise(0.02))]
        >>> y, physics = joined([torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8)], exposures)
        >>> y.shape
        torch.Size([1, 384])
    """
    measurements, operators = list(measurements), _operators(operators)
    if len(measurements) != len(operators):
        raise ValueError(
            f"Several measurements need an operator each; received {len(measurements)} measurements and "
            f"{len(operators)} operators; pass restore([y_1, y_2], [physics_1, physics_2], prior)."
        )
    for y in measurements:
        if not isinstance(y, Tensor) or not y.is_floating_point() or y.dim() < 2:
            raise TypeError(
                f"Every measurement must be a floating-point tensor (B, ...) on the scale [0, 1]; received {brief(y)}; "
                "divide integers by their largest value."
            )
    batches, devices = {len(y) for y in measurements}, {y.device for y in measurements}
    if len(batches) > 1 or len(devices) > 1:
        raise ValueError(
            "Several measurements must be of one batch of images and on one device; received batches of "
            f"{', '.join(str(len(y)) for y in measurements)} on {', '.join(sorted(map(str, devices)))}; call restore "
            "for each image."
        )
    # Asked of copies: an operator in another data type, or elsewhere, is moved when it is used, not here.
    there = [operator_on(one, y.device, y.dtype) for y, one in zip(measurements, operators, strict=True)]
    if image_shape is None:
        image_shape = _common_image_shape(measurements, there)
    else:
        for y, one in zip(measurements, there, strict=True):
            check_image_shape(one, y, image_shape)
    physics = _made(operators, [tuple(y.shape[1:]) for y in measurements], image_shape)
    return physics.join(measurements), physics


def _operators(operators: Any) -> list[Any]:
    """The operators of a list, of what deepinv has stacked, or of what is joined already."""
    several = getattr(operators, "physics_list", operators)
    if not isinstance(several, Sequence) or isinstance(several, str) or not len(several):
        raise TypeError(
            "operators must be a list of operators, one for each measurement; received "
            f"{brief(operators)}; pass [physics_1, physics_2]."
        )
    for one in several:
        if not callable(getattr(one, "A", None)):
            raise TypeError(f"Every operator must have a method A(x); received {brief(one)}.")
    return list(several)


def _made(operators: list[Any], shapes: list[tuple[int, ...]], image_shape: tuple[int, int, int]) -> Jointly:
    linear = all(isinstance(one, LinearPhysics) for one in operators)
    return (LinearJointly if linear else Jointly)(operators, shapes, image_shape)


def _common_image_shape(measurements: list[Tensor], operators: list[Any]) -> tuple[int, int, int]:
    """The shape of images that all of them measure.

    Raises:
        ValueError: If there is none.
    """
    refused = []
    for y, one in zip(measurements, operators, strict=True):
        try:
            shape = image_shape_of(one, y)
            for other, by in zip(measurements, operators, strict=True):
                check_image_shape(by, other, shape)
            return shape
        except ValueError as error:
            refused.append(str(error))
    raise ValueError(
        "Several measurements must be of images of one shape; of the operators none tells one that all measure: "
        f"{refused[0]}"
    )


@torch.no_grad()
def _measured_shape(operator: Any, image_shape: tuple[int, int, int]) -> tuple[int, ...]:
    try:
        there = operator_on(operator, torch.device("cpu"), torch.float32)
        return tuple(there.A(torch.zeros(1, *image_shape)).shape[1:])
    except Exception as error:  # an operator may refuse in any way
        raise ValueError(
            f"Every operator must measure images of shape {image_shape}; {type(operator).__name__} gives "
            f"{type(error).__name__}: {error}; check image_shape."
        ) from error
