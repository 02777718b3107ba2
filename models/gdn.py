"""Generalised divisive normalisation as one autograd node: for weights that are fixed, and for weights in training."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_unary

from pyro_vble.models import networks


class FusedGDN(nn.Module):
    r"""Generalised divisive normalisation (or its inverse).

    .. math:: y_i = x_i \big(\beta_i + \textstyle\sum_j \gamma_{ij} x_j^2\big)^{\mp 1/2}

    One autograd node in place of ten: half the memory traffic of a layer that is bound by it. Under autocast on CUDA it
    also stays in bfloat16, which CompressAI's layer leaves for its powers and roots.

    References:
        | Density modeling of images using a generalized normalization transformation (Ballé et al., 2016), eq. 3
        | https://arxiv.org/abs/1511.06281

    Args:
        layer: CompressAI's ``GDN``; its parameters are taken over under their names.

    Example:
        >>> import torch
        >>> from compressai.layers import GDN
        >>> from pyro_vble.models.gdn import FusedGDN
        >>> layer, x = GDN(4), torch.randn(1, 4, 5, 5)
        >>> bool(torch.allclose(FusedGDN(layer)(x), layer(x), atol=1e-6))
        True
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.inverse = layer.inverse
        self.beta, self.gamma = layer.beta, layer.gamma
        self.beta_reparam, self.gamma_reparam = layer.beta_reparam, layer.gamma_reparam

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (B, C, H, W)."""
        gamma, beta = self._weights()
        pixels = x.movedim(-3, -1)
        rows = pixels.reshape(-1, len(beta))
        rows = divisive_normalisation(rows, gamma, beta, self.inverse)
        return rows.view(pixels.shape).movedim(-1, -3)

    def _weights(self) -> tuple[Tensor, Tensor]:
        return self.gamma_reparam(self.gamma), self.beta_reparam(self.beta)


class FrozenGDN(FusedGDN):
    """A :class:`FusedGDN` of weights that no longer change: their constraints are met once.

    Args:
        layer: CompressAI's ``GDN``, or a :class:`FusedGDN`.

    Example:
        >>> import torch
        >>> from compressai.layers import GDN
        >>> from pyro_vble.models.gdn import FrozenGDN
        >>> layer, x = GDN(4, inverse=True), torch.randn(1, 4, 5, 5)
        >>> bool(torch.allclose(FrozenGDN(layer)(x), layer(x), atol=1e-6))
        True
    """

    _gamma: Tensor
    _beta: Tensor

    def __init__(self, layer: Any) -> None:
        super().__init__(layer)
        with torch.no_grad():
            gamma, beta = super()._weights()
        self.register_buffer("_gamma", gamma, persistent=False)
        self.register_buffer("_beta", beta, persistent=False)
        self.register_load_state_dict_post_hook(_meet_constraints)

    def _weights(self) -> tuple[Tensor, Tensor]:
        return self._gamma, self._beta


@torch.no_grad()
def _meet_constraints(layer: FrozenGDN, incompatible: object) -> None:
    """Meet the constraints of weights that were loaded, where the old lie: a captured step goes on reading there."""
    gamma, beta = FusedGDN._weights(layer)
    layer._gamma.copy_(gamma)
    layer._beta.copy_(beta)


def fuse_gdn(module: nn.Module) -> None:
    """Exchange CompressAI's layers within a module for :class:`FusedGDN`, of the same parameters and names."""
    networks.exchange(module, networks.is_gdn, FusedGDN)


def divisive_normalisation(x: Tensor, gamma: Tensor, beta: Tensor, inverse: bool) -> Tensor:
    """y = x n^(1/2) if inverse, or x n^(-1/2), n = x² γᵀ + β, for rows x; torch's function modes see it."""
    if has_torch_function_unary(x):
        return handle_torch_function(divisive_normalisation, (x,), x, gamma, beta, inverse)
    return _DivisiveNormalisation.apply(x, gamma, beta, inverse)


class _DivisiveNormalisation(torch.autograd.Function):
    """y = x n^(1/2) or x n^(-1/2), n = x² γᵀ + β, for rows x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, inverse: bool) -> Tensor:
        norm = torch.addmm(beta, x * x, gamma.T).sqrt_()
        factor = norm if inverse else norm.reciprocal_()
        if not any(ctx.needs_input_grad) and factor.dtype == x.dtype:
            return factor.mul_(x)  # nobody will ask for the factor again
        ctx.inverse, ctx.dtype = inverse, gamma.dtype
        # Backward runs outside a caller's autocast: the matrix is kept in the precision that the product was made in.
        ctx.save_for_backward(x, factor, gamma.to(factor.dtype))
        return x * factor

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, factor, gamma = ctx.saved_tensors
        # d/dx [x f(n)] = f + x · 2x γ f'(n), where f' = 1/(2f) for the square root and -f³/2 for its reciprocal.
        slope = grad * x  # in the end twice the gradient of n
        slope = slope.div_(factor) if ctx.inverse else slope.mul_(factor).mul_(factor).mul_(factor).neg_()
        of_gamma = of_beta = None
        if ctx.needs_input_grad[1]:
            of_gamma = (slope.T @ (x * x)).to(ctx.dtype).div_(2)
        if ctx.needs_input_grad[2]:
            of_beta = slope.sum(0, dtype=ctx.dtype).div_(2)
        of_x = (slope @ gamma).mul_(x).addcmul_(grad, factor) if ctx.needs_input_grad[0] else None
        return of_x, of_gamma, of_beta, None
