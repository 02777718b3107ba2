"""Parameters of operator and noise that are not known: inferred with the image."""

import copy
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import biject_to

from pyro_vble._arguments import brief
from pyro_vble.physics.arguments import arguments_of, operators_of
from pyro_vble.physics.joint import Jointly
from pyro_vble.seeding import seeded

_EDGE = 15.0
_DENSITY_DRAWS = 64
_RESERVED = ("h", "z", "x", "x_decentered", "y", "image", "samples")


def check_physics_priors(physics: Any, priors: Mapping[str, Any]) -> None:
    """Raise unless every name is a parameter of the noise model or an argument of A, and its prior a scalar's.

    Raises:
        ValueError: If a name is nothing that physics knows, or a site of the model, or a prior has no density.
        TypeError: If a prior is no Pyro distribution of a scalar.
    """
    for name, prior in priors.items():
        if name in _RESERVED:
            raise ValueError(
                f"physics_priors must not use the model's own names ({', '.join(_RESERVED)}); received {name!r}; "
                "rename the operator's argument."
            )
        if not isinstance(prior, TorchDistributionMixin) or prior.batch_shape or prior.event_shape:
            raise TypeError(
                f"The prior of {name!r} must be a Pyro distribution of one real number; received {brief(prior)}; write "
                "pyro.distributions.HalfNormal(0.1), for example."
            )
        if (flaw := _no_density(prior)) is not None:
            raise ValueError(
                f"The prior of {name!r} must have a density over real numbers; received {brief(prior)}, {flaw}; write "
                "pyro.distributions.HalfNormal(0.1), for example, or set a value that is known in the operator."
            )
        if not (_is_noise(physics, name) or name in arguments_of(physics)):
            raise ValueError(
                f"physics_priors must name parameters of the noise model or arguments of physics.A; received {name!r} "
                f"for {describe(physics)}, where A takes {', '.join(arguments_of(physics)) or 'the image alone'}; for "
                "the width of a blur use pyro_vble.physics.GaussianBlur, whose A takes `width`."
            )


def _no_density(prior: Any) -> str | None:
    """Why a distribution has no density that a guide could be fitted under, if it has none."""
    try:
        with seeded(0), torch.no_grad():
            draws = prior.sample((_DENSITY_DRAWS,))
            densities = prior.log_prob(draws)
        if prior.support.is_discrete:
            return "whose values are whole numbers or classes"
        biject_to(prior.support)
    except Exception as error:  # a distribution may lack a method, and say so in any way
        return f"which gives {type(error).__name__}: {brief(str(error))}"
    if not bool(draws.isfinite().all() & densities.isfinite().all()):
        return "whose draws or densities are not finite"
    if len(draws.unique()) < _DENSITY_DRAWS // 2:
        return "which puts all its mass on single values"
    return None


def initial_value(physics: Any, name: str, prior: Any) -> Tensor:
    """Where the search for a parameter starts: at the operator's own value if it has one, else the prior's middle."""
    owners = [physics.noise_model] if _is_noise(physics, name) else operators_of(physics)
    value = next((getattr(owner, name) for owner in owners if hasattr(owner, name)), None)
    if value is not None:
        value = torch.as_tensor(value, dtype=torch.get_default_dtype()).mean()
        # At the edge of the support there is no way back.
        free = biject_to(prior.support).inv(value)
        if bool(prior.support.check(value)) and bool(free.abs() < _EDGE):
            return value
    try:
        return prior.icdf(torch.tensor(0.5))
    except NotImplementedError:
        with seeded(0):
            return prior.sample((1001,)).median()


def prior_on(prior: Any, like: Tensor) -> Any:
    """A parameter's prior with its own parameters in the data type and on the device of a tensor."""
    own = {name: torch.as_tensor(getattr(prior, name)).to(like) for name in prior.arg_constraints}
    return type(prior)(**own) if own else prior


def operator_arguments(physics: Any, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of the parameters that A takes."""
    return {name: value for name, value in parameters.items() if not _is_noise(physics, name)}


def with_noise_parameters(
    physics: Any, parameters: Mapping[str, Tensor], signal: Tensor, event_dim: int | None = None
) -> Any:
    """The noise model with those of the parameters that are its own; each (*, B) for a signal (*, B, ...).

    With ``event_dim``, that of the signal, what the noise model itself holds of every image is aligned with it too.
    """
    noise_model = getattr(physics, "noise_model", None)
    own = {
        name: value.reshape(*value.shape, *[1] * (signal.dim() - value.dim()))
        for name, value in parameters.items()
        if _is_noise(physics, name)
    }
    if event_dim is not None and isinstance(noise_model, torch.nn.Module):
        batch = signal.shape[-1 - event_dim]
        by_image = {n: v for n, v in noise_model.named_buffers(recurse=False) if v.shape == (batch,) and batch > 1}
        own = {name: value.reshape(-1, *[1] * event_dim) for name, value in by_image.items()} | own
    if not own:
        return noise_model
    noise_model = copy.copy(noise_model)
    if isinstance(noise_model, torch.nn.Module):
        noise_model._buffers, noise_model._parameters = dict(noise_model._buffers), dict(noise_model._parameters)
    for name, value in own.items():
        setattr(noise_model, name, value)
    return noise_model


def describe(physics: Any) -> str:
    """An operator and its noise in a line; arrays by shape and a short hash of their values.

    Example:
        >>> import deepinv, torch
        >>> from pyro_vble.physics import describe
        >>> describe(deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1)))
        'Denoising + GaussianNoise(sigma=0.1)'
        >>> describe(deepinv.physics.Blur(torch.ones(1, 1, 3, 3), noise_model=deepinv.physics.ZeroNoise()))
        'Blur(filter 1x1x3x3 #53591828) + ZeroNoise()'
    """
    if physics is None:
        return "no operator"
    if isinstance(physics, Jointly):
        return " and ".join(map(describe, physics.physics_list))
    noise_model = getattr(physics, "noise_model", None)
    noise = "" if noise_model is None else f" + {type(noise_model).__name__}({_numbers(noise_model)})"
    parts = getattr(physics, "physics_list", ())
    # Of operators one after another each one's noise but the last's, which is the whole's, is not applied.
    numbers = ", ".join(filter(None, [_numbers(physics), *(describe(part).split(" + ")[0] for part in parts)]))
    return type(physics).__name__ + (f"({numbers})" if numbers else "") + noise + _reading(physics)


def _reading(physics: Any) -> str:
    """The sensor that reads what an operator measured, with its settings; nothing of a function, which says none."""
    sensor = getattr(physics, "sensor_model", None)
    settings = {k: v for k, v in getattr(sensor, "__dict__", {}).items() if isinstance(v, int | float | str)}
    told = ", ".join(f"{name}={value}" for name, value in sorted(settings.items()) if not name.startswith("_"))
    return f" + {type(sensor).__name__}({told})" if told and not isinstance(sensor, torch.nn.Module) else ""


def _numbers(module: Any) -> str:
    """Scalars of an operator or noise model, and the shapes of its larger arrays with a hash of their values."""
    buffers = dict(module.named_buffers(recurse=False)) if isinstance(module, torch.nn.Module) else {}
    weights = dict(module.named_parameters(recurse=False)) if isinstance(module, torch.nn.Module) else {}
    held = {n: v for n, v in getattr(module, "__dict__", {}).items() if isinstance(v, Tensor | np.ndarray)}
    # What deepinv keeps of a filter in the Fourier domain ("Fh...") has the size of one image.
    named = {
        name: torch.as_tensor(value)
        for name, value in (buffers | weights | held).items()
        if not name.startswith(("_", "Fh")) and value is not None
    }
    named.pop("mask", None)  # one of every image, or 1: every decomposable operator has it
    parts = [
        f"{name}={value.item():.4g}"
        if value.numel() == 1 and not value.is_complex()
        else f"{name} {'x'.join(map(str, value.shape))} #{_short_hash(value)}"
        for name, value in named.items()
    ]
    return ", ".join(parts)


def _short_hash(value: Tensor) -> str:
    """Eight digits that tell one array from another, the same on every device and in single and double precision."""
    value = value.detach().cpu().resolve_conj()
    value = torch.view_as_real(value) if value.is_complex() else value
    single = value.to(torch.float32).contiguous().numpy() + np.float32(0)  # -0 is 0
    return hashlib.sha256(single.astype("<f4").tobytes()).hexdigest()[:8]


def _is_noise(physics: Any, name: str) -> bool:
    return hasattr(getattr(physics, "noise_model", None), name)
