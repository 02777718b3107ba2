"""LPIPS: a distance of images as networks see them."""

import contextlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor

from pyro_vble._arguments import PathName, checked, one_of
from pyro_vble._extras import extra
from pyro_vble._tensors import RealTensor, same_shape
from pyro_vble.io.torch_files import read_torch_file

#: What tables call the networks.
NAMES = {"vgg": "VGG", "alex": "Alex"}
_FIRST_KERNEL = {3: "vgg", 11: "alex"}


class Perceptual:
    """LPIPS with one network, VGG as published or Alex.

    Args:
        model: The distance of images on [-1, 1].
        network: "vgg" or "alex".
    """

    def __init__(self, model: Callable[[Tensor, Tensor], Tensor], network: str) -> None:
        self.model, self.network = model, network

    @checked
    @torch.no_grad()
    def __call__(self, estimate: RealTensor, truth: RealTensor) -> float:
        """The mean distance of images (B, C, H, W) in [0, 1]; of one band as grey ones.

        Raises:
            ValueError: If the shapes differ, or the images have neither one nor three bands.
        """
        same_shape(truth=truth, estimate=estimate)
        if truth.dim() != 4 or truth.shape[1] not in (1, 3):
            raise ValueError(f"LPIPS is of images (B, C, H, W) of 1 or 3 bands; received shape {tuple(truth.shape)}.")
        pair = [(2 * image.float() - 1).expand(-1, 3, -1, -1) for image in (estimate, truth)]
        return float(self.model(*pair).mean())


@checked
def load_perceptual(
    weights: PathName | None = None,
    *,
    network: Annotated[str, one_of(*NAMES)] | None = None,
    device: Any = "cpu",
) -> Perceptual:
    """LPIPS with weights from a file, or with those that torchvision downloads: VGG's, and if not, Alex's.

    Args:
        weights: A file (.safetensors, or what torch saved) of torchvision's VGG16 or AlexNet, all of it or its
            ``features``; it says which.
        network: "vgg" or "alex", where only one of them is wanted.
        device: Where it computes.

    Raises:
        ImportError: If lpips is not installed.
        OSError: If there is no such file, or nothing can be downloaded.
        ValueError: If the file holds other weights.

    References:
        | The unreasonable effectiveness of deep features as a perceptual metric (Zhang et al., 2018)
        | https://arxiv.org/abs/1801.03924
    """
    with extra("benchmark"):
        import lpips
    if weights is not None:
        found, features = _features(Path(weights))
        if network not in (None, found):
            raise ValueError(f"weights must be of the network {network}; received those of {found} in {weights}.")
        model = _built(lpips, found, download=False)
        _fill(model.net, features, weights)
        return Perceptual(model.to(device), found)
    reasons = []
    for name in (network,) if network else NAMES:
        try:
            return Perceptual(_built(lpips, name, download=True).to(device), name)
        except Exception as error:  # the network, the server, the disk: torch.hub raises anything
            reasons.append(f"{NAMES[name]}: {' '.join(str(error).split())[:100] or type(error).__name__}")
    raise OSError(f"LPIPS needs weights that cannot be downloaded ({'; '.join(reasons)}); name a file of them.")


def _built(lpips: Any, network: str, *, download: bool) -> Any:
    with warnings.catch_warnings(), contextlib.redirect_stdout(None):
        warnings.simplefilter("ignore")  # torchvision's, of arguments that lpips passes
        return lpips.LPIPS(net=network, pnet_rand=not download, verbose=False).eval().requires_grad_(False)


def _features(path: Path) -> tuple[str, dict[str, Tensor]]:
    """Which network a file is of, and its convolutions by their place in torchvision's ``features``."""
    from safetensors.torch import load_file

    if not path.is_file():
        raise FileNotFoundError(f"There are no weights at {path}; name a file of torchvision's VGG16 or AlexNet.")
    content = load_file(path) if path.suffix == ".safetensors" else read_torch_file(path)
    try:
        features = {
            key.removeprefix("features."): value for key, value in content.items() if not key.startswith("classifier.")
        }
        return _FIRST_KERNEL[features["0.weight"].shape[-1]], features
    except (AttributeError, KeyError, IndexError) as error:
        raise ValueError(f"{path} must hold the weights of torchvision's VGG16 or AlexNet; it does not.") from error


def _fill(net: torch.nn.Module, features: dict[str, Tensor], path: Any) -> None:
    """Write weights into lpips' slices, whose layers keep their places as names: slice2.3.weight is 3.weight."""
    own = {key.split(".", 1)[1]: value for key, value in net.state_dict().items()}
    if own.keys() != features.keys() or any(own[key].shape != features[key].shape for key in own):
        raise ValueError(f"{path} must hold the weights of torchvision's VGG16 or AlexNet; layers or sizes differ.")
    with torch.no_grad():
        for key, value in own.items():
            value.copy_(features[key])
