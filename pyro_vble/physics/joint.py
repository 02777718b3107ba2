"""Several measurements of one image as one: the likelihood is the product of theirs."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from deepinv.physics import LinearPhysics, Physics
from deepinv.physics.noise import NoiseModel
from torch import Tensor, nn

from pyro_vble.physics.arguments import arguments_of


class Jointly(Physics):
    r"""Several measurements of one image in a row, each with its own operator, noise and sensor.

    .. math:: A(x) = \big(A_1(x), \dots, A_K(x)\big), \qquad p(y|x) = \prod_k p_k(y_k|x)

    The measurement is one tensor (B, n), n the number of all values, so that it goes wherever a measurement goes:
    :meth:`join` makes it, :meth:`split` takes it apart. Missing values (NaN), masks, noise that depends on the signal
    and sensors that clip stay those of each part.

    Parameters that are inferred: an argument of A goes to every operator that names it, and ``"sigma_1"`` is the
    ``sigma`` of the second noise model.

    :func:`joined` and :func:`jointly` make it, as a ``LinearPhysics`` where every operator is one.

    Args:
        operators: The operators, each with a noise model.
        shapes: Shape of each one's measurement of one image, without the batch.
        image_shape: (C, H, W) of the image, where it is known.
    """

    def __init__(
        self,
        operators: Sequence[Any],
        shapes: Sequence[Sequence[int]],
        image_shape: tuple[int, int, int] | None = None,
    ) -> None:
        super().__init__(noise_model=JointNoise(operators, shapes))
        #: The operators, in order.
        self.physics_list = tuple(operators)
        #: Shapes of their measurements of one image.
        self.shapes = tuple(map(tuple, shapes))
        self.img_size = image_shape
        # Their filters go where this operator goes; an operator of the user's may be no module.
        self._modules_of_parts = nn.ModuleList([one for one in operators if isinstance(one, nn.Module)])

    def __len__(self) -> int:
        """How many measurements there are."""
        return len(self.physics_list)

    def A(self, x: Tensor, **arguments: Any) -> Tensor:
        """The noiseless measurements (B, n) of images (B, C, H, W)."""
        return self.join([one.A(x, **_named(one, arguments)) for one in self.physics_list])

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Measurements (*, *shape), one of each operator, as one (*, n)."""
        return join(parts, self.shapes)

    def split(self, y: Tensor) -> list[Tensor]:
        """A measurement (*, n) as those of each operator, (*, *shape)."""
        return split(y, self.shapes)

    def parameters_of(self, part: int, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those of some parameters that one operator and its noise have, by their names there."""
        return _parameters_of(self.physics_list[part], part, parameters)


class LinearJointly(Jointly, LinearPhysics):
    r"""Measurements by linear operators: :math:`A^T y = \sum_k A_k^T y_k`."""

    def A_adjoint(self, y: Tensor, **arguments: Any) -> Tensor:
        """The adjoint of A, (B, C, H, W)."""
        parts = zip(self.physics_list, self.split(y), strict=True)
        return torch.stack([one.A_adjoint(part, **_named(one, arguments)) for one, part in parts]).sum(0)


class JointNoise(NoiseModel):
    """Noise, and sensors, of several measurements in a row.

    A parameter of one part's noise model has its name followed by the part's number: ``sigma_0``. Set here, it goes
    before the noise model's own.

    Args:
        operators: Operators with a noise model each.
        shapes: Shapes of their measurements of one image.
    """

    def __init__(self, operators: Sequence[Any], shapes: Sequence[Sequence[int]]) -> None:
        super().__init__()
        # No submodules: they are the operator's.
        self.operators, self.shapes = tuple(operators), tuple(map(tuple, shapes))

    def __getattr__(self, name: str) -> Any:
        """A parameter of one part's noise model."""
        own, _, part = name.rpartition("_")
        operators = self.__dict__.get("operators", ())
        if own and part.isdigit() and int(part) < len(operators):
            return getattr(getattr(operators[int(part)], "noise_model", None), own)
        return super().__getattr__(name)

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Noisy measurements, as each one's sensor returns them."""
        noisy = []
        for one, part in zip(self.operators, split(input, self.shapes), strict=True):
            for change in (getattr(one, "noise_model", None), getattr(one, "sensor_model", None)):
                part = part if change is None else change(part)
            noisy.append(part)
        return join(noisy, self.shapes)

    def parts(self, signal: Tensor) -> list[tuple[Any, Tensor, dict[str, Tensor]]]:
        """Operator, signal (*, *shape) and parameters set here, (*, B), of every part of a signal (*, n)."""
        told = {name: value.squeeze(-1) for name, value in self.__dict__.items() if isinstance(value, Tensor)}
        own = zip(self.operators, split(signal, self.shapes), strict=True)
        return [(one, part, _parameters_of(one, k, told)) for k, (one, part) in enumerate(own)]


def join(parts: Sequence[Tensor], shapes: Sequence[Sequence[int]]) -> Tensor:
    """Tensors (*, *shape) as one (*, n)."""
    return torch.cat([part.flatten(part.dim() - len(shape)) for part, shape in zip(parts, shapes, strict=True)], -1)


def split(y: Tensor, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
    """A tensor (*, n) as those that it was joined of, (*, *shape)."""
    rows = y.split([torch.Size(shape).numel() for shape in shapes], -1)
    return [row.reshape(*row.shape[:-1], *shape) for row, shape in zip(rows, shapes, strict=True)]


def _named(operator: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Those of some arguments that an operator names."""
    names = arguments_of(operator) if arguments else ()
    return {name: value for name, value in arguments.items() if name in names}


def _parameters_of(operator: Any, part: int, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    noise_model, end = getattr(operator, "noise_model", None), f"_{part}"
    stripped = {name.removesuffix(end): value for name, value in parameters.items() if name.endswith(end)}
    own = {name: value for name, value in stripped.items() if hasattr(noise_model, name)}
    return own | _named(operator, parameters)
