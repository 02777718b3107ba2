"""Pictures and arrays as text that a page holds."""

import base64
import io
import math
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

# Pictures of up to so many pixels are kept without loss, larger ones at this quality of WebP.
_EXACT, _QUALITY = 128 * 1024, 88
# Codes of error bars: 0 is missing, 1 is zero, the others are a factor apart that no eye needs finer.
_CODES, _FACTOR, _RANGE = 253, 0.03, 1e-4
# Steps of values are this part of the error bar that 99 % of pixels exceed.
_PART, _FEW = 4.0, 0.01
_MOST = 2**16 - 2


@dataclass(frozen=True)
class Packed:
    """An array as text.

    Attributes:
        text: Base64 of zlib's bytes: planes of low and, where codes are wide, of high bytes, each (C, H, W).
        wide: Whether codes have two bytes.
        differences: Whether each code is the difference to the one on its left (in the first column: above it).
        scale: What codes stand for: code - 1 is a multiple of ``step`` above ``least``, or code - 2 one above ``log``
            of the logarithm, and code 1 is zero; code 0 is missing.
    """

    text: str
    wide: bool
    differences: bool
    scale: dict[str, float]

    @property
    def about(self) -> dict[str, Any]:
        """What a page has to know to unpack it."""
        return {"wide": self.wide, "differences": self.differences, "scale": self.scale}


def picture_uri(values: np.ndarray) -> str:
    """An image (1 or 3, H, W) in [0, 1] as a data URI; missing pixels are transparent.

    Example:
        >>> import numpy as np
        >>> from pyro_vble.page.encoding import picture_uri
        >>> picture_uri(np.full((1, 4, 4), 0.5))[:21]
        'data:image/png;base64'
    """
    from PIL import Image

    missing = np.isnan(values).any(0)
    bytes_ = np.rint(255 * np.nan_to_num(values).clip(0, 1)).astype(np.uint8)
    if missing.any():
        alpha = np.where(missing, 0, 255).astype(np.uint8)[None]
        bytes_ = np.concatenate((np.broadcast_to(bytes_, (3, *missing.shape)), alpha))
    image = Image.fromarray(bytes_[0] if len(bytes_) == 1 else np.ascontiguousarray(bytes_.transpose(1, 2, 0)))
    small = missing.size <= _EXACT
    kind, options = ("png", {"optimize": True}) if small else ("webp", {"quality": _QUALITY, "method": 4})
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def packed_values(values: np.ndarray, step: float, std: np.ndarray | None) -> Packed:
    """Numbers (C, H, W), rounded to the file's own steps or to what their error bars can tell apart.

    Example:
        >>> import numpy as np
        >>> from pyro_vble.page.encoding import packed_values
        >>> packed_values(np.array([[[7.0, 9.0]]]), 1.0, None).scale
        {'least': 7.0, 'step': 1.0}
    """
    known = values[np.isfinite(values)]
    least, most = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    if std is not None:
        bars = std[np.isfinite(std) & (std > 0)]
        told = float(np.quantile(bars, _FEW)) / _PART if bars.size else 0.0
        # A multiple of the file's own step, so that whole numbers stay whole.
        step = max(step, told if step == 0 else step * math.floor(told / step))
    step = max(step, (most - least) / _MOST) or 1.0
    codes = np.where(np.isfinite(values), 1 + np.rint((np.nan_to_num(values) - least) / step), 0)
    return _packed(codes, {"least": least, "step": step})


def packed_widths(values: np.ndarray) -> Packed:
    """Error bars (C, H, W), not negative, to 1.5 % (2 % where they differ more than a thousandfold).

    Example:
        >>> import numpy as np
        >>> from pyro_vble.page.encoding import packed_widths
        >>> packed_widths(np.array([[[1.0, 2.0]]])).scale
        {'log': 0.0, 'step': 0.03}
    """
    positive = values[np.isfinite(values) & (values > 0)]
    most = float(positive.max()) if positive.size else 1.0
    least = max(float(positive.min()), _RANGE * most) if positive.size else 1.0
    step = max(_FACTOR, math.log(most / least) / _CODES)
    levels = np.rint(np.log(np.where(values > 0, values, 1.0) / least) / step).clip(0, _CODES)
    codes = np.where(np.isfinite(values), np.where(np.nan_to_num(values) > 0, 2 + levels, 1), 0)
    return _packed(codes, {"log": math.log(least), "step": step})


def _packed(codes: np.ndarray, scale: dict[str, float]) -> Packed:
    wide = bool(codes.max() > 255)
    codes = codes.astype(np.uint16 if wide else np.uint8)
    lefts = np.concatenate((np.zeros_like(codes[..., :1]), codes[..., :-1]), -1)
    lefts[:, 1:, 0] = codes[:, :-1, 0]
    plain, different = (_deflated(each, wide=wide) for each in (codes, codes - lefts))
    text = base64.b64encode(min(plain, different, key=len)).decode()
    return Packed(text, wide, len(different) < len(plain), scale)


def _deflated(codes: np.ndarray, *, wide: bool) -> bytes:
    planes = [codes & 255, codes >> 8] if wide else [codes]
    return zlib.compress(b"".join(plane.astype(np.uint8).tobytes() for plane in planes), 6)
