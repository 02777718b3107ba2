"""A Gaussian blur whose width is an argument of A."""

from typing import Any

import torch
from deepinv.physics import LinearPhysics
from deepinv.physics.functional import conv2d, conv_transpose2d
from torch import Tensor

from pyro_vble._arguments import Count, Positive, checked


@checked
class GaussianBlur(LinearPhysics):
    r"""Blur by an isotropic Gaussian, the border reflected: a deepinv operator that is differentiable in its width.

    .. math:: A_w(x) = k_w * x, \qquad k_w(u) \propto \exp\Big(-\frac{\lVert u \rVert^2}{2 w^2}\Big)

    Args:
        width: Standard deviation of the Gaussian, in pixels.
        radius: Largest offset of the kernel, in pixels; four times the width by default. Leave room for the widths
            that a prior on it allows.
        noise_model: A deepinv noise model.

    Raises:
        TypeError: If width or radius is no number, or the noise model no noise model.
        ValueError: If the width is not positive, or the radius no whole number of at least 1.

    Example:
        >>> import torch
        >>> from pyro_vble.physics import GaussianBlur
        >>> physics = GaussianBlur(1.5)
        >>> x = torch.rand(2, 3, 32, 32)
        >>> physics.A(x).shape, physics.A(x, width=torch.tensor([1.0, 2.0])).shape
        (torch.Size([2, 3, 32, 32]), torch.Size([2, 3, 32, 32]))
    """

    def __init__(self, width: Positive, *, radius: Count | None = None, noise_model: Any = None) -> None:
        super().__init__(**({} if noise_model is None else {"noise_model": noise_model}))
        self.radius = max(1, round(4 * width)) if radius is None else radius
        self.register_buffer("width", torch.tensor(width))

    def A(self, x: Tensor, width: Tensor | float | None = None, **kwargs: Any) -> Tensor:
        """The blurred images (B, C, H, W), by one width or one for each image (B,)."""
        return conv2d(x, self.kernel(x, width), padding="reflect")

    def A_adjoint(self, y: Tensor, width: Tensor | float | None = None, **kwargs: Any) -> Tensor:
        """The adjoint of A."""
        return conv_transpose2d(y, self.kernel(y, width), padding="reflect")

    def kernel(self, x: Tensor, width: Tensor | float | None = None) -> Tensor:
        """Kernels that sum to 1, (1 or B, 1, k, k), in the type of x."""
        width = torch.as_tensor(self.width if width is None else width).to(x).reshape(-1, 1)
        t = torch.arange(-self.radius, self.radius + 1, dtype=x.dtype, device=x.device)
        profile = torch.softmax(-0.5 * (t / width).square(), dim=-1)
        return (profile[:, :, None] * profile[:, None, :])[:, None]
