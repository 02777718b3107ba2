"""Folders as restore leaves them, without a restoration."""

import json
from pathlib import Path

import numpy as np
import torch

from pyro_vble.io.images import write_image


def restoration(
    folder: Path, *, shape=(3, 24, 40), dtype=np.uint8, white=255.0, spread=True, ratio=1, **metrics
) -> Path:
    """A restored image that rises to the right, an input beside the folder, and error bars in the file's numbers."""
    folder.mkdir()
    kind = {"dtype": dtype, "scale": white}
    suffix = ".png" if dtype == np.uint8 and shape[0] in (1, 3) else ".tif"
    ramp = torch.linspace(0.1, 0.9, shape[2]).expand(1, *shape).clone()
    rows = torch.linspace(0, 0.05, shape[1])[:, None]
    value = (ramp + rows).clamp(0, 1)
    image = write_image(folder.parent / f"in{suffix}", value[..., ::ratio, ::ratio], **kind)
    write_image(folder / f"restored{suffix}", value, **kind)
    if spread:
        std = 0.01 + 0.02 * ramp
        for k, sign in ((1, 1), (2, -1)):
            write_image(folder / f"sample_{k}{suffix}", (value + sign * std).clamp(0, 1), **kind)
        bars = {"std": std, "error_quantile_90": 1.6 * std}
        for name, values in bars.items():
            write_image(folder / f"{name}.tif", values, dtype=np.float32, scale=white)
    told = {"input": str(image), "problem": "denoise", "noise": 0.05, "white": white, "interrupted": False}
    (folder / "metrics.json").write_text(json.dumps(told | metrics))
    return folder
