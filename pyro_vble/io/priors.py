"""Loading generative priors."""

import copy
import importlib.resources
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import safe_open
from torch import Tensor, nn

from pyro_vble.models import CAE, Prior, _compressai

_HUB_NAME = re.compile(r"(?:mbt|cheng)_(0\.\d+)_")
_VARIANCE_PREFIX = "variance_decoder."
# The published variance decoders end in sigmoid(·) + 2e-4.
_PUBLISHED_FLOOR = 2e-4


class StandardDeviationDecoder(nn.Module):
    """A decoder of standard deviations, sigmoid(network(z)) + floor, as the published variance decoders are."""

    def __init__(self, network: nn.Module, floor: float = _PUBLISHED_FLOOR) -> None:
        super().__init__()
        self.network = network
        self.floor = floor

    def forward(self, z: Tensor) -> Tensor:
        """Standard deviation of p(x|z), (B, C, H, W)."""
        return torch.sigmoid(self.network(z)) + self.floor


def load_prior(
    name: str | os.PathLike,
    *,
    alpha: float | None = None,
    architecture: str | None = None,
    distortion: str | None = None,
    rate_scale: float = 1.0,
) -> Prior:
    """Load a generative prior by name or from a file.

    - a bundled prior: ``"cae-bsd"`` (:func:`available_priors` lists them);
    - a network of the CompressAI zoo, ``"mbt2018-mean/5"``: name and quality, downloaded on first use;
    - a local ``.safetensors`` file, alpha and architecture read from its header where it has them;
    - a local CompressAI checkpoint (``.pth``, ``.pt``, ``.tar``), read with ``weights_only=True``;
    - a local checkpoint in the layout of the published VBLE weights (``mbt_0.0483_bsd_std-diagonal...``), its
      variance decoder included.

    Args:
        name: Name or path.
        alpha: Bitrate parameter, where the file does not tell.
        architecture: Name of the CompressAI class, where the weights should not decide.
        distortion: "mean" or "sum" over bands, the convention of alpha; by default what the file says, "sum" for the
            published VBLE weights, else "mean".
        rate_scale: s in (0, 1], see :class:`~pyro_vble.models.CAE`.

    Raises:
        ValueError: If the name is unknown, the file is damaged, or alpha cannot be told.
        ImportError: If CompressAI cannot be imported.
        ConnectionError: If zoo weights cannot be downloaded.

    Example:
        >>> from pyro_vble import load_prior
        >>> load_prior("cae-bsd").alpha
        0.025
    """
    name = os.fspath(name)
    if name in available_priors():
        with importlib.resources.as_file(_bundled() / f"{name}.safetensors") as path:
            prior = _from_file(path, alpha, architecture, distortion)
    elif Path(name).is_file():
        prior = _from_file(Path(name), alpha, architecture, distortion)
    elif re.fullmatch(r"[a-z0-9-]+/\d", name) and name.split("/")[0] in _compressai.ZOO_CLASSES:
        prior = _from_zoo(name)
        if alpha is not None and alpha != prior.alpha:
            raise ValueError(f"{name} was trained with alpha={prior.alpha}; received alpha={alpha}; leave it out.")
    else:
        raise ValueError(
            f"A prior is a bundled name ({', '.join(available_priors())}), a CompressAI zoo name with its quality "
            f"({', '.join(f'{zoo}/5' for zoo in _compressai.ZOO_CLASSES)}) or the path of an existing file; received "
            f"{name!r}."
        )
    prior.name = name
    prior.eval()
    return prior if rate_scale == 1 else prior.with_rate_scale(rate_scale)


def available_priors() -> list[str]:
    """Names of the priors that come with the package.

    Example:
        >>> from pyro_vble import available_priors
        >>> "cae-bsd" in available_priors()
        True
    """
    return sorted(f.name.removesuffix(".safetensors") for f in _bundled().iterdir() if f.name.endswith(".safetensors"))


def _bundled() -> Any:
    return importlib.resources.files("pyro_vble.weights")


def _from_file(path: Path, alpha: float | None, architecture: str | None, distortion: str | None) -> CAE:
    state, metadata = _read_safetensors(path) if path.suffix == ".safetensors" else _read_checkpoint(path)
    published = _HUB_NAME.match(path.name)
    if alpha is None and "alpha" in metadata:
        alpha = float(metadata["alpha"])
    if alpha is None and published:
        alpha = float(published.group(1))
    if distortion is None:
        distortion = "sum" if published or metadata.get("distortion", "").startswith("sum") else "mean"
    # Training keeps its decoders of the mean and of the variance side by side in one state dict.
    std_state = {k.removeprefix(_VARIANCE_PREFIX): v for k, v in state.items() if k.startswith(_VARIANCE_PREFIX)}
    network = _compressai.build_network(
        {k: v for k, v in state.items() if not k.startswith(_VARIANCE_PREFIX)},
        architecture or metadata.get("architecture"),
    )
    variance_decoder = _variance_decoder(network, std_state) if std_state else None
    if alpha is None and variance_decoder is None:
        raise ValueError(
            f"The variance of p(x|z) needs the bitrate parameter that the network was trained with, and {path} does "
            "not tell it; pass alpha=..., for example load_prior(path, alpha=0.025)."
        )
    return CAE(network, alpha, variance_decoder=variance_decoder, distortion=distortion)


def _from_zoo(name: str) -> CAE:
    zoo, quality = name.split("/")
    try:
        network = _compressai.zoo_network(zoo, int(quality))
    except (OSError, TimeoutError) as error:
        raise ConnectionError(
            f"The weights of {name} are downloaded on first use, and that failed ({error}). On a machine without "
            "network, copy the checkpoint there and pass its path: load_prior('.../file.pth.tar', "
            f"alpha={_compressai.ZOO_ALPHAS.get(int(quality))})."
        ) from error
    except ValueError as error:
        raise ValueError(f"The CompressAI zoo has no {name!r}: {error}.") from error
    return CAE(network, _compressai.ZOO_ALPHAS[int(quality)])


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"A prior's file must be a complete safetensors file; {path} cannot be read ({error}); it may be "
            "truncated: copy or download it again."
        ) from error


def _read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """State dict and metadata of a pickled checkpoint, read without running anything in it."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises anything from EOFError to UnpicklingError, by the kind of damage
        raise ValueError(
            "A checkpoint must be a file that torch.load reads with weights_only=True; "
            f"{path} is not ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}); "
            "it may be truncated, or hold more than weights: save its state_dict alone, or convert it to safetensors."
        ) from error
    metadata = {}
    if isinstance(content, Mapping):
        metadata = {k: str(v) for k, v in content.items() if isinstance(v, str | float | int)}
        for key in ("state_dict", "model_state_dict", "model", "net"):
            if isinstance(content.get(key), Mapping):
                content = content[key]
                break
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(
            f"A checkpoint must be a state dict, or hold one under 'state_dict'; {path} holds "
            f"{type(content).__name__}; save network.state_dict()."
        )
    return {k.removeprefix("module."): v for k, v in content.items()}, metadata


def _variance_decoder(network: nn.Module, state: dict[str, Tensor]) -> StandardDeviationDecoder:
    """A variance decoder of the architecture of the network's own decoder."""
    decoder = copy.deepcopy(network.g_s)
    # Ours are saved whole, as StandardDeviationDecoder; the published ones as the bare decoder.
    state = {k.removeprefix("network."): v for k, v in state.items()}
    try:
        decoder.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            "A variance decoder must have the architecture of the network's decoder g_s; these weights do not "
            f"({str(error).splitlines()[-1].strip()})."
        ) from error
    return StandardDeviationDecoder(decoder)
