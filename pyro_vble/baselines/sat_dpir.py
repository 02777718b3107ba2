"""SatDPIR: DPIR for sensors, with an operator of optics and decimation, and noise that grows with the signal."""

from typing import Any, NamedTuple

import torch
from deepinv.optim.linear import conjugate_gradient
from deepinv.physics import LinearPhysics
from torch import Tensor

from pyro_vble._arguments import Count, CountOrZero, Flag, Positive, checked
from pyro_vble.baselines.denoisers import DenoiserLike, denoiser_on
from pyro_vble.baselines.dpir import FIRST_LEVEL, WEIGHT, levels, turned, turns_of
from pyro_vble.baselines.linear import EPS, LinearProblem, WhiteMeasurement, noise_variance
from pyro_vble.baselines.point import point
from pyro_vble.inference.precision import Device
from pyro_vble.samples import StoredSamples

# Conjugate gradients for one step of scoring: a direction, of which the next step corrects what is wrong.
_TOLERANCE, _CG_STEPS = 1e-4, 30
# A step that does not lower the objective is halved, so often at most.
_HALVINGS = 8


class SensorData(NamedTuple):
    """A measurement of linear signal-dependent noise, and what its likelihood is made of.

    Attributes:
        y: The measurement, zero where missing.
        physics: The operator.
        observed: 1 where y was observed, else 0.
        dark: σ0², of the shape of y.
        gain: K, of the shape of y.
    """

    y: Tensor
    physics: LinearPhysics
    observed: Tensor
    dark: Tensor
    gain: Tensor

    def variance(self, signal: Tensor) -> Tensor:
        """σ0² + K max(Ax, 0), by value."""
        return self.dark + self.gain * signal.clamp_min(0)

    def mean_variance(self, x: Tensor) -> Tensor:
        """The mean variance over what is observed of every image, (B,)."""
        variance = self.variance(self.physics.A(x)) * self.observed
        return variance.flatten(1).sum(1) / self.observed.flatten(1).sum(1)


@checked
def sat_dpir(
    y: Any,
    physics: Any,
    denoiser: DenoiserLike = None,
    *,
    num_iterations: Count = 8,
    num_steps: CountOrZero = 3,
    weight: Positive = WEIGHT,
    first_level: Positive = FIRST_LEVEL,
    last_level: Positive | None = None,
    flips: Flag = True,
    device: Device = "auto",
) -> StoredSamples:
    r"""PG-DPIR: DPIR whose data term knows that the noise grows with the signal.

    .. math:: x_k = \arg\min_x\; F(x) + \frac{\lambda}{2\sigma_k^2} \lVert x - z_{k-1} \rVert^2, \qquad
        z_k = D(x_k, \sigma_k), \\
        F(x) = \tfrac12 (y - Ax)^T \Sigma(x)^{-1} (y - Ax) + \tfrac12 \log\det\Sigma(x), \qquad
        \Sigma(x) = \operatorname{diag}\big(\sigma_0^2 + K \max(Ax, 0)\big)

    In the first half of the iterations the noise is taken as white, of the mean variance that the current image gives
    it, and the step is DPIR's. In the second half that step is where the exact one starts: by Fisher scoring, which
    where the authors descend along the gradient takes few steps whatever the darkest pixel. The operator is any linear
    one, :class:`~pyro_vble.physics.OpticalSensor` for example; noise whose variance is not linear in the signal is none
    of it. Clipping and rounding of the sensor are left out.

    Args:
        y: Measurement (B, C, H', W') of images in [0, 1]; NaN where unobserved.
        physics: A linear deepinv operator with its noise model, such as
            :class:`~pyro_vble.physics.SignalDependentNoise`; white noise makes it :func:`~pyro_vble.baselines.dpir`.
        denoiser: As in :func:`~pyro_vble.baselines.dpir`.
        num_iterations: K.
        num_steps: Steps of scoring in each iteration of the second half.
        weight: λ.
        first_level: σ_1.
        last_level: σ_K, by default the root of the mean variance of the noise.
        flips: Whether images are turned for the denoiser.
        device: "auto" (CUDA where there is one) or a torch device.

    Returns:
        One image (1, B, C, H, W), as samples.

    Raises:
        TypeError: If the operator is not linear, or an argument of a wrong kind.
        ValueError: If y does not fit the operator or its scale, the variance is not linear in the signal, or a
            denoiser's file is none.
        RuntimeError: If DRUNet cannot be downloaded.

    References:
        | Plug-and-play restoration with Poisson-Gaussian noise for satellite images (Biquard et al., 2025)
        | https://arxiv.org/abs/2504.10375

    Example:
        >>> import torch, deepinv
        >>> from pyro_vble.baselines import sat_dpir
        >>> from pyro_vble.physics import SignalDependentNoise
        >>> physics = deepinv.physics.Denoising(SignalDependentNoise(0.03, 0.0016))
        >>> sat_dpir(torch.rand(1, 3, 16, 16), physics, deepinv.models.MedianFilter()).mmse_x().shape
        torch.Size([1, 3, 16, 16])
    """
    problem = LinearProblem.of(y, physics, device=device)
    data = sensor_data(problem)
    network = denoiser_on(denoiser, problem.start.shape[1], problem.y.device)
    last = problem.noise if last_level is None else torch.full_like(problem.noise, last_level)
    z = problem.start
    schedule = zip(levels(first_level, last, num_iterations), turns_of(flips), strict=False)
    for k, (level, turn) in enumerate(schedule):
        x = white_step(data, problem.physics.image_shape, z, level**2 / weight)
        if 2 * k >= num_iterations:
            x = scored(data, x, z, weight / level**2, num_steps)
        z = turned(network, turn, x, level)
    return point(z, y, physics, f"sat_dpir, denoiser {network.name}, {num_iterations} iterations")


def sensor_data(problem: LinearProblem) -> SensorData:
    """The measurement in its own units, with σ0² and K read off the noise model.

    Raises:
        ValueError: If the variance is not linear in the signal.
    """
    white = problem.physics
    observed = (white.root > 0).to(problem.y)
    y = problem.y * problem.noise.reshape(-1, *[1] * (problem.y.dim() - 1))
    dark, half, full = (noise_variance(white.physics, torch.full_like(y, level)) for level in (0.0, 0.5, 1.0))
    if not torch.allclose(half, (dark + full) / 2, rtol=1e-3):
        raise ValueError(
            "The variance of the noise must be linear in the signal, σ0² + K·Ax; received "
            f"{type(white.physics.noise_model).__name__}; dpir takes noise as white."
        )
    return SensorData(y, white.physics, observed, dark, full - dark)


def white_step(data: SensorData, image_shape: tuple[int, int, int], z: Tensor, gamma: Tensor) -> Tensor:
    """The proximal step of noise that is white, of the mean variance that the image z gives it."""
    root = data.observed / data.mean_variance(z).sqrt().reshape(-1, *[1] * (data.y.dim() - 1))
    return WhiteMeasurement(data.physics, root, image_shape).prox_l2(z, root * data.y, gamma=gamma)


def scored(data: SensorData, x: Tensor, z: Tensor, mu: Tensor, num_steps: int) -> Tensor:
    """The proximal step of the exact data term, by Fisher scoring from x.

    A value's information about its signal s is 1/v + K²/(2 v²) with v = σ0² + K s, for both mean and variance tell.
    """
    mu = mu.reshape(-1, 1, 1, 1)
    for _ in range(num_steps):
        signal = data.physics.A(x)
        v, residual = data.variance(signal), data.y - signal
        gain = torch.where(signal > 0, data.gain, 0.0)
        slope = data.observed * (-residual / v - gain * residual**2 / (2 * v**2) + gain / (2 * v))
        information = data.observed * (1 / v + gain**2 / (2 * v**2))
        gradient = data.physics.A_adjoint(slope) + mu * (x - z)

        def metric(d: Tensor, information: Tensor = information) -> Tensor:
            return data.physics.A_adjoint(information * data.physics.A(d)) + mu * d

        step = conjugate_gradient(metric, gradient, max_iter=_CG_STEPS, tol=_TOLERANCE, eps=EPS, parallel_dim=[0])
        x = _lower(data, x, step, z, mu)
    return x


def objective(data: SensorData, x: Tensor, z: Tensor, mu: Tensor) -> Tensor:
    """F(x) + μ/2 ‖x - z‖² of every image, (B,)."""
    signal = data.physics.A(x)
    v = data.variance(signal)
    terms = data.observed * ((data.y - signal) ** 2 / v + v.log()) / 2
    return terms.flatten(1).sum(1) + (mu.reshape(-1, 1, 1, 1) * (x - z) ** 2 / 2).flatten(1).sum(1)


def _lower(data: SensorData, x: Tensor, step: Tensor, z: Tensor, mu: Tensor) -> Tensor:
    """The step's end, or where on its way the objective is lower than at its start; image by image."""
    before, length = objective(data, x, z, mu), torch.ones_like(mu).expand(len(x), 1, 1, 1)
    for _ in range(_HALVINGS):
        worse = objective(data, x - length * step, z, mu) > before
        if not bool(worse.any()):
            break
        length = torch.where(worse.reshape(-1, 1, 1, 1), length / 2, length)
    worse = objective(data, x - length * step, z, mu) > before
    return x - torch.where(worse.reshape(-1, 1, 1, 1), 0.0, length) * step
