"""Others' methods to stand beside: DPIR, plug-and-play with a trained denoiser, as deepinv has it."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor


def ffdnet(weights: Path) -> torch.nn.Module:
    """The colour FFDNet denoiser with weights from a file (``shared/weights/ffdnet_color.safetensors``)."""
    from deepinv.models import FFDNet

    network = FFDNet(n_conv_layers=12, nf=96, img_channels=3, pretrained=None)
    network.load_state_dict(load_file(weights))
    return network.eval().requires_grad_(False)


@torch.no_grad()
def dpir(y: Tensor, physics: Any, denoiser: torch.nn.Module, noise: float) -> Tensor:
    """DPIR: eight iterations of half-quadratic splitting, the denoiser's level falling from 49/255 to the noise's."""
    from deepinv.optim import DPIR

    return DPIR(sigma=max(noise, 1 / 255), denoiser=denoiser)(y, physics)
