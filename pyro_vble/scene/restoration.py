"""Restoring a scene in one call."""

import dataclasses
import json
import math
import os
import tempfile
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np

from pyro_vble._arguments import (
    Count,
    Flag,
    NotNegative,
    PathName,
    Positive,
    Probability,
    Rule,
    Seed,
    checked,
    rate_scale_of,
    whole_from,
)
from pyro_vble.guides import DEFAULT_GUIDE
from pyro_vble.guides.abilities import guide_name
from pyro_vble.inference import FitSettings, resolve_device
from pyro_vble.inference.precision import Device, Precision, suited_precision
from pyro_vble.inference.settings import Quality
from pyro_vble.io.prior_files import save_prior
from pyro_vble.models import CAE, Prior
from pyro_vble.models.identity import fingerprint
from pyro_vble.physics import Radiometry
from pyro_vble.samples import Posterior
from pyro_vble.scene.engine import Alone, Progress, crew, run
from pyro_vble.scene.expected import expected_of, gpus_of
from pyro_vble.scene.grid import Grid
from pyro_vble.scene.job import Job
from pyro_vble.scene.operators import SceneOperator, scene_operator
from pyro_vble.scene.posterior import ScenePosterior
from pyro_vble.scene.reach import decoder_reach, operator_reach
from pyro_vble.scene.sources import Source, open_source
from pyro_vble.scene.store import Store
from pyro_vble.scene.tiles import families
from pyro_vble.scene.unfitted import unfitted_posterior
from pyro_vble.seeding import fresh_seed

# Pixels on either side of a border over which one cell gives way to the next: one latent of a two-level autoencoder.
_RAMP = 16
# Side of cells where nobody says it.
_TILE = 512


def default_radiometry(dtype: np.dtype, white: float | None = None) -> Radiometry:
    """That of a type whose largest number is white; floats are on [0, 1] already."""
    largest = float(np.iinfo(dtype).max) if dtype.kind in "ui" else 1.0
    return Radiometry(white=largest if white is None else white, dtype=dtype.name)


@checked
def restore_scene(
    scene: Any,
    physics: Any,
    prior: Any = "cae-bsd",
    output: PathName | None = None,
    *,
    guide: Any = None,
    quality: Quality = "fast",
    num_steps: Count | None = None,
    lr: Positive = 0.2,
    kl_weight: NotNegative = 1.0,
    rate_scale: Annotated[Any, Rule("a number in (0, 1]", rate_scale_of)] = 1.0,
    tolerance: NotNegative | None = 1e-3,
    tile: Count | None = None,
    halo: Annotated[int, whole_from(0)] | None = None,
    samples: Annotated[int, whole_from(2)] = 100,
    kept_samples: Annotated[int, whole_from(0)] = 0,
    probability: Probability = 0.9,
    bands: Any = None,
    window: Any = None,
    nodata: float | None = None,
    radiometry: Any = None,
    fill: Flag = False,
    calibration: Any = None,
    seed: Seed | None = None,
    device: Device = "auto",
    precision: Precision = "auto",
    workers: Annotated[int, whole_from(0)] | None = None,
    scheduler: str | None = None,
    resume: Flag = False,
    progress: Callable[[Progress], None] | None = None,
    told: Callable[[str], None] = print,
) -> ScenePosterior:
    r"""Restore a scene of any size: cells are fitted one by one, and become one posterior without seams.

    .. math:: q(z) = \prod_k q_k(z_k), \qquad q_k \text{ blended of the fits whose window holds } k

    Every cell is fitted with a halo, as wide as what its pixels depend on through decoder and operator. Measured
    values that depend on pixels beyond the window carry no likelihood there. What was fitted is blended over the
    borders of cells into one mosaic of latents on disk. Time and disk grow with the scene, memory does not.

    Args:
        scene: A path that GDAL reads, an ``xarray.DataArray`` (lazy or not), or an array (C, H, W); NaN where missing.
            A ``Source`` that is open already is taken as it is.
        physics: The forward operator with its noise: a ``deepinv.physics.Physics`` for images of any size, or a
            function from (C, H, W) to one.
        prior: A compressive autoencoder, or a name or path for ``load_prior``.
        output: Folder of the scene's store, by convention ``NAME.scene``; a temporary one if None.
        guide: ``VBLExz`` or ``VBLE``, or a partial of them; VBLE-xz with a free mean if None.
        quality: "fast" (90 steps) or "accurate" (300).
        num_steps: As in :func:`~pyro_vble.restore`, like the next three and the last.
        lr: Learning rate.
        kl_weight: λ.
        rate_scale: s in (0, 1]; one for all cells.
        tolerance: Early stopping.
        tile: Side of a cell in pixels of the restored image, a multiple of the prior's stride, 64 (and of the ratio of
            pixels); 512 or the next that is one, if None.
        halo: Pixels about a cell that are fitted with it, computed if None.
        samples: Samples behind every statistic.
        kept_samples: How many samples are written, too.
        probability: Of the intervals.
        bands: Bands to restore, numbers from 1 or names; all if None.
        window: (column offset, row offset, width, height) of the part to restore.
        nodata: Value of missing pixels, where the scene does not say.
        radiometry: What maps the scene's numbers to [0, 1], with methods ``to_unit`` and ``from_unit``, such as a
            :class:`~pyro_vble.physics.Radiometry`; integers are divided by the largest of their type if None.
        fill: Whether missing pixels are filled in; otherwise they are missing in the results.
        calibration: A :class:`~pyro_vble.diagnostics.Calibration` of the intervals; one that was made with another
            guide, prior or operator is warned of.
        seed: The same seed gives the same bits on one kind of machine, whatever the number of workers.
        device: Where workers compute.
        precision: As in ``restore``.
        workers: Processes, one thread each; this process alone if 0. If None as many as GPUs, or as CPU cores, but no
            more than there are cells, or than memory holds.
        scheduler: Address of a running Dask scheduler, in place of processes of one's own.
        resume: Go on with a run that was ended, whatever ended it; what is finished is not done again.
        progress: Is told how far the run has come.
        told: Is told what a user should know, such as what it will take, and the dashboard's address.

    Returns:
        The posterior of the scene; ``posterior.results`` is what was drawn of it. Cells that failed three times are
        missing there, and named in ``posterior.failed``.

    Raises:
        TypeError: If an argument, or the guide, is of another kind.
        ValueError: If scene, operator, prior and settings do not go together, or another run is resumed.
        FileExistsError: If there is a scene at ``output`` and it is not to be resumed.
        BlockingIOError: If another run writes there.
        OSError: If the disk is full: the run can be resumed.

    Example:
        >>> import numpy as np, tempfile, deepinv
        >>> from pyro_vble.scene import restore_scene
        >>> physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))
        >>> y = np.random.default_rng(0).random((1, 100, 70), np.float32)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     scene = restore_scene(y, physics, output=f"{folder}/a.scene", num_steps=2, samples=4, workers=0)
        ...     std = scene[10:20, 30:35].std(8)
        >>> std.shape
        torch.Size([1, 1, 10, 5])
    """
    source = scene if isinstance(scene, Source) else open_source(scene, bands, nodata, window)
    prior = _prior(prior)
    operator = scene_operator(physics, source.shape[0])
    guide = DEFAULT_GUIDE if guide is None else guide
    grid, reach, margin = cut(source.shape, operator, prior, tile=tile, halo=halo)
    options = {
        "quality": quality,
        "num_steps": num_steps,
        "lr": lr,
        "kl_weight": kl_weight,
        "tolerance": tolerance,
        "device": device,
        "precision": precision,
    }
    store = Store(os.path.abspath(tempfile.mkdtemp(suffix=".scene") if output is None else output))
    if resume and seed is None and (store.path / "scene.json").exists():
        seed = store.about["seed"]
    job = Job(
        store=str(store.path),
        source=source,
        radiometry=radiometry or default_radiometry(source.dtype),
        operator=operator,
        guide=guide,
        grid=grid,
        reach=reach,
        margin=margin,
        seed=fresh_seed() if seed is None else seed,
        options=options,
        samples=samples,
        kept_samples=kept_samples,
        probability=probability,
        fill=fill,
        calibration=calibration,
    )
    # Before the work: a guide that is no maps is refused, and a calibration that does not suit is warned of, once.
    unfitted = unfitted_posterior(job, prior, rate_scale)
    families(unfitted.guide)
    unfitted.calibrated(calibration)
    with store.locked():
        _prepare(store, job, prior, rate_scale, unfitted.made_with, resume=resume)
        measured = store.path / "measured.npy"
        count, gpus = _hands(job, store, unfitted, workers, scheduler, told)
        with crew(count, scheduler, told, gpus) as hands:
            if not isinstance(hands, Alone):
                job = dataclasses.replace(job, source=source.shared(measured))
            report = run(job, hands, progress or (lambda progress: None))
        measured.unlink(missing_ok=True)
        finished: dict[str, Any] = {"failed": {f"{row}-{column}": why for (row, column), why in report.failed.items()}}
        finished["seconds"] = report.seconds
        store.describe(store.about | finished)
    return ScenePosterior(store, device=device)


def cut(
    shape: tuple[int, int, int],
    operator: SceneOperator,
    prior: CAE,
    *,
    tile: int | None = None,
    halo: int | None = None,
) -> tuple[Grid, int, int]:
    """How a scene is cut; and how far its decoder (in latents) and its operator (in pixels) reach.

    Args:
        shape: (C, H, W) of what was measured.
        operator: The operator.
        prior: The prior.
        tile: Side of a cell; if None 512, or the next multiple of what it must be one of.
        halo: Pixels about a cell that are fitted with it; if None what decoder and operator reach, and half a blend.

    Raises:
        ValueError: If tile or halo are no multiples of the prior's stride, or are less than what is needed.
    """
    unit = math.lcm(prior.stride, operator.ratio)
    reach, margin = decoder_reach(prior), operator_reach(operator, shape[0])
    needed = reach * latent_step(prior) + margin + _RAMP
    halo = -(-needed // unit) * unit if halo is None else halo
    tile = -(-_TILE // unit) * unit if tile is None else tile
    for name, value in (("tile", tile), ("halo", halo)):
        if value % unit or (name == "tile" and not value):
            raise ValueError(
                f"{name} must be a multiple of {unit}, so that latents of neighbours lie on one grid; received "
                f"{value}; choose {max(unit, round(value / unit) * unit)}."
            )
    if halo < margin:
        raise ValueError(
            f"halo must be at least what a measured value depends on, {margin} pixels on either side; received {halo}; "
            f"choose {-(-needed // unit) * unit}."
        )
    ramp = min(_RAMP, halo)
    if tile <= ramp + reach * latent_step(prior):
        raise ValueError(
            f"tile must be larger than what a decoder and a blend reach, {ramp + reach * latent_step(prior)} pixels; "
            f"received {tile}; choose {unit * (1 + (ramp + reach * latent_step(prior)) // unit)} or more."
        )
    height, width = (operator.ratio * side for side in shape[1:])
    return Grid(height, width, tile, halo, ramp), reach, margin


def _hands(
    job: Job,
    store: Store,
    unfitted: Posterior,
    workers: int | None,
    scheduler: str | None,
    told: Callable[[str], None],
) -> tuple[int, int]:
    """How many processes are to work, and how many GPUs they share; says what that takes where it knows the machine."""
    if scheduler is not None or workers == 0:
        return 0, 0
    device = resolve_device(job.options["device"])
    asked = {name: job.options[name] for name in ("num_steps", "tolerance")}
    expected = expected_of(
        job.grid,
        job.bands,
        unfitted.model.prior,
        job.guide,
        cells=sum(not store.is_done("fitted", place) for place in job.grid.places),
        workers=workers,
        steps=FitSettings.of(job.options["quality"], **asked).num_steps,
        samples=job.samples,
        device=device,
        precision=suited_precision(job.options["precision"], unfitted.model, unfitted.y),
    )
    told(f"{expected}.")
    if expected.too_much:
        told("Together they may want more memory than is free: take fewer workers, or a smaller tile.")
    return expected.workers, gpus_of(device)


def latent_step(prior: CAE) -> int:
    """Pixels a latent, along each side."""
    return prior.stride // 4


def _prior(prior: Any) -> CAE:
    if not isinstance(prior, Prior):
        from pyro_vble.io.priors import load_prior

        prior = load_prior(prior)
    if not isinstance(prior, CAE):
        raise TypeError(
            f"A scene needs a prior of images of any size, a CAE; received a {type(prior).__name__}; load one such as "
            '"cae-bsd" or "cae-aerial".'
        )
    return prior


def _prepare(store: Store, job: Job, prior: CAE, rate_scale: float, made_with: str, *, resume: bool) -> None:
    """Write what the scene is, or see that it is the same that was begun.

    Raises:
        FileExistsError: If there is one, and it is not to be resumed.
        ValueError: If another one was begun.
    """
    about = {
        "grid": dataclasses.asdict(job.grid),
        "seed": job.seed,
        "bands": job.bands,
        "reach": job.reach,
        "rate_scale": rate_scale,
        "made_with": made_with,
        "georeference": _georeference(job),
        "run": {
            "source": job.source.fingerprint(),
            "radiometry": repr(job.radiometry),
            "operator": job.operator.words,
            "margin": job.margin,
            "prior": f"{prior.name} #{fingerprint(prior)}",
            "guide": guide_name(job.guide),
            "options": {name: str(value) for name, value in job.options.items()},
            "samples": job.samples,
            "kept_samples": job.kept_samples,
            "probability": job.probability,
            "fill": job.fill,
            "calibration": None if job.calibration is None else str(job.calibration),
        },
    }
    if not (store.path / "scene.json").exists():
        save_prior(prior, store.prior)
        store.describe(about)
        return
    if not resume:
        raise FileExistsError(
            f"A scene is not overwritten; there is one at {store.path}; go on with it (resume), remove it, or choose "
            "another output."
        )
    begun = store.about
    now, then = ({**a["run"], **{k: v for k, v in a.items() if k != "run"}} for a in (_plain(about), begun))
    changed = [name for name in now if now[name] != then.get(name)]
    if changed:
        told = ", ".join(f"{name}: {then.get(name)} -> {now[name]}" for name in changed)
        raise ValueError(
            f"A run is resumed with the settings that it began with; at {store.path} differ {told}; take those, or "
            "choose another output."
        )


def _georeference(job: Job) -> dict[str, Any] | None:
    """Reference system and transform of the restored scene, as JSON has them."""
    if job.source.raster is None or job.source.raster.transform is None:
        return None
    raster = job.source.raster.enlarged(job.grid.height, job.grid.width)
    crs = None if raster.crs is None else raster.crs.to_wkt()
    return {"crs": crs, "transform": list(raster.transform)[:6]}


def _plain(about: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(about))
