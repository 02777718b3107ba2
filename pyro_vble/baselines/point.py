"""An estimate without error bars, as samples."""

from typing import Any

from torch import Tensor

from pyro_vble.samples import StoredSamples


def point(x: Tensor, y: Tensor, physics: Any, made_with: str) -> StoredSamples:
    """One image a measurement, (B, C, H, W), as one sample where the measurement is."""
    return stored(x[None], y, physics, made_with)


def stored(images: Tensor, y: Tensor, physics: Any, made_with: str) -> StoredSamples:
    """Samples (n, B, C, H, W) where the measurement is, with the words that tell what made them."""
    samples = StoredSamples(images.to(y.device), y=y, physics=physics)
    samples.made_with = made_with
    return samples
