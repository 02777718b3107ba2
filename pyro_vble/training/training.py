"""Training a prior, from a recipe and a folder of images to a file of weights."""

import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from pyro_vble.inference.precision import resolve_device, resolve_precision
from pyro_vble.io.atomic import atomic_path
from pyro_vble.io.priors import load_prior
from pyro_vble.models import Prior
from pyro_vble.seeding import seeded
from pyro_vble.training.bar import progress_bar
from pyro_vble.training.checkpoint import read_checkpoint
from pyro_vble.training.construction import build_prior, initial_state
from pyro_vble.training.crops import RandomCrops
from pyro_vble.training.data import ImageSet, read_images
from pyro_vble.training.evaluation import Calibration, Evaluation
from pyro_vble.training.log import TrainingLog
from pyro_vble.training.loop import Run, run_steps
from pyro_vble.training.recipes import Recipe, load_recipe, parse_recipe
from pyro_vble.training.report import PRIOR, Report, machine, versions
from pyro_vble.training.schedule import Budget

Progress = bool | Callable[[dict[str, float]], None]

CHECKPOINT = "training.ckpt"


@dataclass(frozen=True)
class TrainingResult:
    """What a training left behind.

    Attributes:
        prior: The prior with its averaged weights, on the CPU.
        path: Their file, for ``load_prior``.
        evaluation: How good it is on the images that were held out.
        calibration: How good its standard deviation is there; None without a decoder of standard deviations.
        steps: Number of steps taken, earlier runs included.
        skipped_steps: Number of those that were skipped because their loss was not finite.
        seconds: Time they took.
        complete: Whether the schedule came to its end; otherwise ``resume=True`` goes on.
        skipped_files: Why a file was not used, by path.
    """

    prior: Prior
    path: Path
    evaluation: Evaluation
    calibration: Calibration | None
    steps: int
    skipped_steps: int
    seconds: float
    complete: bool
    skipped_files: dict[str, str]


def train(
    recipe: Recipe | str | os.PathLike,
    data: str | os.PathLike | Sequence[str | os.PathLike],
    output: str | os.PathLike,
    *,
    init: Prior | str | os.PathLike | None = None,
    validation: str | os.PathLike | None = None,
    resume: bool = False,
    steps: int | None = None,
    minutes: float | None = None,
    device: str | torch.device = "auto",
    tensorboard: bool = False,
    progress: Progress = True,
    started: float | None = None,
) -> TrainingResult:
    r"""Train a prior: maximise the ELBO of images under it and its encoder, by Adam.

    .. math:: \max_{\theta, \psi, \phi} \sum_x E_{q_\phi(z,h|x)}\big[\log p_\theta(x|z) + \log p_\psi(z,h) -
        \log q_\phi(z,h|x)\big]

    A recipe of kind "cae" or "vae" trains everything under one standard deviation of p(x|z); one of kind
    "decoder-std" then trains the decoder of standard deviations alone. Into ``output`` go ``prior.safetensors`` (the
    averaged weights, for ``load_prior``), ``training.ckpt`` (everything, for ``resume``), ``card.json``,
    ``recipe.yaml`` and ``log.csv``, each whole or not at all.

    References:
        | Variational image compression with a scale hyperprior (Ballé et al., 2018)
        | https://arxiv.org/abs/1802.01436
        | Deep priors for satellite image restoration with accurate uncertainties (Biquard et al., 2024), section III
        | https://arxiv.org/abs/2412.04130

    Args:
        recipe: A recipe, its name, or the path of a YAML file.
        data: One or more folders of images, subfolders included, or idx files.
        output: Folder for the results; it is made.
        init: Prior whose weights to start from, its name or file, or the folder or checkpoint of another training.
        validation: Folder of images to measure on; by default some of ``data`` are held out.
        resume: Go on from ``training.ckpt`` in the output folder, if there is one.
        steps: Number of steps in place of the recipe's.
        minutes: End after this many minutes, schedule complete and weights written, however many steps that is.
        device: "auto" (CUDA where there is one), or a torch device.
        tensorboard: Also log for TensorBoard.
        progress: Whether to show a bar, or a function called with the figures of the moment.
        started: Value of ``time.monotonic()`` from which minutes count; now by default.

    Returns:
        The prior and how good it is.

    Raises:
        ValueError: If the recipe, the images or the starting point cannot be used, or the output folder holds another
            training.
        FileNotFoundError: If a folder does not exist.
        TrainingDivergedError: If ten steps in a row were not finite.

    Example:
        >>> import numpy as np, pathlib, tempfile
        >>> from PIL import Image
        >>> from pyro_vble.training import train
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for i in range(3):
        ...         noise = np.random.default_rng(i).integers(0, 255, (28, 28), dtype=np.uint8)
        ...         Image.fromarray(noise).save(pathlib.Path(folder, f"{i}.png"))
        ...     result = train("vae-mnist", folder, pathlib.Path(folder, "out"), steps=2, progress=False)
        >>> result.steps, result.prior.sample(1).shape
        (2, torch.Size([1, 1, 28, 28]))
    """
    started = time.monotonic() if started is None else started
    output, name = Path(output), str(recipe) if isinstance(recipe, str | os.PathLike) else recipe.kind
    checkpoint = output / CHECKPOINT
    recipe = _with_budget(recipe, steps, minutes, checkpoint if resume and checkpoint.exists() else None)
    if checkpoint.exists() and not resume:
        raise ValueError(
            f"{output} holds a training already; pass --resume to go on with it, or another --output for a new one."
        )
    torch_device = resolve_device(device)
    prior = build_prior(recipe, init if init is None or isinstance(init, Prior) else _start(init))
    precision = resolve_precision(recipe.precision, prior, torch_device)
    images, held_out = _images(recipe, prior, data, validation)
    output.mkdir(parents=True, exist_ok=True)
    with atomic_path(output / "recipe.yaml") as temporary:
        temporary.write_text(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))

    with seeded(recipe.seed):
        state = initial_state(recipe, prior, torch_device)
        if resume and checkpoint.exists():
            state.restore(checkpoint)
        origin = _origin(recipe, name, init, data, images, held_out, torch_device, precision)
        report = Report(state, held_out, precision, output, origin)
        minutes = recipe.schedule.minutes
        budget = Budget(seconds=minutes * 60 - report.seconds()) if minutes else Budget(steps=recipe.schedule.steps)
        log = TrainingLog(output, state.log, tensorboard)
        draw = RandomCrops(images, recipe.data, torch_device)
        try:
            with progress_bar(progress, recipe.schedule) as show:
                run = Run(draw, budget, precision, checkpoint, log, report.brief, started, show)
                complete = run_steps(state, run)
        finally:
            log.close()
        evaluation, calibrated = report.final()
    return TrainingResult(
        prior=load_prior(output / PRIOR),
        path=output / PRIOR,
        evaluation=evaluation,
        calibration=calibrated,
        steps=state.step,
        skipped_steps=int(state.skipped),
        seconds=time.monotonic() - started,
        complete=complete,
        skipped_files=images.skipped,
    )


def _with_budget(
    recipe: Recipe | str | os.PathLike, steps: int | None, minutes: float | None, checkpoint: Path | None
) -> Recipe:
    """The recipe with the steps or minutes asked for; when resuming, with those it was started with."""
    recipe = load_recipe(recipe) if isinstance(recipe, str | os.PathLike) else recipe
    content = recipe.model_dump(mode="json")
    if checkpoint is not None and steps is None and minutes is None:
        before = read_checkpoint(checkpoint)["recipe"]["schedule"]
        steps, minutes = before["steps"], before["minutes"]
    if steps is not None:
        content["schedule"] |= {"steps": steps, "minutes": None}
    if minutes is not None:
        content["schedule"] |= {"minutes": minutes}
    return parse_recipe(content)


def _start(init: str | os.PathLike) -> Prior:
    """The prior to start from: by name or file, or what a training left in its folder."""
    path = Path(init)
    if path.is_dir():
        path = path / PRIOR
    elif path.suffix == Path(CHECKPOINT).suffix and path.is_file():
        path = path.parent / PRIOR
    return load_prior(path if path.is_file() else init)


def _images(
    recipe: Recipe, prior: Prior, data: str | os.PathLike | Sequence[str | os.PathLike], validation: object
) -> tuple[ImageSet, ImageSet]:
    """Images to train on and to measure on."""
    one_size = getattr(prior, "image_shape", None)
    if one_size is not None and one_size[1:] != (recipe.data.crop, recipe.data.crop):
        raise ValueError(
            f"data.crop must be the side of the prior's images, {one_size[1:]}; received {recipe.data.crop}."
        )

    def read(folders: Any) -> ImageSet:
        return read_images(folders, bands=prior.bands, smallest=recipe.data.crop, scale=recipe.data.scale)

    if validation is not None:
        return read(data), read(validation)
    return read(data).split(recipe.data.validation)


def _origin(
    recipe: Recipe,
    name: str,
    init: Prior | str | os.PathLike | None,
    data: str | os.PathLike | Sequence[str | os.PathLike],
    images: ImageSet,
    held_out: ImageSet,
    device: torch.device,
    precision: str,
) -> dict[str, Any]:
    """What a card says of where a prior comes from."""
    folders = [data] if isinstance(data, str | os.PathLike) else list(data)
    return {
        "recipe_name": name,
        "recipe": recipe.model_dump(mode="json"),
        "init": init.name if isinstance(init, Prior) else None if init is None else os.fspath(init),
        "data": ", ".join(os.fspath(folder) for folder in folders),
        "images": len(images.images),
        "validation_images": len(held_out.images),
        "machine": machine(device),
        "precision": precision,
        "versions": versions(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }
