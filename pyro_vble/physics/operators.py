"""Applying forward operators under plates, and reading off them which values they observe."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_vble._arguments import brief
from pyro_vble.physics.joint import Jointly


def measure(physics: Any, x: Tensor, arguments: Mapping[str, Tensor] | None = None) -> Tensor:
    """A(x) for images x of shape (*particles, B, C, H, W), with further arguments of A, one value an image (*, B).

    An operator may hold one filter or mask per image of the batch, so particles are looped over, not flattened.
    """
    arguments = {name: value.expand(x.shape[:-3]) for name, value in (arguments or {}).items()}
    if x.dim() == 4:
        return physics.A(x, **arguments)
    particles = ({name: value[i] for name, value in arguments.items()} for i in range(len(x)))
    return torch.stack([measure(physics, particle, own) for particle, own in zip(x, particles, strict=True)])


def image_shape_of(physics: Any, y: Tensor, known: tuple[int, int, int] | None = None) -> tuple[int, int, int]:
    """(C, H, W) of the images whose measurements have the shape of y.

    The first that A maps to the shape of y is taken: the shape of y's adjoint, the operator's own ``img_size``, the
    one size that a prior may have (``known``), the shape of y itself.

    Raises:
        ValueError: If neither is an image that A maps to the shape of y.
    """
    named = [shape for shape in (getattr(physics, "img_size", None), known) if shape is not None and len(shape) == 3]
    adjoint = _adjoint_shape(physics, y)
    tried = [f"A_adjoint gives {adjoint}"] if isinstance(adjoint, str) else []
    candidates = [None if tried else adjoint, *((len(y), *shape) for shape in named), tuple(y.shape)]
    for shape in dict.fromkeys(filter(None, candidates)):
        if len(shape) != 4:
            tried.append(f"an image of shape {shape} has no batch dimension")
            continue
        found = _measured_shape(physics, y, shape)
        if found == tuple(y.shape):
            _check_bands_first(y, shape[1:])
            return shape[1:]
        tried.append(f"A maps {shape} to {found}")
    kernel = _kernel_size(physics)
    if kernel is not None and y.dim() == 4 and any(own > side for own, side in zip(kernel, y.shape[-2:], strict=True)):
        raise ValueError(
            f"The kernel must be smaller than the image; received one of {kernel[0]}x{kernel[1]} for a measurement of "
            f"{y.shape[-2]}x{y.shape[-1]} ({'; '.join(tried)}); cut away the zeros around it, or use a larger image."
        )
    hint = ""
    if getattr(physics, "padding", None) == "valid":
        hint = ' deepinv\'s Blur defaults to padding="valid", which shrinks the image.'
    if y.dim() in (2, 3):
        index = "None" if y.dim() == 3 else "None, None"
        hint += f" Measurements of images have a batch dimension first: y[{index}]."
    raise ValueError(
        f"The measurement must have a shape that physics.A produces; received y of shape {tuple(y.shape)}, but "
        f"{'; '.join(tried)}.{hint} Pass the y that belongs to this "
        "operator; if it has no adjoint, name the image's size: image_shape=(C, H, W)."
    )


def _kernel_size(physics: Any) -> tuple[int, int] | None:
    """Rows and columns of a blur's kernel, where the image keeps its size."""
    kernel, radius = getattr(physics, "filter", None), getattr(physics, "radius", None)
    if getattr(physics, "padding", None) == "valid":
        return None
    if isinstance(kernel, Tensor) and kernel.dim() >= 2:
        return kernel.shape[-2], kernel.shape[-1]
    return (2 * radius + 1, 2 * radius + 1) if isinstance(radius, int) else None


def check_image_shape(physics: Any, y: Tensor, image_shape: tuple[int, int, int]) -> None:
    """Raise unless A maps images of this shape to measurements of the shape of y.

    Raises:
        ValueError: If it does not.
    """
    found = _measured_shape(physics, y, (len(y), *image_shape))
    if found != tuple(y.shape):
        raise ValueError(
            f"image_shape must be (C, H, W) of images whose measurement has the shape of y, {tuple(y.shape)}; received "
            f"{tuple(image_shape)}, of which A makes {found}; leave it out where A has an adjoint."
        )


def observed_mask(physics: Any, y: Tensor) -> Tensor:
    """Boolean mask, of the shape of y, of the values that carry likelihood: finite, and not masked out by A."""
    if isinstance(physics, Jointly):
        parts = zip(physics.physics_list, physics.split(y), strict=True)
        return physics.join([observed_mask(one, part) for one, part in parts])
    mask = _inpainting_mask(physics)
    observed = torch.isfinite(y)
    return observed if mask is None else observed & (mask != 0)


def fill_unobserved(y: Tensor, observed: Tensor) -> Tensor:
    """Y with zeros where it is not observed: a NaN, even masked, would poison gradients."""
    return torch.where(observed, y, 0.0)


def _inpainting_mask(physics: Any) -> Tensor | None:
    """The mask that A ends with, if A ends with one."""
    from deepinv.physics import Inpainting
    from deepinv.physics.forward import ComposedPhysics

    if isinstance(physics, ComposedPhysics):
        return _inpainting_mask(physics.physics_list[-1])
    mask = getattr(physics, "mask", None) if isinstance(physics, Inpainting) else None
    return mask if isinstance(mask, Tensor) else None


@torch.no_grad()
def _adjoint_shape(physics: Any, y: Tensor) -> tuple[int, ...] | str | None:
    """Shape of the adjoint of y, or what it said; None where there is none."""
    if not hasattr(physics, "A_adjoint"):
        return None
    try:
        return tuple(physics.A_adjoint(torch.zeros_like(y)).shape)
    except Exception as error:  # an operator may refuse in any way; the caller then asks A itself
        return f"an error ({type(error).__name__}: {error})"


@torch.no_grad()
def _measured_shape(physics: Any, y: Tensor, image_shape: tuple[int, ...]) -> tuple[int, ...] | str:
    """Shape of A(image), or what A said."""
    try:
        measured = physics.A(torch.zeros(image_shape, dtype=y.dtype, device=y.device))
        return tuple(measured.shape) if isinstance(measured, Tensor) else f"{brief(measured)}, which is no tensor"
    except Exception as error:  # reported to the user with the shape that caused it
        return f"an error ({type(error).__name__}: {error})"


def _check_bands_first(y: Tensor, image_shape: tuple[int, ...]) -> None:
    """Raise where an image (H, W, C) was surely taken for one of H bands, W rows and C columns."""
    bands, rows, columns = image_shape
    if columns in (1, 3, 4) and bands > 16 and rows > 16:
        raise ValueError(
            f"Bands come before rows and columns, (B, C, H, W); received y of shape {tuple(y.shape)}, which would have "
            f"{bands} bands and {columns} columns; pass y.permute(0, 3, 1, 2), or image_shape={tuple(image_shape)} if "
            "that is meant."
        )


def copy_of(physics: Any) -> Any:
    """A copy of an operator, whatever it holds; what was computed from tensors with gradients becomes a constant."""
    memo = {id(value): value.detach().clone() for value in _held(physics) if value.grad_fn is not None}
    try:
        return copy.deepcopy(physics, memo)
    except (TypeError, RuntimeError):
        # deepinv's clone copies what Python cannot; it searches all an operator refers to, for half a second.
        if not hasattr(physics, "clone"):
            raise
        return physics.clone()


def operator_on(physics: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """The operator on the device, copied: calls and conversions change deepinv's operators in place."""
    return _moved(copy_of(physics), device, dtype)


def _moved(physics: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """An operator with all its tensors there; of one that is no module, those that are its attributes."""
    # Module.to(dtype) would drop the imaginary part of a filter kept in the Fourier domain.
    complex_dtype = torch.complex128 if dtype == torch.float64 else torch.complex64

    def converted(value: Tensor) -> Tensor:
        if value.is_complex() or value.is_floating_point():
            return value.to(device, complex_dtype if value.is_complex() else dtype)
        return value.to(device)

    if isinstance(physics, torch.nn.Module):
        physics.to(device)
        for value in tensors_of(physics):
            value.data = converted(value.data)
        for part in physics.physics_list if isinstance(physics, Jointly) else ():
            if not isinstance(part, torch.nn.Module):
                _moved(part, device, dtype)
        return physics
    attributes = getattr(physics, "__dict__", {})
    for name, value in attributes.items():
        if isinstance(value, torch.nn.Module):
            _moved(value, device, dtype)
        elif isinstance(value, Tensor):
            attributes[name] = converted(value.detach())
    return physics


def tensors_of(module: torch.nn.Module) -> list[Tensor]:
    """Buffers and parameters, each once."""
    return [*module.buffers(), *module.parameters()]


def _held(physics: Any) -> list[Tensor]:
    """All tensors that an operator, or one that it holds, has as attributes."""
    owners = list(physics.modules()) if isinstance(physics, torch.nn.Module) else [physics]
    owners += [value for value in getattr(physics, "__dict__", {}).values() if isinstance(value, torch.nn.Module)]
    values = [value for owner in owners for value in getattr(owner, "__dict__", {}).values()]
    values += [value for owner in owners if isinstance(owner, torch.nn.Module) for value in tensors_of(owner)]
    return [value for value in values if isinstance(value, Tensor)]
