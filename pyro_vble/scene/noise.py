"""Standard normal noise that belongs to places: any window of it is the crop of the whole."""

import hashlib
import math

import numpy as np

from pyro_vble.scene.grid import Window

# Sides of the blocks that are drawn at once, in values: of images, and of latents, of whose many channels a cell needs
# few rows and columns. Other numbers are other noise.
_BLOCK, _BLOCK_OF_MANY, _MANY = 64, 8, 16


def noise_field(seed: int, sample: int, site: str, leading: tuple[int, ...], window: Window) -> np.ndarray:
    r"""A window of a field of standard normal numbers, (*leading, rows, columns), float32.

    Every number is a function of (seed, sample, site, its place) alone, so that windows of one field agree wherever
    they overlap, on any machine and in any order. Blocks of 64x64 places (8x8 of 16 channels and more) each come from a
    counter-based generator, Philox, whose key is the seed and the site and whose counter starts at the block's row, its
    column and the sample.

    Args:
        seed: Seed.
        sample: Number of the sample.
        site: Name of the site.
        leading: Dimensions before rows and columns.
        window: Which places.

    References:
        | Parallel random numbers: as easy as 1, 2, 3 (Salmon et al., 2011)
        | https://doi.org/10.1145/2063384.2063405

    Example:
        >>> from pyro_vble.scene.grid import Window
        >>> from pyro_vble.scene.noise import noise_field
        >>> whole = noise_field(0, 5, "z", (8,), Window(0, 100, 0, 90))
        >>> bool((noise_field(0, 5, "z", (8,), Window(60, 70, 10, 80)) == whole[:, 60:70, 10:80]).all())
        True
    """
    key = int.from_bytes(hashlib.blake2b(f"{seed} {site}".encode(), digest_size=16).digest(), "little")
    field = np.empty((*leading, window.height, window.width), np.float32)
    side = _BLOCK_OF_MANY if math.prod(leading) >= _MANY else _BLOCK
    blocks = window.coarser(side)
    for row in range(blocks.top, blocks.bottom):
        for column in range(blocks.left, blocks.right):
            block = Window(row, row + 1, column, column + 1).finer(side)
            part = block.within(window)
            bits = np.random.Philox(key=key, counter=[0, row, column, sample])
            drawn = np.random.Generator(bits).standard_normal((*leading, side, side), dtype=np.float32)
            field[(..., *part.relative_to(window).slices)] = drawn[(..., *part.relative_to(block).slices)]
    return field
