"""Small convolutional networks for VAEs of small images."""

import itertools
import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vble._arguments import Count, ImageShape, Sizes, brief, checked
from pyro_vble.models.vae import VAE, NumberOrModule

_STD_BOUNDS = (1e-4, 10.0)


class ConvolutionalEncoder(nn.Module):
    """Strided 5x5 convolutions and a linear layer, from x to mean and standard deviation of q(z|x)."""

    def __init__(self, image_shape: tuple[int, int, int], num_latents: int, channels: Sequence[int]) -> None:
        super().__init__()
        widths = [image_shape[0], *channels]
        layers = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, 5, stride=2, padding=2), nn.GELU()]
        rows, columns = _coarse(image_shape, len(channels))
        self.padding = _padding(image_shape, len(channels))
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.head = nn.Linear(widths[-1] * rows * columns, 2 * num_latents)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of q(z|x), each (B, num_latents)."""
        mean, log_std = self.head(self.features(F.pad(x, self.padding, mode="replicate"))).to(x.dtype).chunk(2, dim=1)
        return mean, log_std.exp().clamp(*_STD_BOUNDS)


class ConvolutionalDecoder(nn.Module):
    """A linear layer and transposed 5x5 convolutions, from z to an image."""

    def __init__(self, image_shape: tuple[int, int, int], num_latents: int, channels: Sequence[int]) -> None:
        super().__init__()
        widths = [*reversed(channels), image_shape[0]]
        coarse = _coarse(image_shape, len(channels))
        layers: list[nn.Module] = [
            nn.Linear(num_latents, widths[0] * math.prod(coarse)),
            nn.Unflatten(1, (widths[0], *coarse)),
        ]
        for before, after in itertools.pairwise(widths):
            layers += [nn.GELU(), nn.ConvTranspose2d(before, after, 5, stride=2, padding=2, output_padding=1)]
        self.image_shape = image_shape
        self.network = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """The image (B, C, H, W); not confined to any range."""
        return self.network(z)[..., : self.image_shape[1], : self.image_shape[2]]


@checked
def convolutional_vae(
    image_shape: ImageShape,
    num_latents: Count = 32,
    channels: Sizes = (32, 64, 128),
    decoder_std: NumberOrModule = 0.1,
) -> VAE:
    """A VAE of images of one small size, of strided 5x5 convolutions and a vector of latents.

    Args:
        image_shape: (C, H, W).
        num_latents: Number of latents of an image.
        channels: Channels after each halving of rows and columns.
        decoder_std: Standard deviation of p(x|z): a positive number, or a module from z to (B, C, H, W).

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If a size is not positive, or there is no layer.
        MemoryError: If the networks need more memory than there is.

    Example:
        >>> from pyro_vble.models import convolutional_vae
        >>> convolutional_vae((1, 28, 28), num_latents=8, channels=(4, 8)).sample(5).shape
        torch.Size([5, 1, 28, 28])
    """
    try:
        encoder = ConvolutionalEncoder(image_shape, num_latents, channels)
        decoder = ConvolutionalDecoder(image_shape, num_latents, channels)
    except RuntimeError as error:  # torch's, of sizes that no memory holds
        raise MemoryError(
            f"Networks for images of shape {image_shape}, {num_latents} latents and channels {brief(channels)} need "
            "more memory than there is; choose smaller numbers."
        ) from error
    vae = VAE(encoder, decoder, (num_latents,), decoder_std)
    vae.architecture = {"image_shape": image_shape, "num_latents": num_latents, "channels": channels}
    return vae


def _coarse(image_shape: tuple[int, int, int], levels: int) -> tuple[int, int]:
    return tuple(-(-side // 2**levels) for side in image_shape[1:])


def _padding(image_shape: tuple[int, int, int], levels: int) -> tuple[int, int, int, int]:
    """Columns and rows to add, right and below, for sides that halve ``levels`` times."""
    rows, columns = (
        coarse * 2**levels - side for coarse, side in zip(_coarse(image_shape, levels), image_shape[1:], strict=True)
    )
    return 0, columns, 0, rows
