"""Direct inversion: a network that was trained on simulated pairs of one sensor."""

import json
import os
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from pyro_vble._arguments import (
    BrokenRuleError,
    Count,
    Named,
    PathName,
    Positive,
    Progress,
    Rule,
    Seed,
    checked,
    one_of,
)
from pyro_vble.baselines.linear import check_linear
from pyro_vble.baselines.point import point
from pyro_vble.baselines.rdn import RDN
from pyro_vble.inference import resolve_device
from pyro_vble.inference.precision import Device
from pyro_vble.io.atomic import atomic_path, check_writable
from pyro_vble.physics import operator_on
from pyro_vble.samples import StoredSamples
from pyro_vble.seeding import derived_seed, seeded
from pyro_vble.training import read_images
from pyro_vble.training.crops import RandomCrops
from pyro_vble.training.recipes import Data, Schedule
from pyro_vble.training.schedule import learning_rate

_FORMAT = "pyro-vble direct network 1"


def _network(value: Any) -> Any:
    if isinstance(value, nn.Module | str | os.PathLike):
        return value
    raise BrokenRuleError("type")


DirectLike = Annotated[Any, Rule("a network (y) -> x, or the path of one", _network, "train_direct makes one")]
Architecture = Annotated[str, one_of("srresnet", "rdn")]


@checked
def direct(y: Any, physics: Any, network: DirectLike, *, device: Device = "auto") -> StoredSamples:
    r"""The image that a network trained for just this sensor makes of a measurement.

    .. math:: \hat x = f_\theta(y), \qquad \theta = \arg\min\; \mathrm{E}\, \lVert f_\theta(A x + w) - x \rVert_1

    The operator takes no part in it: on measurements of another sensor the network is wrong and does not say so.

    Args:
        y: Measurement (B, C, H', W') of images in [0, 1], none of it missing.
        physics: The linear operator, which goes with the samples.
        network: What :func:`train_direct` returned, or the path of its file.
        device: "auto" (CUDA where there is one) or a torch device.

    Returns:
        One image (1, B, C, H, W), as samples.

    Raises:
        TypeError: If an argument is of a wrong kind.
        ValueError: If a value is missing, or the file holds no such network.

    Example:
        >>> import torch, deepinv
        >>> from pyro_vble.baselines import direct
        >>> from pyro_vble.baselines.rdn import RDN
        >>> physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))
        >>> network = RDN(features=4, growth=4, num_blocks=1, layers=1)
        >>> direct(torch.rand(1, 3, 16, 16), physics, network).mmse_x().shape
        torch.Size([1, 3, 16, 16])
    """
    check_linear(y, physics)
    if not bool(y.isfinite().all()):
        raise ValueError(
            "y must be whole for a network that was trained on whole measurements; received NaN in "
            f"{int((~y.isfinite()).sum())} values; fill them (pyro_vble.physics.fill_missing), or use dpir."
        )
    found = resolve_device(device)
    network = network if isinstance(network, nn.Module) else load_direct(network)
    own = next(iter(network.parameters()), y)
    moved = network if own.device.type == found.type else network.to(found)
    with torch.no_grad():
        x = moved.eval()(y.to(found, own.dtype)).to(y.dtype)
    return point(x, y, physics, f"direct, {type(network).__name__}")


@checked
def train_direct(
    images: Any,
    physics: Any,
    path: PathName | None = None,
    *,
    architecture: Architecture = "srresnet",
    scale: Count = 1,
    bands: Count = 3,
    settings: Named | None = None,
    num_steps: Count = 20_000,
    crop: Count = 96,
    batch_size: Count = 16,
    lr: Positive = 2e-4,
    seed: Seed | None = None,
    device: Device = "auto",
    progress: Progress = True,
) -> nn.Module:
    r"""Train a network on pairs that the operator simulates: crops of images, measured with noise anew at each step.

    .. math:: \min_\theta\; \mathrm{E}_{x, w}\, \lVert f_\theta(A x + w) - x \rVert_1

    by Adam, its rate warmed up and taken to a fiftieth by a cosine. The published networks learn for days on a GPU.

    Args:
        images: Folder of images, or several.
        physics: The operator with its noise model; its images are of any size, crops among them.
        path: Where the network is written, as safetensors.
        architecture: "srresnet" (deepinv's, without normalisation, which would tie an image's brightness to its
            batch's) or "rdn".
        scale: How many times as wide as its measurement the image is.
        bands: Of the images.
        settings: Of the network: ``feats`` and ``num_blocks`` of SRResNet; ``features``, ``growth``, ``num_blocks`` and
            ``layers`` of RDN.
        num_steps: Steps.
        crop: Side of the crops, in the image's pixels.
        batch_size: Crops a step.
        lr: Largest learning rate.
        seed: Seed of weights, crops and noise.
        device: "auto" (CUDA where there is one) or a torch device.
        progress: Show a bar; or a callable that wraps the iterable of steps.

    Returns:
        The network, in evaluation mode.

    Raises:
        TypeError: If an argument is of a wrong kind.
        ValueError: If the crops' measurements are not as large as the scale says, or there are no images.
    """
    from tqdm import tqdm

    if path is not None:
        check_writable(path)
    found = resolve_device(device)
    operator = operator_on(physics, found, torch.float32)
    with seeded(derived_seed(seed, "weights")):
        network = _built(architecture, bands, scale, settings or {}).to(found)
    schedule = Schedule(steps=num_steps, lr=lr)
    crops = RandomCrops(
        read_images(images, bands=bands, smallest=crop), Data(crop=crop, batch_size=batch_size, symmetries="all"), found
    )
    adam = torch.optim.Adam(network.parameters(), lr)
    steps: Any = progress(range(num_steps)) if callable(progress) else tqdm(range(num_steps), disable=not progress)
    with torch.inference_mode(False), torch.enable_grad(), seeded(derived_seed(seed, "pairs")):
        for step in steps:
            x = crops()
            with torch.no_grad():
                y = operator(x)
            estimate = network(y)
            if estimate.shape != x.shape:
                raise ValueError(
                    f"scale must be how many times as wide as its measurement the image is; received {scale}, by which "
                    f"the measurement of {tuple(x.shape)}, {tuple(y.shape)}, becomes {tuple(estimate.shape)}; name the "
                    "operator's own scale, and keep the image's size (padding other than 'valid')."
                )
            for group in adam.param_groups:
                group["lr"] = learning_rate(schedule, step / num_steps)
            adam.zero_grad()
            (estimate - x).abs().mean().backward()
            adam.step()
    network = network.eval().requires_grad_(False)
    if path is not None:
        header = {"architecture": architecture, "bands": bands, "scale": scale, "settings": settings or {}}
        _write(network, Path(path), header)
    return network


@checked
def load_direct(path: PathName) -> nn.Module:
    """The network that :func:`train_direct` wrote.

    Raises:
        OSError: If there is no such file.
        ValueError: If it is another one.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no network at {path}; train_direct(images, physics, path) writes one.")
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {})["direct"])
        network = _built(header["architecture"], header["bands"], header["scale"], header["settings"])
        network.load_state_dict(load_file(path))
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{path} must be a network that train_direct wrote; it cannot be read as one "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})."
        ) from error
    return network.eval().requires_grad_(False)


def direct_header(path: str | os.PathLike) -> dict[str, Any] | None:
    """Architecture, bands, scale and settings of a network that :func:`train_direct` wrote; None of any other file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {})["direct"])
    except (SafetensorError, OSError, KeyError, ValueError):
        return None
    return header if isinstance(header, dict) else None


def _built(architecture: str, bands: int, scale: int, settings: dict[str, Any]) -> nn.Module:
    if architecture == "rdn":
        return RDN(bands, scale, **settings)
    from deepinv.models import SRResNet

    return SRResNet(**{"im_c": bands, "upscale": scale, "norm": None, **settings})


def _write(network: nn.Module, path: Path, header: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {key: value.cpu().contiguous() for key, value in network.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"format": _FORMAT, "direct": json.dumps(header)})
