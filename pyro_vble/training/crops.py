"""Random crops, cut where the images lie: on the GPU if there is one."""

import torch
from torch import Tensor

from pyro_vble.training.data import ImageSet, downscaled
from pyro_vble.training.recipes import Data

_STEP_OF_8_BITS = 1 / 255


class RandomCrops:
    """Batches of random crops of a set of images.

    All pixels lie in one tensor on the device, band by band beside each other. A batch is one gather from it, by
    indices computed there: the host takes no part, and the result is already laid out channels-last. Crops are
    uniform over all positions in all images, at all their sizes.

    Args:
        images: The images.
        data: Crop, batch and symmetries.
        device: Where the pixels are kept and cut.

    Raises:
        ValueError: If no image is as large as a crop.
    """

    def __init__(self, images: ImageSet, data: Data, device: torch.device | str = "cpu") -> None:
        kept = [downscaled(image, factor) for factor in data.downscale for image in images.images]
        kept = [image for image in kept if min(image.shape[1:]) >= data.crop]
        if not kept:
            raise ValueError(
                f"No image has {data.crop} pixels a side at any of the scales {data.downscale}; use a smaller "
                "data.crop or larger images."
            )
        self.data, self.white = data, images.white
        self.pixels = torch.cat([image.flatten(1).T for image in kept]).to(device)
        heights, widths = (torch.tensor([image.shape[axis] for image in kept], device=device) for axis in (1, 2))
        self.rows, self.columns, self.widths = heights - data.crop + 1, widths - data.crop + 1, widths
        self.starts = torch.cumsum(heights * widths, 0) - heights * widths
        positions = (self.rows * self.columns).double()
        self.cumulative = torch.cumsum(positions, 0) / positions.sum()
        self.within = torch.arange(data.crop, device=device)

    def __call__(self) -> Tensor:
        """A batch (B, C, crop, crop) in [0, 1], drawn with the device's global generator."""
        size, crop, device = self.data.batch_size, self.data.crop, self.pixels.device
        draw = torch.rand(6, size, device=device, dtype=torch.float64)
        image = torch.searchsorted(self.cumulative, draw[0]).clamp_max(len(self.starts) - 1)
        top = (draw[1] * self.rows[image]).long()
        left = (draw[2] * self.columns[image]).long()
        mirrored = draw[3] < 0.5 if self.data.symmetries != "none" else draw[3] < 0
        upended, transposed = draw[4] < 0.5, draw[5] < 0.5
        if self.data.symmetries != "all":
            upended, transposed = torch.zeros_like(upended), torch.zeros_like(transposed)
        i = torch.where(upended[:, None], crop - 1 - self.within, self.within)
        j = torch.where(mirrored[:, None], crop - 1 - self.within, self.within)
        swap = transposed[:, None, None]
        row = torch.where(swap, j[:, None, :], i[:, :, None])
        column = torch.where(swap, i[:, :, None], j[:, None, :])
        corner = self.starts[image] + top * self.widths[image] + left
        index = corner[:, None, None] + row * self.widths[image][:, None, None] + column
        x = self.pixels[index.flatten()].float().reshape(size, crop, crop, -1).permute(0, 3, 1, 2) / self.white
        return dequantized(x) if self.data.dequantize else x


def dequantized(x: Tensor) -> Tensor:
    """Images with uniform noise as wide as one step of 8 bits."""
    return x + (torch.rand_like(x) - 0.5) * _STEP_OF_8_BITS
