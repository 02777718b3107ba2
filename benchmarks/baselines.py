"""Others' methods to stand beside: DPIR, plug-and-play with a trained denoiser, as deepinv has it."""

from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def dpir(y: Tensor, physics: Any, denoiser: torch.nn.Module, noise: float) -> Tensor:
    """DPIR: eight iterations of half-quadratic splitting, the denoiser's level falling from 49/255 to the noise's."""
    from deepinv.optim import DPIR

    return DPIR(sigma=max(noise, 1 / 255), denoiser=denoiser)(y, physics)
