"""Where and in which precision to compute."""

import contextlib
from collections.abc import Iterator
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from pyro_vble._arguments import BrokenRuleError, Rule, one_of
from pyro_vble._precision import exact_convolutions
from pyro_vble.models.restoration import RestorationModel
from pyro_vble.physics import noise_level

# Spacing of bfloat16 numbers just below 1: decoded images are rounded to it, which finer noise would notice.
_BFLOAT16_STEP = 2**-8


def _device(value: Any) -> Any:
    if not isinstance(value, str | torch.device):
        raise BrokenRuleError("type")
    return value


Precision = Annotated[str, one_of("auto", "float32", "float64", "bfloat16")]
Device = Annotated[Any, Rule('"auto", or a torch device such as "cpu" or "cuda:0"', _device)]


def resolve_device(device: str | torch.device) -> torch.device:
    """The device to compute on: "auto" is CUDA where there is one.

    Raises:
        ValueError: If the device is unknown or absent.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f'device must be "auto" or a torch device such as "cpu" or "cuda:0"; received {device!r}.'
        ) from (error)
    if resolved.type not in ("cpu", "cuda"):
        raise ValueError(f'device must be the CPU or a CUDA GPU; received {device!r}; use device="cpu" or "auto".')
    if resolved.type == "cuda" and (resolved.index or 0) >= (found := torch.cuda.device_count()):
        raise ValueError(
            f"device={device!r} needs a CUDA GPU of that number, and torch sees {found or 'none'}; use "
            'device="cpu" or "auto".'
        )
    return resolved


def resolve_precision(precision: str, prior: nn.Module, device: torch.device) -> str:
    """The precision to compute in: "auto" keeps a float64 prior, else takes bfloat16 networks where they are fast."""
    if precision != "auto":
        return precision
    if any(p.dtype == torch.float64 for p in prior.parameters()):
        return "float64"
    return "bfloat16" if _bfloat16_is_fast(device) else "float32"


def suited_precision(precision: str, model: RestorationModel, y: Tensor) -> str:
    """The precision to fit in: "auto" takes bfloat16 networks only where the noise hides their rounding.

    Args:
        precision: As requested, "auto" or one that is kept.
        model: The :class:`~pyro_vble.models.RestorationModel`.
        y: Measurement (B, ...), where and in what data type it is computed on.
    """
    resolved = resolve_precision(precision, model.prior, y.device)
    if precision != "auto" or resolved != "bfloat16" or model.physics is None:
        return resolved
    noise = noise_level(model.physics, y, model.image_shape(y), model.initial_parameters(y))
    return "float32" if noise < _BFLOAT16_STEP else resolved


def dtype_of(precision: str) -> torch.dtype:
    """Data type of everything but the networks."""
    return torch.float64 if precision == "float64" else torch.float32


@contextlib.contextmanager
def network_precision(precision: str, device: torch.device) -> Iterator[None]:
    """The scope of inference whose networks run in that precision; probabilities and operators never leave theirs."""
    with reduced_precision(precision, device), exact_convolutions(device):
        yield


def reduced_precision(precision: str, device: torch.device) -> torch.autocast:
    """The scope in which networks run in that precision, and float32 is what PyTorch takes for it."""
    # A cache of weights in bfloat16 would outlive their updates wherever one scope holds many steps.
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=False)


def _bfloat16_is_fast(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return device.type == "cpu" and probe is not None and bool(probe())
