"""Priors as files: our safetensors, and others' checkpoints."""

import copy
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import safe_open, save_file
from torch import Tensor, nn

from pyro_vble.io.atomic import atomic_path
from pyro_vble.models import (
    CAE,
    VAE,
    LearnedStandardDeviation,
    Prior,
    StandardDeviationDecoder,
    _compressai,
    convolutional_vae,
)

_HUB_NAME = re.compile(r"(?:mbt|cheng)_(0\.\d+)_")
_VARIANCE_PREFIX = "variance_decoder."
_STD_PREFIX = "decoder_std."
_HALVES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def save_prior(
    prior: Prior, path: str | os.PathLike, *, metadata: Mapping[str, Any] | None = None, dtype: str = "float32"
) -> None:
    """Write a prior to one safetensors file, from which ``load_prior`` makes it again.

    A compressive autoencoder's file is also a CompressAI state dict, quantiles solved for: after ``update()`` its
    network compresses. What besides the weights makes the prior is in the header.

    Args:
        prior: A :class:`~pyro_vble.models.CAE`, or a VAE of ``convolutional_vae``.
        path: Where to.
        metadata: More for the header; values are written as strings.
        dtype: "float32", or "float16" or "bfloat16" for a file of half the size.

    Raises:
        TypeError: If the prior is a VAE of own networks, which no file can build again.
        ValueError: If the data type is unknown.
    """
    if dtype not in _HALVES:
        raise ValueError(f"dtype must be one of {', '.join(_HALVES)}; received {dtype!r}.")
    state, header = _cae_content(prior) if isinstance(prior, CAE) else _vae_content(prior)
    header |= {key: str(value) for key, value in (metadata or {}).items()}
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
    # Single numbers are constants of the architecture, some too small for half precision, such as bounds of 1e-9.
    halved = {k: v.to(_HALVES[dtype]) for k, v in tensors.items() if v.is_floating_point() and v.numel() > 1}
    with atomic_path(path) as temporary:
        save_file(tensors | halved, temporary, metadata=header)


def read_prior(path: Path, alpha: float | None, architecture: str | None, distortion: str | None) -> Prior:
    """The prior in a file; arguments that are not None go before what the file says.

    Raises:
        ValueError: If the file is damaged, is no prior's, or does not tell alpha.
    """
    state, metadata = _read_safetensors(path) if path.suffix == ".safetensors" else _read_checkpoint(path)
    if metadata.get("model") == "VAE":
        return _vae(state, metadata, path)
    return _cae(state, metadata, path, alpha, architecture, distortion)


def _cae_content(prior: CAE) -> tuple[dict[str, Tensor], dict[str, str]]:
    header = {
        "model": "CAE",
        "architecture": type(prior.network).__name__,
        "distortion": prior.distortion,
    }
    if prior.alpha is not None:
        header["alpha"] = str(prior.alpha)
    state = _compressai.codec_state(prior.network)
    std = prior.variance_decoder
    if std is not None:
        header |= {"std_link": std.link, "std_floor": str(std.floor)}
        state |= {_VARIANCE_PREFIX + key: value for key, value in std.network.state_dict().items()}
    return state, header


def _vae_content(prior: Prior) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not isinstance(prior, VAE) or prior.architecture is None:
        raise TypeError(
            f"Compressive autoencoders and VAEs of convolutional_vae can be written; received a {type(prior).__name__} "
            "of networks of your own; save its state_dict()."
        )
    header = {"model": "VAE", "network": json.dumps(prior.architecture)}
    state = {
        f"{part}.{key}": value
        for part in ("encoder", "decoder")
        for key, value in getattr(prior, part).state_dict().items()
    }
    std = prior.decoder_std
    if isinstance(std, StandardDeviationDecoder):
        header |= {"std_link": std.link, "std_floor": str(std.floor)}
        state |= {_STD_PREFIX + key: value for key, value in std.network.state_dict().items()}
    else:
        header["decoder_std"] = str(std.value.item() if isinstance(std, LearnedStandardDeviation) else float(std))
    return state, header


def _vae(state: dict[str, Tensor], metadata: dict[str, str], path: Path) -> VAE:
    std_state = _part(state, _STD_PREFIX)
    try:
        with torch.random.fork_rng(devices=[]):
            prior = convolutional_vae(
                **json.loads(metadata["network"]), decoder_std=float(metadata.get("decoder_std", 1))
            )
        prior.encoder.load_state_dict(_part(state, "encoder."))
        prior.decoder.load_state_dict(_part(state, "decoder."))
        if std_state:
            network = copy.deepcopy(prior.decoder)
            network.load_state_dict(std_state)
            prior.decoder_std = _std_decoder(network, metadata)
    except (RuntimeError, KeyError, TypeError) as error:
        raise ValueError(f"The weights in {path} must fit the networks its header describes; {error}.") from error
    return prior


def _cae(
    state: dict[str, Tensor],
    metadata: dict[str, str],
    path: Path,
    alpha: float | None,
    architecture: str | None,
    distortion: str | None,
) -> CAE:
    published = _HUB_NAME.match(path.name)
    if alpha is None and "alpha" in metadata:
        alpha = float(metadata["alpha"])
    if alpha is None and published:
        alpha = float(published.group(1))
    if distortion is None:
        # Older files describe it in a sentence; the authors' tell it by their names alone.
        told = metadata.get("distortion", "sum" if published else "mean")
        distortion = "sum" if told.startswith("sum") else "mean"
    std_state = _part(state, _VARIANCE_PREFIX)
    network = _compressai.build_network(
        {key: value for key, value in state.items() if not key.startswith(_VARIANCE_PREFIX)},
        architecture or metadata.get("architecture"),
    )
    if alpha is None and not std_state:
        raise ValueError(
            f"The variance of p(x|z) needs the bitrate parameter that the network was trained with, and {path} does "
            "not tell it; pass alpha=..., for example load_prior(path, alpha=0.025)."
        )
    variance_decoder = None
    if std_state:
        decoder = copy.deepcopy(network.g_s)
        try:
            decoder.load_state_dict(std_state)
        except RuntimeError as error:
            raise ValueError(
                "A variance decoder must have the architecture of the network's decoder g_s; these weights do not "
                f"({str(error).splitlines()[-1].strip()})."
            ) from error
        variance_decoder = _std_decoder(decoder, metadata)
    return CAE(network, alpha, variance_decoder=variance_decoder, distortion=distortion)


def _std_decoder(network: nn.Module, metadata: dict[str, str]) -> StandardDeviationDecoder:
    """Where a file does not tell link and floor, they are the published ones."""
    floor = float(metadata.get("std_floor", 2e-4))
    return StandardDeviationDecoder(network, metadata.get("std_link", "sigmoid"), floor)


def _part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            metadata = dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"A prior's file must be a complete safetensors file; {path} cannot be read ({error}); it may be "
            "truncated: copy or download it again."
        ) from error
    halves = (torch.float16, torch.bfloat16)
    return {key: value.float() if value.dtype in halves else value for key, value in state.items()}, metadata


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
