"""Random crops, cut where the images lie: on the GPU if there is one."""

import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_vble.training.data import ImageSet, downscaled, whole_corners
from pyro_vble.training.recipes import Data

_STEP_OF_8_BITS = 1 / 255


class RandomCrops:
    """Batches of random crops of a set of images.

    All pixels lie in one tensor on the device, band by band beside each other. A batch is one gather from it, by
    indices computed there: the host takes no part, and the result is already laid out channels-last. Crops are
    uniform over all positions in all images, at all their sizes, that are clear of missing pixels.

    Args:
        images: The images.
        data: Crop, batch and symmetries.
        device: Where the pixels are kept and cut.

    Raises:
        ValueError: If no image is as large as a crop.
    """

    def __init__(self, images: ImageSet, data: Data, device: torch.device | str = "cpu") -> None:
        self.data, self.white = data, images.white
        pixels, blocks, start = [], [], 0
        for factor in data.downscale:
            for index, whole in enumerate(images.images):
                image = downscaled(whole, factor)
                height, width = image.shape[1:]
                if min(height, width) < data.crop:
                    continue
                found = _blocks(images.missing.get(index), height, width, data.crop)
                # A block's first corner as a place in the tensor, the width of its image, its rows and its columns.
                blocks += [(start + top * width + left, width, rows, columns) for top, left, rows, columns in found]
                pixels.append(image.flatten(1).T)
                start += height * width
        if not blocks:
            raise ValueError(
                f"No image has {data.crop} pixels a side at any of the scales {data.downscale}; use a smaller "
                "data.crop or larger images."
            )
        pixels = torch.cat(pixels)
        # CUDA has no indexing of unsigned 16 bits: signed ones hold the same, and lose their sign when cut.
        self.pixels = (pixels.view(torch.int16) if pixels.dtype == torch.uint16 else pixels).to(device)
        self.corners, self.widths, self.rows, self.columns = torch.tensor(blocks, device=device).T
        positions = (self.rows * self.columns).double()
        self.cumulative = torch.cumsum(positions, 0) / positions.sum()
        self.within = torch.arange(data.crop, device=device)

    def __call__(self) -> Tensor:
        """A batch (B, C, crop, crop) in [0, 1], drawn with the device's global generator."""
        size, crop, device = self.data.batch_size, self.data.crop, self.pixels.device
        draw = torch.rand(6, size, device=device, dtype=torch.float64)
        block = torch.searchsorted(self.cumulative, draw[0]).clamp_max(len(self.corners) - 1)
        width = self.widths[block]
        corner = self.corners[block] + (draw[1] * self.rows[block]).long() * width
        corner = corner + (draw[2] * self.columns[block]).long()
        mirrored = draw[3] < 0.5 if self.data.symmetries != "none" else draw[3] < 0
        upended, transposed = draw[4] < 0.5, draw[5] < 0.5
        if self.data.symmetries != "all":
            upended, transposed = torch.zeros_like(upended), torch.zeros_like(transposed)
        i = torch.where(upended[:, None], crop - 1 - self.within, self.within)
        j = torch.where(mirrored[:, None], crop - 1 - self.within, self.within)
        swap = transposed[:, None, None]
        row = torch.where(swap, j[:, None, :], i[:, :, None])
        column = torch.where(swap, i[:, :, None], j[:, None, :])
        index = corner[:, None, None] + row * width[:, None, None] + column
        x = self.pixels[index.flatten()]
        x = (x.int() & 0xFFFF if x.dtype == torch.int16 else x).float()
        x = x.reshape(size, crop, crop, -1).permute(0, 3, 1, 2) / self.white
        return dequantized(x) if self.data.dequantize else x


def _blocks(missing: Tensor | None, height: int, width: int, crop: int) -> list[tuple[int, int, int, int]]:
    """Rectangles of corners (top, left, rows, columns) of all crops that are clear of missing pixels."""
    if missing is None:
        return [(0, 0, height - crop + 1, width - crop + 1)]
    if missing.shape != (height, width):
        # A pixel of the smaller image is made of those under it and, antialiased, of their neighbours.
        small = F.adaptive_max_pool2d(missing[None, None].float(), (height, width))
        missing = F.max_pool2d(small, 3, stride=1, padding=1)[0, 0] > 0
    whole = F.pad(whole_corners(missing, crop).to(torch.int8), (1, 1))
    change = whole.diff(dim=1)
    starts, ends = (change == 1).nonzero(), (change == -1).nonzero()  # row by row, in the same order
    return [(int(r), int(c), 1, int(end - c)) for (r, c), end in zip(starts, ends[:, 1], strict=True)]


def dequantized(x: Tensor) -> Tensor:
    """Images with uniform noise as wide as one step of 8 bits."""
    return x + (torch.rand_like(x) - 0.5) * _STEP_OF_8_BITS
