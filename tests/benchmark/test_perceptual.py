"""LPIPS with weights from a file."""

import pytest
import torch
import torchvision
from safetensors.torch import save_file

lpips = pytest.importorskip("lpips")

from pyro_vble.benchmark.perceptual import load_perceptual  # noqa: E402


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    features = torchvision.models.alexnet(weights=None).features
    path = tmp_path / "alex.safetensors"
    save_file({f"features.{key}": value for key, value in features.state_dict().items()}, path)
    return path, features


def test_layers_get_their_own_weights(weights):
    """The distance by hand: squared differences of unit features, weighed by the package's own linear heads."""
    path, features = weights
    distance = load_perceptual(path)
    assert distance.network == "alex"
    x, y = torch.rand(2, 1, 3, 64, 64)
    shift, scale = torch.tensor([-0.03, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    expected, a, b = 0.0, *((((2 * v - 1).permute(0, 2, 3, 1) - shift) / scale).permute(0, 3, 1, 2) for v in (x, y))
    heads = iter(distance.model.lins)
    with torch.no_grad():
        for k, layer in enumerate(features[:12]):
            a, b = layer(a), layer(b)
            if k in (1, 4, 7, 9, 11):
                one, other = (v / v.square().sum(1, keepdim=True).sqrt() for v in (a, b))
                expected += float(next(heads).model[-1]((one - other) ** 2).mean())
    assert distance(x, y) == pytest.approx(expected, rel=1e-3)
    assert distance(x, x) == 0


def test_images_of_one_band_are_grey(weights):
    distance = load_perceptual(weights[0])
    x, y = torch.rand(2, 1, 1, 64, 64)
    assert distance(x, y) == pytest.approx(distance(x.expand(1, 3, -1, -1), y.expand(1, 3, -1, -1)))
    with pytest.raises(ValueError, match="1 or 3 bands"):
        distance(torch.rand(1, 4, 64, 64), torch.rand(1, 4, 64, 64))


def test_another_file_is_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="VGG16 or AlexNet"):
        load_perceptual(path)
    with pytest.raises(FileNotFoundError, match="no weights"):
        load_perceptual(tmp_path / "none.pth")
