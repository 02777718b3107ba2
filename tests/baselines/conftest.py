"""Denoisers whose answers are known, and the trained one where it is."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image


class GaussianDenoiser(torch.nn.Module):
    """The posterior mean under N(mean, variance) of every pixel: what an ideal denoiser does of white images."""

    def __init__(self, mean: float, variance: float) -> None:
        super().__init__()
        self.mean, self.variance = mean, variance

    def forward(self, x, sigma):
        sigma = torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, 1, 1, 1)
        return self.mean + (x - self.mean) * self.variance / (self.variance + sigma**2)


@pytest.fixture
def gaussian_denoiser():
    return GaussianDenoiser(0.4, 0.02)


@pytest.fixture(scope="session")
def ffdnet_path() -> Path:
    path = Path(__file__).parents[3] / "shared" / "weights" / "ffdnet_color.safetensors"
    if not path.is_file():
        pytest.skip("FFDNet's weights are not on this machine")
    return path


def _read(path: Path) -> torch.Tensor:
    pixels = np.asarray(Image.open(path).convert("RGB"), dtype=np.float32) / 255
    return torch.from_numpy(pixels).permute(2, 0, 1)


@pytest.fixture(scope="session")
def whole_photographs(shared_data) -> torch.Tensor:
    """Sixteen photographs, (16, 3, 256, 256)."""
    return torch.stack([_read(path) for path in sorted((shared_data / "bsd" / "test47").glob("*"))[::3]])


@pytest.fixture(scope="session")
def photographs(shared_data) -> torch.Tensor:
    """The middle of eight photographs, (8, 3, 96, 96)."""
    paths = sorted((shared_data / "bsd" / "test47").glob("*"))[:32:4]
    return torch.stack([_read(path)[:, 80:176, 80:176] for path in paths])
