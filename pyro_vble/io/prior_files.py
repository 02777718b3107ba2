"""Priors as files: our safetensors, and others' checkpoints."""

import copy
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, Json, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pyro_vble._arguments import Named, PathName, brief, checked, one_of
from pyro_vble.io.atomic import atomic_path
from pyro_vble.io.checksums import tensors_checksum
from pyro_vble.io.torch_files import check_plain, read_torch_file
from pyro_vble.io.validated import problems_of
from pyro_vble.models import (
    CAE,
    VAE,
    DecoderStd,
    LearnedStandardDeviation,
    Prior,
    convolutional_vae,
    networks,
)

_HUB_NAME = re.compile(r"(?:mbt|cheng)_(0\.\d+)_")
_STD_PREFIX = "decoder_std."
_HALVES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# What DataParallel and torch.compile put before the names of weights.
_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:module|_orig_mod)\.")
# What the published weights call the decoder of standard deviations, and our files did before 0.2.
_PUBLISHED_STD_PREFIX = "variance_decoder."


class _Network(BaseModel):
    """The arguments of ``convolutional_vae``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    image_shape: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=3, max_length=3)]
    num_latents: int = Field(ge=1)
    channels: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]


class _Header(BaseModel):
    """What a file says of its prior besides the weights, all as text; what else it says is of no interest here."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    model: str = "CAE"
    architecture: str | None = None
    alpha: float | None = Field(default=None, gt=0)
    distortion: str | None = None
    std_link: Literal["sigmoid", "exp"] = "sigmoid"
    std_floor: float = Field(default=2e-4, ge=0)
    decoder_std: float = Field(default=1.0, gt=0)
    network: Json[_Network] | None = None
    checksum: str | None = None


@checked
def save_prior(
    prior: Any,
    path: PathName,
    *,
    metadata: Named | None = None,
    dtype: Annotated[str, one_of(*_HALVES)] = "float32",
) -> None:
    """Write a prior to one safetensors file, from which ``load_prior`` makes it again.

    A compressive autoencoder's file is also a CompressAI state dict, quantiles solved for: after ``update()`` its
    network compresses. What besides the weights makes the prior is in the header, with a checksum of the weights.

    Args:
        prior: A :class:`~pyro_vble.models.CAE`, or a VAE of ``convolutional_vae``.
        path: Where to.
        metadata: More for the header; values are written as strings.
        dtype: "float32", or "float16" or "bfloat16" for a file of half the size.

    Raises:
        TypeError: If the prior is a VAE of own networks, which no file can build again.
        ValueError: If the data type is unknown, a weight is not finite, or metadata would say what the prior is.
    """
    state, header = _cae_content(prior) if isinstance(prior, CAE) else _vae_content(prior)
    taken = sorted((metadata or {}).keys() & _Header.model_fields.keys())
    if taken:
        raise ValueError(
            f"metadata must have keys that say nothing of the prior itself; received {', '.join(taken)}; name them "
            "otherwise."
        )
    header |= {key: _as_text(key, value) for key, value in (metadata or {}).items()}
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
    # Single numbers are constants of the architecture, some too small for half precision, such as bounds of 1e-9.
    halved = {k: v.to(_HALVES[dtype]) for k, v in tensors.items() if v.is_floating_point() and v.numel() > 1}
    tensors |= halved
    _check_finite(tensors)  # in the type of the file: half precision ends at 65,504
    header["checksum"] = tensors_checksum(tensors)
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=header)


def _as_text(key: str, value: Any) -> str:
    try:
        return str(value)
    except Exception as error:  # an object's own words may fail in any way
        raise ValueError(
            f"metadata must be of values that can be written as text; received for {key!r} {brief(value)}, which fails "
            f"with {type(error).__name__}."
        ) from error


def read_prior(path: Path, alpha: float | None, architecture: str | None, distortion: str | None) -> Prior:
    """The prior in a file; arguments that are not None go before what the file says.

    Raises:
        OSError: If the file cannot be opened.
        ValueError: If the file is damaged, is no prior's, or does not tell alpha.
    """
    state, metadata = _read_safetensors(path) if path.suffix == ".safetensors" else _read_checkpoint(path)
    try:
        header = _Header.model_validate(metadata)
        _check_weights(state, header.checksum)
        state = _with_our_names(state)
        if header.model != "VAE":
            return _cae(state, header, path, alpha, architecture, distortion)
        told = {"alpha": alpha, "architecture": architecture, "distortion": distortion}
        if given := [name for name, value in told.items() if value is not None]:
            raise ValueError(f"{', '.join(given)} is for compressive autoencoders; this is a VAE; leave it out.")
        return _vae(state, header)
    except ValidationError as error:
        raise ValueError(f"The header of the prior in {path} is wrong: {problems_of(error)}.") from error
    except (ValueError, TypeError, RuntimeError, LookupError, AttributeError, ArithmeticError) as error:
        # Networks are built from whatever a file holds: what they raise is about the file.
        text = " ".join(str(error).split())
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"The prior in {path} cannot be loaded: {kind}{text[:1000]}") from error


def _check_weights(state: dict[str, Tensor], checksum: str | None) -> None:
    """Raise ValueError unless the tensors are those that were written, and numbers to compute with."""
    for name, value in state.items():
        check_plain(name, value)
    if checksum is not None and tensors_checksum(state) != checksum:
        raise ValueError(
            "its weights are not those that were written (their checksum is another); the file is damaged: copy or "
            "download it again."
        )
    _check_finite(state)


def _check_finite(state: Mapping[str, Tensor]) -> None:
    for name, value in state.items():
        if (value.is_floating_point() or value.is_complex()) and not bool(value.isfinite().all()):
            raise ValueError(
                f"Weights must be finite; {int((~value.isfinite()).sum())} of {value.numel()} values of {brief(name)} "
                "are not; take another checkpoint."
            )


def _with_our_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights without the prefixes of wrappers, ``decoder_std`` by this name, half precision widened."""
    halves = (torch.float16, torch.bfloat16)
    ours = {_our_name(key): v.float() if v.dtype in halves else v for key, v in state.items()}
    if len(ours) < len(state):
        raise ValueError(
            "two weights have the same name but for the prefixes 'module.' and '_orig_mod.', or 'variance_decoder.' "
            "for 'decoder_std.'."
        )
    return ours


def _our_name(key: str) -> str:
    key = _WRAPPERS.sub("", key)
    if key.startswith(_PUBLISHED_STD_PREFIX):
        return _STD_PREFIX + key.removeprefix(_PUBLISHED_STD_PREFIX)
    return key


def _load(module: nn.Module, state: dict[str, Tensor], what: str) -> None:
    """Load weights that must fit a module by name, shape and kind of number.

    Raises:
        ValueError: If they do not.
    """
    _check_kinds(module, state)
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{what}; these weights do not ({str(error).splitlines()[-1].strip()}).") from error


def _check_kinds(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Raise ValueError where torch would turn integers or complex numbers into weights without a word."""
    for name, own in module.state_dict().items():
        if name not in state:
            continue  # which loading tells of
        found = state[name]
        if found.is_floating_point() != own.is_floating_point() or found.is_complex():
            raise ValueError(
                f"{name!r} must hold {str(own.dtype).removeprefix('torch.')} numbers; received "
                f"{str(found.dtype).removeprefix('torch.')}."
            )


def _cae_content(prior: CAE) -> tuple[dict[str, Tensor], dict[str, str]]:
    header = {
        "model": "CAE",
        "architecture": type(prior.network).__name__,
        "distortion": prior.distortion,
    }
    if prior.alpha is not None:
        header["alpha"] = str(prior.alpha)
    state = networks.codec_state(prior.network)
    std = prior.decoder_std
    if std is not None and not isinstance(std, DecoderStd):
        raise _own_std(std)
    if std is not None:
        header |= {"std_link": std.link, "std_floor": str(std.floor)}
        state |= {_STD_PREFIX + key: value for key, value in std.network.state_dict().items()}
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
    if isinstance(std, DecoderStd):
        header |= {"std_link": std.link, "std_floor": str(std.floor)}
        state |= {_STD_PREFIX + key: value for key, value in std.network.state_dict().items()}
    elif isinstance(std, nn.Module) and not isinstance(std, LearnedStandardDeviation):
        raise _own_std(std)
    else:
        header["decoder_std"] = str(std.value.item() if isinstance(std, LearnedStandardDeviation) else float(std))
    return state, header


def _own_std(std: nn.Module) -> TypeError:
    return TypeError(
        "decoder_std must be a DecoderStd, or of a VAE a number or a LearnedStandardDeviation, to be written; received "
        f"a {type(std).__name__} of your own; save its state_dict()."
    )


def _vae(state: dict[str, Tensor], header: _Header) -> VAE:
    if header.network is None:
        raise ValueError("the header does not describe the networks ('network').")
    described = header.network.model_dump()
    with torch.device("meta"):  # weights are compared before networks of the size that a header claims are made
        claimed = convolutional_vae(**described)
    for part in ("encoder", "decoder"):
        own, found = getattr(claimed, part).state_dict(), _part(state, f"{part}.")
        if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in found.items()}:
            raise ValueError(f"The weights must fit the networks that the header describes; those of {part} do not.")
    with torch.random.fork_rng(devices=[]):
        prior = convolutional_vae(**described, decoder_std=header.decoder_std)
    _load(prior.encoder, _part(state, "encoder."), "The weights must fit the networks that the header describes")
    _load(prior.decoder, _part(state, "decoder."), "The weights must fit the networks that the header describes")
    if std_state := _part(state, _STD_PREFIX):
        prior.decoder_std = _decoder_std(prior.decoder, std_state, header)
    return prior


def _cae(
    state: dict[str, Tensor],
    header: _Header,
    path: Path,
    alpha: float | None,
    architecture: str | None,
    distortion: str | None,
) -> CAE:
    published = _HUB_NAME.match(path.name)
    alpha = header.alpha if alpha is None else alpha
    if alpha is None and published:
        alpha = float(published.group(1))
    if distortion is None:
        # Older files describe it in a sentence; the authors' tell it by their names alone.
        told = header.distortion or ("sum" if published else "mean")
        distortion = "sum" if told.startswith("sum") else "mean"
    std_state = _part(state, _STD_PREFIX)
    own = {key: value for key, value in state.items() if not key.startswith(_STD_PREFIX)}
    network = networks.build_network(own, architecture or header.architecture)
    _check_kinds(network, own)
    if alpha is None and not std_state:
        raise ValueError(
            "The standard deviation of p(x|z) needs the bitrate parameter that the network was trained with, and "
            f"{path} does not tell it; pass alpha=..., for example load_prior(path, alpha=0.025)."
        )
    std = _decoder_std(network.g_s, std_state, header) if std_state else None
    return CAE(network, alpha, decoder_std=std, distortion=distortion)


def _decoder_std(decoder: nn.Module, state: dict[str, Tensor], header: _Header) -> DecoderStd:
    """Where a file does not tell link and floor, they are the published ones."""
    network = copy.deepcopy(decoder)
    _load(network, state, "A decoder of standard deviations must have the architecture of the network's decoder")
    return DecoderStd(network, header.std_link, header.std_floor)


def _part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            metadata = dict(file.metadata() or {})
    except (SafetensorError, ValueError, TypeError) as error:
        raise ValueError(
            f"A prior's file must be a complete safetensors file; {path} cannot be read ({error}); it may be "
            "truncated: copy or download it again."
        ) from error
    return state, metadata


def _believed(content: Mapping) -> dict[str, str]:
    """What is taken for said of a prior in a checkpoint that others wrote, who mean their own by most of its names."""
    alpha, distortion, architecture = (content.get(key) for key in ("alpha", "distortion", "architecture"))
    told = {}
    if isinstance(alpha, float | int) and not isinstance(alpha, bool) and 0 < alpha < math.inf:
        told["alpha"] = str(alpha)
    if distortion in ("mean", "sum"):
        told["distortion"] = distortion
    if architecture in networks.ZOO_CLASSES.values():
        told["architecture"] = architecture
    return told


def _read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """State dict and metadata of a pickled checkpoint, read without running anything in it."""
    content = read_torch_file(path)
    metadata = {}
    if isinstance(content, Mapping):
        metadata = _believed(content)
        for key in ("state_dict", "model_state_dict", "model", "net"):
            if isinstance(content.get(key), Mapping):
                content = content[key]
                break
    plain = isinstance(content, Mapping) and content
    if not plain or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items()):
        raise ValueError(
            f"A checkpoint must be a state dict, names to tensors, or hold one under 'state_dict'; {path} holds "
            f"{brief(type(content).__name__)}; save network.state_dict()."
        )
    return dict(content), metadata
