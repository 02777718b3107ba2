"""Fitting many images, as many at once as memory holds."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_vble._arguments import Progress
from pyro_vble._traces import nodes_of
from pyro_vble.guides.abilities import copy_rows, is_reparameterised, rows, write_rows
from pyro_vble.guides.parameters import parameter_scope
from pyro_vble.inference.fitting import fit_guide
from pyro_vble.inference.precision import network_precision
from pyro_vble.inference.problem import Problem
from pyro_vble.inference.result import Fit
from pyro_vble.inference.settings import FitSettings
from pyro_vble.memory import free_memory
from pyro_vble.models.restoration import RestorationModel
from pyro_vble.physics import is_divisible
from pyro_vble.seeding import as_seed, derived_seed, forked_generators

# Pixels of a batch that any machine has memory for, and whose need is not looked into.
_SURELY_FITS = 2**20
# Of the memory that is free, how much a fit may take, and what it takes besides what autograd keeps for its backward
# pass: gradients on their way and the workspace of convolutions.
_SHARE, _OVERHEAD = 0.7, 1.6
# What it took at least (the default guide): where even that is more than all that is free, no attempt is made.
_LEAST_OVERHEAD = 1.25


def fit_batch(
    problem: Problem,
    model: RestorationModel,
    guide: Callable,
    settings: FitSettings,
    *,
    precision: str,
    seed: int | None = None,
    progress: Progress = False,
) -> Fit:
    """Fit a guide to a batch of images, as many at once as memory holds.

    A batch that memory holds is one fit. Another is cut into parts of nearly the same size, each fitted by itself and
    written into the batch's guide: images are independent, so only random numbers change, and every part stops early
    by itself. If memory runs out all the same, the parts are halved. Batches whose operator or guide cannot be cut
    stay whole. An image that cannot fit is refused before the fit, as the system may end a process that tries.

    Args:
        problem: The problem of the batch.
        model: Its model.
        guide: Its guide; where its factors start, those of the parts do.
        settings: How a fit is made.
        precision: Precision of the networks.
        seed: Seed of the fit.
        progress: Whether to show a bar.

    Raises:
        MemoryError: If there is not memory enough for one image.
    """
    y, how = problem.y, {"precision": precision, "progress": progress}
    learnt = rows(guide, slice(None)) if len(y) > 1 else None
    divisible = learnt is not None and is_divisible(problem.physics, y, model.image_shape(y))
    at_once = len(y)
    if (divisible or len(y) == 1) and len(y) * math.prod(model.image_shape(y)[1:]) > _SURELY_FITS:
        first = problem.part(slice(0, 1)).build() if divisible else (model, guide)
        if is_reparameterised(first[1], y[:1]):
            at_once = min(at_once, images_at_once(*first, y[:1], precision, settings.num_particles))
        if at_once == 0:
            raise _too_little_memory(y[:1])
    start = {name: value.clone() for name, value in learnt.items()} if divisible and learnt is not None else {}
    while True:
        try:
            if at_once >= len(y):
                return fit_guide(model, guide, y, settings, seed=seed, **how)
            return _fit_parts(problem, model, guide, start, at_once, settings, seed, how)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if not divisible or at_once == 1:
                raise _too_little_memory(y[:1] if divisible else y) from error
            write_rows(guide, slice(None), start)
        # Outside the handler, whose exception would keep the failed attempt's tensors alive.
        at_once = -(-min(at_once, len(y)) // 2)
        if y.is_cuda:
            torch.cuda.empty_cache()


def _fit_parts(
    problem: Problem,
    model: RestorationModel,
    guide: Callable,
    start: dict[str, Tensor],
    at_once: int,
    settings: FitSettings,
    seed: int | None,
    how: dict[str, Any],
) -> Fit:
    y, seed, traces = problem.y, as_seed(seed), []
    for images in balanced(len(y), at_once):
        part_model, part = problem.part(images).build()
        write_rows(part, slice(None), {name: value[images] for name, value in start.items()})
        fitted = fit_guide(
            part_model, part, y[images], settings, seed=derived_seed(seed, "images", images.start), **how
        )
        copy_rows(guide, images, part, slice(None))
        traces.append(fitted.elbo)
        if fitted.interrupted:  # the images of the other parts stay where they start
            break
    return Fit(model, guide, y, joint_trace(traces), fitted.precision, seed, fitted.interrupted)


def images_at_once(model: RestorationModel, guide: Callable, y: Tensor, precision: str, num_particles: int = 1) -> int:
    """How many images of a batch a fit has memory for, by what one step of one image keeps; 0 if not even for one.

    Args:
        model: The :class:`~pyro_vble.models.RestorationModel`, of one image.
        guide: Its guide.
        y: The measurement of one image (1, ...).
        precision: Precision of the networks.
        num_particles: Draws of the guide a step.
    """
    free = free_memory(y.device)
    if free is None:
        return 2**31
    most = free / (_LEAST_OVERHEAD * num_particles)
    try:
        needed = _kept_in_a_step(model, guide, y, precision, most)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return 0
    return max(1, int(_SHARE * free / (_OVERHEAD * needed * num_particles))) if needed <= most else 0


def _kept_in_a_step(model: RestorationModel, guide: Callable, y: Tensor, precision: str, most: float) -> int:
    """Bytes that a step keeps for its backward pass, weights aside; MemoryError as soon as they are too many."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            if sum(kept.values()) > most:  # now, not when they have filled the memory
                raise MemoryError
        return value

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value)
    with forked_generators(y.device), network_precision(precision, y.device), parameter_scope(guide), hooks:
        trace = poutine.trace(guide).get_trace(y)
        z = nodes_of(trace)["z"]["value"].detach().requires_grad_()
        image_shape = model.image_shape(y)
        decoded = model.prior.decode_mean(z, image_shape)
        if model.latent_image:
            decoded = decoded + model.prior.decode_std(z, image_shape)
    images = decoded.numel() * decoded.element_size() * 20  # the guide's and the likelihood's own
    return sum(kept.values()) + images


def joint_trace(traces: list[Tensor]) -> Tensor:
    """The ELBO of a batch step by step: parts that ended early stay where they ended."""
    longest = max(len(trace) for trace in traces)
    padded = [torch.cat((trace, trace[-1:].expand(longest - len(trace)))) for trace in traces if len(trace)]
    return torch.stack(padded).sum(0) if padded else torch.empty(0)


def _too_little_memory(y: Tensor) -> MemoryError:
    what = "one image" if len(y) == 1 else "the batch"
    return MemoryError(
        f"Fitting {what} of shape {tuple(y.shape)} needs more memory than is free on {y.device}; cut it into smaller "
        'images, or choose precision="bfloat16" or fewer particles.'
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory was exhausted, of a GPU or of the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    said = ("allocate memory", "out of memory", "ALLOC_FAILED")  # the host, CUDA, and CUDA's libraries
    return isinstance(error, RuntimeError) and any(words in str(error) for words in said)


def balanced(num_images: int, at_once: int) -> list[slice]:
    """Cut a batch into as few parts as memory allows, of nearly the same size.

    Example:
        >>> from pyro_vble.inference.batches import balanced
        >>> balanced(10, 4)
        [slice(0, 4, None), slice(4, 7, None), slice(7, 10, None)]
    """
    parts = math.ceil(num_images / max(1, at_once))
    ends = [-(-num_images * k // parts) for k in range(parts + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(ends)]
