"""A linear inverse problem as others' methods take it: white noise of known size, what is missing left out."""

from dataclasses import dataclass
from typing import Any, Self

import torch
from deepinv.optim.linear import least_squares
from deepinv.physics import DecomposablePhysics, Downsampling, GaussianNoise, LinearPhysics
from torch import Tensor

from pyro_vble._arguments import brief
from pyro_vble._one_at_a_time import program_lock
from pyro_vble.inference import resolve_device
from pyro_vble.physics import (
    fill_unobserved,
    image_shape_of,
    initial_image,
    likelihood,
    observed_mask,
    operator_on,
    validate_measurement,
)
from pyro_vble.physics.likelihood import before_sensor

# Proximal steps without a closed form: conjugate gradients until the residual is this small, or for so long.
_TOLERANCE, _CG_STEPS = 1e-5, 50
# What a closed form may leave of its normal equations, as a part of their right-hand side.
_EXACT = 1e-3
#: What keeps deepinv's conjugate gradients from dividing by zero: its own, 1e-8, stops them where residuals are small.
EPS = 1e-30


class WhiteMeasurement(LinearPhysics):
    r"""An operator in units of its noise, :math:`x \mapsto M A x / \sigma`, where M leaves out what is missing.

    Its noise is white and of standard deviation 1, whatever the operator's was, so that deepinv's algorithms weigh
    data and prior as they should with ``L2()``.

    Args:
        physics: A linear operator.
        root: M / σ, of the shape of a measurement.
        image_shape: (C, H, W).

    Example:
        >>> import torch, deepinv
        >>> from pyro_vble.baselines.linear import WhiteMeasurement
        >>> root = torch.full((1, 1, 4, 4), 10.0)
        >>> white = WhiteMeasurement(deepinv.physics.Denoising(), root, (1, 4, 4))
        >>> float(white.prox_l2(torch.zeros(1, 1, 4, 4), root, gamma=0.01).mean())  # data and prior weigh alike
        0.5
    """

    root: Tensor

    def __init__(self, physics: LinearPhysics, root: Tensor, image_shape: tuple[int, int, int]) -> None:
        noise_model: Any = GaussianNoise(1.0)
        super().__init__(noise_model=noise_model)
        self.physics, self.image_shape = physics, image_shape
        self.register_buffer("root", root)
        flat = root.flatten(1)
        even = bool((flat == flat[:, :1]).all()) and bool((flat > 0).all())
        #: Whether deepinv solves the proximal step at once: where it says so, the noise is even, and it is right.
        self.has_closed_form = even and isinstance(physics, DecomposablePhysics | Downsampling) and self._is_solved()

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        """What is observed of images (B, C, H, W), in units of the noise."""
        return self.root * torch.where(self.root > 0, self.physics.A(x), 0.0)

    def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:
        """The adjoint of A."""
        return self.physics.A_adjoint(self.root * y)

    def prox_l2(self, z: Tensor, y: Tensor, gamma: Any, *, init: Tensor | None = None, **kwargs: Any) -> Tensor:
        r"""The image nearest to both z and the data, :math:`\arg\min_x \gamma\lVert Ax-y\rVert^2 + \lVert x-z\rVert^2`.

        In closed form where deepinv has one and the noise is even, else by conjugate gradients from ``init``.

        Args:
            z: Images (B, C, H, W).
            y: Measurement, in units of the noise.
            gamma: A number, or one an image (B,).
            init: Where conjugate gradients start; z, if None.
            kwargs: Passed over: deepinv's algorithms name a solver.
        """
        gamma = torch.as_tensor(gamma, dtype=z.dtype, device=z.device).expand(len(z))
        weight = gamma * self.root.flatten(1)[:, 0] ** 2
        if self.has_closed_form and bool((weight == weight[0]).all()):
            return self.physics.prox_l2(z, y / self.root, float(weight[0]))
        options = {"solver": "CG", "parallel_dim": [0], "max_iter": _CG_STEPS, "tol": _TOLERANCE, "eps": EPS}
        return least_squares(self.A, self.A_adjoint, y, z=z, init=z if init is None else init, gamma=gamma, **options)

    @torch.no_grad()
    def _is_solved(self) -> bool:
        """Whether deepinv's proximal step solves its equations, as it does not for kernels larger than the image."""
        y = torch.arange(self.root.numel(), dtype=self.root.dtype, device=self.root.device).cos()
        y = y.reshape(self.root.shape)
        z = y.new_zeros(len(y), *self.image_shape)
        right = self.physics.A_adjoint(y)
        try:
            x = self.physics.prox_l2(z, y, 1.0)
            left = self.physics.A_adjoint(self.physics.A(x) - y) + x - z
        except Exception:  # a closed form may refuse in any way; conjugate gradients do not
            return False
        return bool(left.abs().max() < _EXACT * right.abs().max())


@dataclass(frozen=True)
class LinearProblem:
    """A measurement and its operator, both in units of the noise, on the device that is computed on.

    Attributes:
        y: The measurement, zero where missing, over the noise.
        physics: The operator, over the noise.
        noise: Standard deviation of the noise of every image, (B,), in units of y.
        start: A first guess at the image, (B, C, H, W).
    """

    y: Tensor
    physics: WhiteMeasurement
    noise: Tensor
    start: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, y: Any, physics: Any, *, noise: float | None = None, device: str | torch.device = "auto") -> Self:
        """The problem of a measurement (B, C, H', W'), NaN where unobserved, of images in [0, 1].

        Noise whose variance differs from value to value is taken as white, of the mean variance in each image.

        Args:
            y: The measurement.
            physics: A linear deepinv operator with its noise model.
            noise: Standard deviation in place of the noise model's.
            device: "auto" (CUDA where there is one) or a torch device.

        Raises:
            TypeError: If y is no tensor, or the operator is not linear.
            ValueError: If y does not fit the operator or the scale [0, 1], or is not in units of the signal.
        """
        check_linear(y, physics)
        device = resolve_device(device)
        physics = operator_on(physics, device, y.dtype)
        y = y.detach().to(device)
        image_shape = image_shape_of(physics, y)
        with program_lock:  # noise is checked with Pyro's validation, a setting of the whole process
            validate_measurement(physics, y, image_shape)
        observed = observed_mask(physics, y)
        filled = fill_unobserved(y, observed)
        if noise is None:
            variance = noise_variance(physics, filled)
            kept = observed.expand_as(variance).to(variance)
            level = ((variance * kept).flatten(1).sum(1) / kept.flatten(1).sum(1)).sqrt()
        else:
            level = torch.full((len(y),), noise, dtype=y.dtype, device=device)
        root = observed / level.reshape(-1, *[1] * (y.dim() - 1))
        start = initial_image(physics, y, image_shape)
        return cls(root * filled, WhiteMeasurement(physics, root, image_shape), level, start)

    def repeated(self, n: int) -> Self:
        """n copies of every image, one after the other: of (B, ...) it makes (n B, ...)."""
        white = self.physics
        physics = WhiteMeasurement(white.physics, _repeat(white.root, n), white.image_shape)
        return type(self)(_repeat(self.y, n), physics, _repeat(self.noise, n), _repeat(self.start, n))


def check_linear(y: Any, physics: Any) -> None:
    """Raise unless y is a batch of measurements, and the operator linear.

    Raises:
        TypeError: If one is of another kind.
    """
    if not isinstance(y, Tensor) or not y.is_floating_point() or y.dim() < 2:
        raise TypeError(
            f"y must be a floating-point tensor (B, C, H', W') on the scale [0, 1]; received {brief(y)}; "
            "torch.from_numpy(array) makes one."
        )
    if not isinstance(physics, LinearPhysics):
        raise TypeError(
            f"physics must be a linear operator, a deepinv.physics.LinearPhysics; received {type(physics).__name__}; "
            "restore and MAP-z take any operator that has a gradient."
        )


def noise_variance(physics: Any, signal: Tensor) -> Tensor:
    """Variance of the noise of every value of a measurement whose signal is this, of the signal's shape.

    Raises:
        ValueError: If the noise model's mean is not its signal, as of photons that are counted.
    """
    probe = torch.full_like(signal, 0.5)
    expected = before_sensor(likelihood(physics, probe, event_dim=signal.dim() - 1)).mean
    if not torch.allclose(expected, probe, rtol=1e-2):
        raise ValueError(
            "y must be in units of the image, a noise model's mean its signal; received "
            f"{type(physics.noise_model).__name__} with a mean of {float(expected.mean()):g} for a signal of 0.5; "
            "divide the counts by what white is measured as, and take PoissonNoise(gain, normalize=True)."
        )
    return before_sensor(likelihood(physics, signal.clamp_min(0), event_dim=signal.dim() - 1)).variance


def _repeat(value: Tensor, n: int) -> Tensor:
    return value.repeat(n, *[1] * (value.dim() - 1))
