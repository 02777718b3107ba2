"""Denoisers by which plug-and-play methods know images: whatever the user has, on images of any size and bands."""

import copy
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vble._arguments import BrokenRuleError, Rule, brief

_REMEDY = 'pass a deepinv denoiser, "drunet" (downloaded on first use), or the path of a file with FFDNet\'s weights'


def _denoiser(value: Any) -> Any:
    if value is None or callable(value):
        return value
    if isinstance(value, str | Path) and str(value):
        return value
    raise BrokenRuleError("type")


DenoiserLike = Annotated[Any, Rule("a denoiser (x, sigma) -> x, a name or path of one, or None", _denoiser, _REMEDY)]


class ImageDenoiser(nn.Module):
    """A denoiser D(x, σ) of images (B, C, H, W), whose network may want other bands or sides, or another data type.

    Images of one band go through a network of three as grey ones, averaged afterwards; others band by band.

    Args:
        network: (x, sigma) -> x, sigma a number or (B,).
        bands: How many bands the network takes; None for any.
        multiple: What sides must be a multiple of.
        name: In words.
    """

    def __init__(self, network: Any, *, bands: int | None = None, multiple: int = 1, name: str = "") -> None:
        super().__init__()
        self.network, self.bands, self.multiple = network, bands, multiple
        self.name = name or type(network).__name__

    @torch.no_grad()
    def forward(self, x: Tensor, sigma: Any, **kwargs: Any) -> Tensor:
        """The images denoised of Gaussian noise of standard deviation sigma, a number or one an image (B,)."""
        sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).flatten().expand(len(x))
        by_band = self.bands is not None and x.shape[1] != self.bands
        images = x.flatten(0, 1)[:, None].expand(-1, self.bands or 1, -1, -1) if by_band else x
        level = sigma.repeat_interleave(x.shape[1]) if by_band else sigma
        height, width = x.shape[-2:]
        edges = (0, -width % self.multiple, 0, -height % self.multiple)
        images = F.pad(images, edges, mode="replicate") if any(edges) else images
        like = next(iter(self.network.parameters()), x) if isinstance(self.network, nn.Module) else x
        found = self.network(images.to(like), self._level(level.to(like))).to(x)[..., :height, :width]
        return found.mean(1).reshape(x.shape) if by_band else found

    @staticmethod
    def _level(sigma: Tensor) -> Any:
        """One number where all are equal: not every denoiser takes one an image."""
        return float(sigma[0]) if bool((sigma == sigma[0]).all()) else sigma


def denoiser_on(source: Any, bands: int, device: torch.device) -> ImageDenoiser:
    """The denoiser that was asked for, on the device; a module that is elsewhere is copied.

    Args:
        source: A callable (x, sigma) -> x, "drunet", the path of FFDNet's weights, or None for DRUNet.
        bands: Of the images.
        device: Where they are.

    Raises:
        RuntimeError: If DRUNet cannot be downloaded.
        ValueError: If a file does not hold FFDNet's weights.
    """
    if source is None or source == "drunet":
        return _drunet(bands, device, asked=source is not None)
    if isinstance(source, str | Path):
        return ffdnet(source).to(device)
    if isinstance(source, ImageDenoiser):
        source = source if _is_on(source, device) else _copied(source, device)
        return source
    if isinstance(source, nn.Module) and not _is_on(source, device):
        source = _copied(source, device)
    if type(source).__name__ == "FFDNet":
        return ImageDenoiser(source, bands=source.state_dict()["blocks.0.0.weight"].shape[1] // 4 - 1, multiple=2)
    if type(source).__name__ == "DRUNet":
        return ImageDenoiser(source, bands=source.state_dict()["m_head.weight"].shape[1] - 1)
    return ImageDenoiser(source)


def ffdnet(path: str | Path) -> ImageDenoiser:
    """FFDNet with weights from a file, grey or colour, of any width and depth.

    Args:
        path: ``.safetensors``, or what ``torch.save`` wrote, with the keys of ``deepinv.models.FFDNet``.

    Raises:
        OSError: If there is no such file.
        ValueError: If it holds other weights.

    References:
        | FFDNet: toward a fast and flexible solution for CNN-based image denoising (Zhang et al., 2018)
    """
    from deepinv.models import FFDNet
    from safetensors.torch import load_file

    from pyro_vble.io.torch_files import read_torch_file

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"denoiser must be a denoiser, or the path of a file with FFDNet's weights; received {str(path)!r}, where "
            f"there is no file; {_REMEDY}."
        )
    weights = load_file(path) if path.suffix == ".safetensors" else read_torch_file(path)
    try:
        width, channels = weights["blocks.0.0.weight"].shape[:2]
        bands = channels // 4 - 1
        depth = 1 + max(int(key.split(".")[1]) for key in weights)
        network = FFDNet(depth, int(width), img_channels=bands, pretrained=None)
        network.load_state_dict(weights)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError, RuntimeError) as error:
        raise ValueError(
            f"{path} must hold the weights of FFDNet, as deepinv.models.FFDNet names them; received "
            f"{brief(sorted(weights)[:3] if isinstance(weights, dict) else weights)}; {_REMEDY}."
        ) from error
    return ImageDenoiser(network.eval().requires_grad_(False), bands=bands, multiple=2)


def _drunet(bands: int, device: torch.device, *, asked: bool) -> ImageDenoiser:
    import deepinv

    own = 1 if bands == 1 else 3
    try:
        network = deepinv.models.DRUNet(own, own, pretrained="download", device=device)
    except Exception as error:  # the network, the server, the disk: torch.hub raises anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        given = '"drunet"' if asked else "None, which is DRUNet"
        raise RuntimeError(
            f"denoiser must be there or be downloaded; received {given}, and its weights cannot be downloaded "
            f"({reason}); without a network pass a denoiser of your own, or the path of a file with FFDNet's weights."
        ) from error
    return ImageDenoiser(network.eval().requires_grad_(False), bands=own)


def _is_on(module: nn.Module, device: torch.device) -> bool:
    return all(p.device == device or p.device.type == device.type == "cuda" for p in module.parameters())


def _copied(module: nn.Module, device: torch.device) -> Any:
    return copy.deepcopy(module).to(device)
