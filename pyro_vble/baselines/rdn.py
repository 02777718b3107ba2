"""RDN: a residual dense network from a measurement to its image."""

import math
from typing import Any

import torch
from deepinv.models import Reconstructor
from torch import Tensor, nn


class ResidualDenseBlock(nn.Module):
    """Convolutions that each see all before them; their fusion is added to what came in, (B, features, H, W)."""

    def __init__(self, features: int, growth: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(features + k * growth, growth, 3, padding=1) for k in range(layers))
        self.fusion = nn.Conv2d(features + layers * growth, features, 1)

    def forward(self, x: Tensor) -> Tensor:
        """The features, refined."""
        seen = [x]
        for layer in self.layers:
            seen.append(torch.relu(layer(torch.cat(seen, 1))))
        return x + self.fusion(torch.cat(seen, 1))


class RDN(Reconstructor):
    """A residual dense network: ``model(y, physics)``, which knows the sensor by its training alone.

    References:
        | Residual dense network for image super-resolution (Zhang et al., 2018), section 3
        | https://arxiv.org/abs/1802.08797

    Args:
        bands: Of measurement and image.
        scale: How many times as wide as its measurement the image is: a power of 2.
        features: Channels of the trunk.
        growth: Channels that each layer of a block adds.
        num_blocks: D.
        layers: C, of each block.

    Raises:
        ValueError: If the scale is no power of 2.

    Example:
        >>> import torch
        >>> from pyro_vble.baselines.rdn import RDN
        >>> RDN(scale=2, features=8, growth=4, num_blocks=2, layers=2)(torch.rand(1, 3, 8, 9)).shape
        torch.Size([1, 3, 16, 18])
    """

    def __init__(
        self,
        bands: int = 3,
        scale: int = 1,
        *,
        features: int = 64,
        growth: int = 64,
        num_blocks: int = 16,
        layers: int = 8,
    ) -> None:
        super().__init__()
        if scale < 1 or scale & (scale - 1):
            raise ValueError(f"scale must be a power of 2; received {scale}; take 1, 2, 4 or 8.")
        self.shallow = nn.ModuleList(
            [nn.Conv2d(bands, features, 3, padding=1), nn.Conv2d(features, features, 3, padding=1)]
        )
        self.blocks = nn.ModuleList(ResidualDenseBlock(features, growth, layers) for _ in range(num_blocks))
        self.fusion = nn.Sequential(
            nn.Conv2d(num_blocks * features, features, 1), nn.Conv2d(features, features, 3, padding=1)
        )
        doubling = [
            part
            for _ in range(round(math.log2(scale)))
            for part in (nn.Conv2d(features, 4 * features, 3, padding=1), nn.PixelShuffle(2))
        ]
        self.upsampling = nn.Sequential(*doubling)
        self.last = nn.Conv2d(features, bands, 3, padding=1)

    def forward(self, y: Tensor, physics: Any = None, **kwargs: Any) -> Tensor:
        """Images (B, C, s H, s W) of measurements (B, C, H, W)."""
        first = self.shallow[0](y)
        x = self.shallow[1](first)
        refined = []
        for block in self.blocks:
            x = block(x)
            refined.append(x)
        return self.last(self.upsampling(self.fusion(torch.cat(refined, 1)) + first))
