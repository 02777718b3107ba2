"""Training a prior, from a recipe and a folder of images to a file of weights."""

import os
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pyro_vble._extras import extra
from pyro_vble.inference.precision import resolve_device, resolve_precision
from pyro_vble.io.atomic import atomic_path, remove_leftovers
from pyro_vble.io.priors import load_prior
from pyro_vble.models import CAE, Prior
from pyro_vble.seeding import seeded
from pyro_vble.training.bar import progress_bar
from pyro_vble.training.checkpoint import read_checkpoint
from pyro_vble.training.construction import build_prior, initial_state
from pyro_vble.training.crops import RandomCrops
from pyro_vble.training.data import ImageSet, image_paths, read_images
from pyro_vble.training.evaluation import Evaluation, VarianceRatios
from pyro_vble.training.log import TrainingLog
from pyro_vble.training.loop import Run, TrainingDivergedError, run_steps
from pyro_vble.training.recipes import CAERecipe, DecoderStdRecipe, Recipe, load_recipe, parse_recipe
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
    calibration: VarianceRatios | None
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
    init_std: Prior | str | os.PathLike | None = None,
    grow: Mapping[str, int] | None = None,
    validation: str | os.PathLike | None = None,
    resume: bool = False,
    steps: int | None = None,
    minutes: float | None = None,
    lr: float | None = None,
    device: str | torch.device = "auto",
    tensorboard: bool = False,
    progress: Progress = True,
    started: float | None = None,
) -> TrainingResult:
    r"""Train a prior: maximise the ELBO of images under it and its encoder, by Adam or SOAP.

    .. math:: \max_{\theta, \psi, \phi} \sum_x E_{q_\phi(z,h|x)}\big[\log p_\theta(x|z) + \log p_\psi(z,h) -
        \log q_\phi(z,h|x)\big]

    A recipe of kind "cae" or "vae" trains everything under one standard deviation of p(x|z); one of kind
    "decoder_std" then trains the decoder of standard deviations alone. Into ``output`` go ``prior.safetensors`` (the
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
        output: Folder for the results, created if missing.
        init: Prior whose weights to start from, its name or file, or the folder or checkpoint of another training.
        init_std: For "decoder_std": prior whose decoder of standard deviations to start from, given like ``init``. For
            a mean that was trained further, say, with the decoder that it had before.
        grow: For "cae": sizes to grow ``init`` to, {"N": 96, "M": 192} or one of them, in place of the recipe's; see
            :func:`~pyro_vble.models.grown`.
        validation: Folder of images to measure on; by default some of ``data`` are held out.
        resume: Go on from ``training.ckpt`` in the output folder, if there is one.
        steps: Number of steps in place of the recipe's.
        minutes: End after this many minutes, schedule complete and weights written, however many steps that is.
        lr: Largest learning rate in place of the recipe's: a smaller one suits a trained ``init``.
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
        ImportError: If packages of the extra "training", or TensorBoard, are needed and not installed.
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
    with extra("training"):
        import yaml
    output, name = Path(output), str(recipe) if isinstance(recipe, str | os.PathLike) else recipe.kind
    checkpoint = output / CHECKPOINT
    resuming = _resuming(checkpoint, resume)
    recipe = _with_schedule(recipe, steps, minutes, lr, checkpoint if resuming else None)
    torch_device = resolve_device(device)
    if resuming and isinstance(recipe, DecoderStdRecipe):
        init, init_std = output / PRIOR, None  # the former has all that the checkpoint's weights belong to
    start = _start(init, getattr(recipe, "alpha", None))
    if grow is not None:
        recipe = _with_sizes(recipe, start, grow)
    prior = build_prior(recipe, start, _start(init_std), grow=grow is not None)
    images, held_out = _images(recipe, prior, data, validation)

    with seeded(recipe.seed):
        state = initial_state(recipe, prior, torch_device)
        state.precision = resolve_precision(recipe.precision, prior, torch_device)
        state.images = f"{images.fingerprint}, validation {held_out.fingerprint}"
        state.init = _in_words(init, init_std, grow)
        if resuming:
            state.restore(checkpoint)
        output.mkdir(parents=True, exist_ok=True)
        with atomic_path(output / "recipe.yaml") as temporary:
            temporary.write_text(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))
        log = TrainingLog(output, state.log, tensorboard)
        report = Report(state, held_out, output, _origin(recipe, name, data, images, held_out, torch_device))

        def write() -> None:
            log.mark(state.step, state.elapsed, report.brief())
            state.log = log.rows
            state.save(checkpoint)

        try:
            if not state.complete:
                budget = _budget(recipe, report, write)
                draw = RandomCrops(images, recipe.data, torch_device)
                with progress_bar(progress, recipe.schedule) as show:
                    run_steps(state, Run(draw, budget, started, write, log, show))
        except TrainingDivergedError as error:
            raise TrainingDivergedError(
                f"{error} The last good checkpoint: {checkpoint}. Start anew in another folder, with --init {output} "
                "and a lower schedule.lr or schedule.clip, or look for damaged images."
            ) from None
        finally:
            log.close()
        prior, evaluation, calibrated = report.final()
    return TrainingResult(
        prior=prior,
        path=output / PRIOR,
        evaluation=evaluation,
        calibration=calibrated,
        steps=state.step,
        skipped_steps=int(state.skipped),
        seconds=state.elapsed,
        complete=state.complete,
        skipped_files=images.skipped | held_out.skipped,
    )


def _resuming(checkpoint: Path, resume: bool) -> bool:
    """Whether there is a training to go on with; its folder is tidied up.

    Raises:
        ValueError: If there is one and it was not asked for, or the folder is none.
    """
    folder = checkpoint.parent
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output must be a folder; {folder} is a file; choose another --output.")
    if checkpoint.exists() and not resume:
        raise ValueError(
            f"{folder} holds a training already; pass --resume to go on with it, or another --output for a new one."
        )
    if _is_trained(folder / PRIOR) and not checkpoint.exists():
        raise ValueError(
            f"{folder} holds a prior whose training cannot be gone on with, as {CHECKPOINT} is missing; pass another "
            f"--output, with --init {folder / PRIOR} to start from its weights."
        )
    if resume and not checkpoint.exists():
        warnings.warn(f"There is no training to resume in {folder}: a new one starts.", stacklevel=3)
    remove_leftovers(folder)  # what a killed run was writing
    return checkpoint.exists()


def _is_trained(path: Path) -> bool:
    """Whether there is a prior that took a step of training; one that was written before the first is worth nothing."""
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("steps") != "0"
    except (OSError, SafetensorError):
        return True  # whatever it is, it is not ours to overwrite


def _budget(recipe: Recipe, report: Report, write: Callable[[], None]) -> Budget:
    """The steps or the time that steps may take, what comes after them set aside.

    Raises:
        ValueError: If nothing is left.
    """
    begun = time.monotonic()
    write()
    one_checkpoint = time.monotonic() - begun
    if recipe.schedule.minutes is None:
        return Budget(steps=recipe.schedule.steps)
    aside = 1.5 * report.seconds() + 2.5 * one_checkpoint + 1.0
    allowed = recipe.schedule.minutes * 60
    if aside > allowed / 2 and report.state.step == 0:
        for name in (CHECKPOINT, PRIOR):  # nothing was trained: the folder is free for another try
            (report.folder / name).unlink()
        raise ValueError(
            f"Measuring and writing take about {aside:.0f} of the {allowed:.0f} seconds, which leaves too little for "
            f"training; allow more minutes, or measure on fewer images than {len(report.images.images)}."
        )
    return Budget(seconds=allowed - aside)


def _with_schedule(
    recipe: Recipe | str | os.PathLike,
    steps: int | None,
    minutes: float | None,
    lr: float | None,
    checkpoint: Path | None,
) -> Recipe:
    """The recipe with the steps or minutes and the rate asked for; when resuming, with those it was started with."""
    if steps is not None and minutes is not None:
        raise ValueError(f"A training goes by steps or by minutes; received {steps} steps and {minutes} minutes.")
    recipe = load_recipe(recipe) if isinstance(recipe, str | os.PathLike) else recipe
    content = recipe.model_dump(mode="json")
    if checkpoint is not None:
        before = read_checkpoint(checkpoint)["recipe"]["schedule"]
        lr = before["lr"] if lr is None else lr
        if steps is None and minutes is None:
            steps, minutes = before["steps"], before["minutes"]
    if steps is not None:
        content["schedule"] |= {"steps": steps, "minutes": None}
    if minutes is not None:
        content["schedule"] |= {"minutes": minutes}
    if lr is not None:
        content["schedule"] |= {"lr": lr}
    return parse_recipe(content)


def _start(init: Prior | str | os.PathLike | None, alpha: float | None = None) -> Prior | None:
    """The prior to start from: itself, by name or file, or what a training left in its folder.

    A file need not tell its bitrate parameter where the recipe has another.
    """
    if init is None or isinstance(init, Prior):
        return init
    path = Path(init)
    if path.is_dir():
        path = path / PRIOR
    elif path.name == CHECKPOINT and path.is_file():
        path = path.with_name(PRIOR)  # the averaged weights of that checkpoint
    return load_prior(path, alpha=alpha) if path.is_file() else load_prior(init)


def _with_sizes(recipe: Recipe, init: Prior | None, grow: Mapping[str, int]) -> Recipe:
    """The recipe for the network that ``init`` grows to.

    Raises:
        ValueError: If it trains no network that grows, or there is none to start from.
    """
    if not isinstance(recipe, CAERecipe):
        raise ValueError(f"Only recipes of kind cae grow a network; received grow with one of {recipe.kind}; omit it.")
    if not isinstance(init, CAE):
        raise ValueError(
            "What grows is a compressive autoencoder to start from; received "
            f"{'none' if init is None else f'a {type(init).__name__}'}; pass --init with its name or file."
        )
    network = init.network
    own = {"architecture": type(network).__name__, "N": network.N}
    own |= {} if recipe.network.M is None else {"M": network.M}
    return parse_recipe(recipe.model_dump(mode="json") | {"network": own | dict(grow)})


def _in_words(
    init: Prior | str | os.PathLike | None,
    init_std: Prior | str | os.PathLike | None,
    grow: Mapping[str, int] | None = None,
) -> str | None:
    """What a training started from."""
    names = [
        each.name if isinstance(each, Prior) else None if each is None else os.fspath(each) for each in (init, init_std)
    ]
    if grow is not None:
        return f"{names[0]}, grown to {', '.join(f'{name}={size}' for name, size in grow.items())}"
    return names[0] if init_std is None else f"{names[0]}, its standard deviations from {names[1]}"


def _images(
    recipe: Recipe, prior: Prior, data: str | os.PathLike | Sequence[str | os.PathLike], validation: object
) -> tuple[ImageSet, ImageSet]:
    """Images to train on and to measure on."""
    one_size = getattr(prior, "image_shape", None)
    if one_size is not None and one_size[1:] != (recipe.data.crop, recipe.data.crop):
        raise ValueError(
            f"data.crop must be the side of the prior's images, {one_size[1:]}; received {recipe.data.crop}."
        )

    def read(folders: Any, **how: Any) -> ImageSet:
        return read_images(folders, bands=prior.bands, smallest=recipe.data.crop, scale=recipe.data.scale, **how)

    if validation is not None:
        # Whatever is measured on is not trained on, though its folder lie within the other.
        held_out = image_paths(validation)
        every = {path.resolve() for path in image_paths(data)}
        if every and every <= {path.resolve() for path in held_out}:
            raise ValueError(
                f"validation must leave images to train on; received {validation}, which holds all of {data}; name "
                "another folder, or none: some of the images are then held out."
            )
        return read(data, without=held_out), read(validation)
    return read(data).split(recipe.data.validation)


def _origin(
    recipe: Recipe,
    name: str,
    data: str | os.PathLike | Sequence[str | os.PathLike],
    images: ImageSet,
    held_out: ImageSet,
    device: torch.device,
) -> dict[str, Any]:
    """What a card says of where a prior comes from."""
    folders = [data] if isinstance(data, str | os.PathLike) else list(data)
    return {
        "recipe_name": name,
        "recipe": recipe.model_dump(mode="json"),
        "data": ", ".join(os.fspath(folder) for folder in folders),
        "images": len(images.images),
        "validation_images": len(held_out.images),
        "machine": machine(device),
        "versions": versions(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }
