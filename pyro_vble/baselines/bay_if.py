"""Bay+IF: NL-Bayes denoising, then regularised inverse filtering, as ground segments restore images."""

from typing import Any, NamedTuple

import torch
from deepinv.models import TVDenoiser
from deepinv.optim.linear import conjugate_gradient
from torch import Tensor

from pyro_vble._arguments import Count, Positive, checked
from pyro_vble.baselines.linear import EPS, LinearProblem
from pyro_vble.baselines.nl_bayes import Odd, nl_bayes
from pyro_vble.baselines.point import point
from pyro_vble.baselines.sat_dpir import sensor_data
from pyro_vble.inference.precision import Device
from pyro_vble.physics import fill_missing
from pyro_vble.samples import StoredSamples

_TOLERANCE, _CG_STEPS = 1e-6, 200


class Stabiliser(NamedTuple):
    r"""The generalised Anscombe transform, after which noise of variance σ0² + K s has variance 1.

    .. math:: f(s) = \frac{2}{K} \Big(\sqrt{K s + \tfrac38 K^2 + \sigma_0^2} - \sigma_0\Big), \qquad
        f(s) \to s / \sigma_0 \text{ for } K \to 0

    Attributes:
        dark: σ0².
        gain: K, not negative; both broadcastable to the measurement.

    Example:
        >>> import torch
        >>> from pyro_vble.baselines.bay_if import Stabiliser
        >>> stabiliser = Stabiliser(torch.tensor(0.0004), torch.tensor(0.01))
        >>> y = 0.5 + (0.0004 + 0.01 * 0.5) ** 0.5 * torch.randn(100_000)
        >>> round(float(stabiliser(y).std()), 1)
        1.0
    """

    dark: Tensor
    gain: Tensor

    def __call__(self, y: Tensor) -> Tensor:
        """A measurement with noise of variance 1."""
        root = (self.gain * y + 3 / 8 * self.gain**2 + self.dark).clamp_min(0).sqrt()
        gain = torch.where(self.gain > 0, self.gain, 1.0)
        return torch.where(self.gain > 0, 2 * (root - self.dark.sqrt()) / gain, y / self.dark.sqrt())

    def inverse(self, value: Tensor) -> Tensor:
        """The signal whose noisy measurements are transformed to this on average (up to a small part of the gain)."""
        gain = torch.where(self.gain > 0, self.gain, 1.0)
        root = (gain * value / 2 + self.dark.sqrt()).clamp_min(0)
        signal = (root**2 - self.dark) / gain - gain / 8
        return torch.where(self.gain > 0, signal, value * self.dark.sqrt())


@checked
def bay_if(
    y: Any,
    physics: Any,
    *,
    regularisation: Positive = 1e-3,
    patch: Count | None = None,
    window: Odd = 21,
    num_similar: Count | None = None,
    device: Device = "auto",
) -> StoredSamples:
    r"""Denoising by NL-Bayes, then regularised inverse filtering: classical restoration, with no network.

    .. math:: d = f^{-1}\big(\text{NL-Bayes}(f(y))\big), \qquad \hat x = \arg\min_x\; \lVert M(Ax - d)\rVert^2
        + \mu\, \lVert \nabla x \rVert^2

    with f the transform that makes the noise white (:class:`Stabiliser`). It suits operators whose measurement is an
    image: optics, decimation. The filter is solved by conjugate gradients, so borders and any operator are taken as
    they are.

    Args:
        y: Measurement (B, C, H', W') of images in [0, 1]; NaN where unobserved, which the denoiser sees interpolated.
        physics: A linear deepinv operator with its noise model, of a variance that is linear in the signal.
        regularisation: μ.
        patch: Rows and columns of NL-Bayes' patches; 5 for one band, 3 for several.
        window: Rows and columns of the places where it searches similar ones.
        num_similar: Patches in a group; by default three for every value of a patch.
        device: "auto" (CUDA where there is one) or a torch device.

    Returns:
        One image (1, B, C, H, W), as samples.

    Raises:
        TypeError: If the operator is not linear, or an argument of a wrong kind.
        ValueError: If y is no image, does not fit the operator or its scale, or the variance is not linear.

    References:
        | A nonlocal Bayesian image denoising algorithm (Lebrun, Buades, Morel, 2013)
        | Optimal inversion of the generalized Anscombe transformation for Poisson-Gaussian noise (Mäkitalo, Foi, 2013)

    Example:
        >>> import torch, deepinv
        >>> from pyro_vble.baselines import bay_if
        >>> from pyro_vble.physics import SignalDependentNoise
        >>> physics = deepinv.physics.Denoising(SignalDependentNoise(0.03, 0.0016))
        >>> bay_if(torch.rand(1, 1, 16, 16), physics).mmse_x().shape
        torch.Size([1, 1, 16, 16])
    """
    problem = LinearProblem.of(y, physics, device=device)
    if problem.y.dim() != 4:
        raise ValueError(
            f"y must be images (B, C, H', W') to be denoised first; received shape {tuple(y.shape)}; dpir and map_tv "
            "take other measurements."
        )
    data = sensor_data(problem)
    filled = fill_missing(data.y, data.observed > 0)
    stabiliser = Stabiliser(data.dark, data.gain)
    settings = {"patch": patch, "window": window, "num_similar": num_similar}
    denoised = stabiliser.inverse(nl_bayes(stabiliser(filled), 1.0, **settings))
    x = inverse_filter(problem, denoised, regularisation)
    return point(x, y, physics, f"bay_if, regularisation {regularisation:g}")


@torch.no_grad()
def inverse_filter(problem: LinearProblem, denoised: Tensor, regularisation: float) -> Tensor:
    """The smooth image that explains a denoised measurement, (B, C, H, W)."""
    physics, observed = problem.physics.physics, (problem.physics.root > 0).to(denoised)

    def normal(x: Tensor) -> Tensor:
        smooth = TVDenoiser.nabla_adjoint(TVDenoiser.nabla(x))
        return physics.A_adjoint(observed * physics.A(x)) + regularisation * smooth

    right = physics.A_adjoint(observed * denoised)
    options = {"max_iter": _CG_STEPS, "tol": _TOLERANCE, "eps": EPS, "parallel_dim": [0]}
    return conjugate_gradient(normal, right, init=problem.start, **options)
