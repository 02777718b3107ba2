"""Classical codecs, each at the setting that is best for an image under a rate-distortion loss."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import imagecodecs
import numpy as np

Pixels = np.ndarray  # (H, W, 3) uint8


@dataclass(frozen=True)
class Codec:
    """A codec with one setting from worst to best.

    Attributes:
        encode: Pixels and setting to bytes.
        decode: Bytes to pixels.
        settings: Lowest and highest.
    """

    encode: Callable[[Pixels, int], bytes]
    decode: Callable[[bytes], Pixels]
    settings: tuple[int, int]


def _jpeg(subsampling: str) -> Codec:
    return Codec(
        lambda x, quality: imagecodecs.jpeg8_encode(x, level=quality, subsampling=subsampling, optimize=True),
        imagecodecs.jpeg8_decode,
        (1, 100),
    )


def _avif(pixel_format: str) -> Codec:
    return Codec(
        lambda x, quality: imagecodecs.avif_encode(x, level=quality, speed=4, pixelformat=pixel_format, numthreads=1),
        lambda data: imagecodecs.avif_decode(data, numthreads=1),
        (1, 99),
    )


#: By name, the ways that each codec has of keeping colour; the better one counts.
CODECS: dict[str, tuple[Codec, ...]] = {
    "JPEG": (_jpeg("420"), _jpeg("444")),
    "JPEG XL": (
        # Butteraugli's distance, in tenths, from far to near.
        Codec(
            lambda x, setting: imagecodecs.jpegxl_encode(
                x, distance=(151 - setting) / 10, lossless=False, effort=7, numthreads=1
            ),
            imagecodecs.jpegxl_decode,
            (1, 150),
        ),
    ),
    "JPEG 2000": (
        # PSNR in fifths of a decibel.
        Codec(
            lambda x, setting: imagecodecs.jpeg2k_encode(
                x, level=setting / 5, codecformat="j2k", mct=True, reversible=False, numthreads=1
            ),
            imagecodecs.jpeg2k_decode,
            (75, 250),
        ),
    ),
    "AVIF": (_avif("420"), _avif("444")),
}


@dataclass(frozen=True)
class Coded:
    """What a codec made of an image.

    Attributes:
        loss: alpha·255²·MSE + bits per pixel.
        bpp: Bits per pixel, headers included.
        mse: Mean squared error, of values in [0, 1].
    """

    loss: float
    bpp: float
    mse: float


def best(codec: Iterable[Codec], pixels: Pixels, alpha: float) -> Coded:
    r"""The image at the codec's setting of least loss.

    .. math:: \alpha\, 255^2\, \mathrm{MSE} + \mathrm{bits\ per\ pixel}

    Args:
        codec: Ways of one codec, all of which are tried.
        pixels: (H, W, 3) uint8.
        alpha: CompressAI's lambda.
    """
    return min((_search(way, pixels, alpha) for way in codec), key=lambda coded: coded.loss)


def _search(codec: Codec, pixels: Pixels, alpha: float) -> Coded:
    """Ever smaller steps of the setting around the best so far: the loss has one valley, with ripples."""
    low, high = codec.settings
    tried: dict[int, Coded] = {}

    def loss(setting: int) -> float:
        if setting not in tried:
            data = codec.encode(pixels, setting)
            mse = float(np.square((codec.decode(data).astype(np.float64) - pixels) / 255).mean())
            bpp = 8 * len(data) / (pixels.shape[0] * pixels.shape[1])
            tried[setting] = Coded(alpha * 255**2 * mse + bpp, bpp, mse)
        return tried[setting].loss

    step = max(1, (high - low) // 8)
    middle = min(range(low, high + 1, step), key=loss)
    while step > 1:
        step = (step + 1) // 2
        middle = min((s for s in (middle, middle - step, middle + step) if low <= s <= high), key=loss)
    return tried[middle]
