"""Running a scene's cells: here one after another, or on the workers of Dask."""

import contextlib
import errno
import logging
import os
import statistics
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from pyro_vble._allocator import KEEP_FREED_MEMORY, return_freed_memory
from pyro_vble._arguments import brief
from pyro_vble._extras import extra
from pyro_vble.scene.blending import blend_cell, create_mosaic
from pyro_vble.scene.drawing import create_results, draw_cell
from pyro_vble.scene.job import Job
from pyro_vble.scene.store import Store, fields_as_json, fields_of
from pyro_vble.scene.tiles import fit_cell

Place = tuple[int, int]
#: How often a cell is tried before it is given up.
ATTEMPTS = 3
# What no further attempt on another cell would mend: the run stops, and can be resumed.
_FATAL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Attributes:
        stage: "fitted", "blended" or "drawn".
        done: Cells that have come through it, those of an earlier run included.
        total: All cells.
        remaining: Seconds that are left of the whole run, from what its cells have taken; None before the first.
    """

    stage: str
    done: int
    total: int
    remaining: float | None


@dataclass
class Report:
    """What a run did.

    Attributes:
        failed: Cells that were given up, with the reason.
        empty: Cells without a measured pixel.
        seconds: Seconds by stage, of this run.
    """

    failed: dict[Place, str] = field(default_factory=dict)
    empty: list[Place] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


class Crew(Protocol):
    """Who does the work of cells."""

    @property
    def size(self) -> int:
        """How many cells are worked on at once."""
        ...

    def work(self, task: "Task", job: Job, places: list[Place]) -> Iterator[tuple[Place, dict[str, Any]]]:
        """What a task says of every cell, as it is done."""
        ...


class Alone:
    """This process, one cell after another."""

    size = 1

    def work(self, task: "Task", job: Job, places: list[Place]) -> Iterator[tuple[Place, dict[str, Any]]]:
        """What the task says of every cell."""
        for place in places:
            yield place, task(place, job=job)


class DaskCrew:
    """The workers of a ``distributed`` scheduler.

    Args:
        client: A ``distributed.Client``.
        gpus: How many GPUs its workers share by their numbers; 0 where each has found its own.
    """

    def __init__(self, client: Any, gpus: int = 0) -> None:
        self.client, self.gpus = client, gpus

    @property
    def size(self) -> int:
        """Threads of all workers."""
        return sum(self.client.nthreads().values()) or 1

    def work(self, task: "Task", job: Job, places: list[Place]) -> Iterator[tuple[Place, dict[str, Any]]]:
        """What the task says of every cell, as it is done; "failed" of one that kills its workers.

        Raises:
            ConnectionError: If the scheduler is lost.
        """
        with extra("geo"):
            from distributed import KilledWorker, as_completed

        # Keys of this run alone: what is asked for anew is done anew.
        keys = [f"{task.stage}-{place[0]}-{place[1]}-{uuid.uuid4().hex}" for place in places]
        at = dict(zip(keys, places, strict=True))
        # A task of its own, not scattered data: that would be lost with the last worker that holds it.
        shared = self.client.submit(_itself, job, pure=False)
        function = partial(_on_own_gpu, task, self.gpus) if self.gpus > 1 else task
        futures = self.client.map(function, places, job=shared, pure=False, key=keys)
        left = {future.key: future for future in futures}
        del futures
        try:
            for future, said in as_completed(list(left.values()), with_results=True, raise_errors=False):
                if future.status == "cancelled":
                    raise ConnectionError("The run stops: its scheduler is lost; what is done stays: resume it.")
                if future.status == "error":
                    error = said[1]
                    if not isinstance(error, KilledWorker):
                        raise error
                    said = {"status": "failed", "error": f"its workers died ({type(error).__name__})"}
                # What is kept of it would be done again if the worker that holds it died.
                left.pop(future.key).release()
                yield at[future.key], said
        finally:
            self.client.cancel(list(left.values()))


def _itself(job: Job) -> Job:
    return job


def _on_own_gpu(task: "Task", gpus: int, place: Place, *, job: Job) -> dict[str, Any]:
    """What a task says of a cell, on the GPU of its worker's number: the current one belongs to a thread."""
    import torch

    with extra("geo"):
        from distributed import get_worker

    torch.cuda.set_device(int(get_worker().name) % gpus)
    return task(place, job=job)


@contextlib.contextmanager
def crew(
    workers: int, scheduler: str | None = None, told: Callable[[str], None] = print, gpus: int = 0
) -> Iterator[Crew]:
    """Who is to do the work: the workers of a scheduler's address, or of an embedded cluster of processes.

    Args:
        workers: Processes of the embedded cluster, one thread each; none if 0.
        scheduler: Address of a scheduler, ``tcp://host:port``, whose workers see the same files.
        told: Is told the dashboard's address.
        gpus: How many GPUs the embedded cluster's workers share.
    """
    if workers == 0 and scheduler is None:
        yield Alone()
        return
    with extra("geo"):
        import dask.config
        from distributed import Client, LocalCluster
    if scheduler is not None:
        with Client(scheduler) as client:
            told(f"Dashboard: {client.dashboard_link}")
            yield DaskCrew(client)
        return
    # One thread a process: results must not depend on how many processes share the cores.
    settings = {
        # A cell that kills its worker is tried ATTEMPTS times in all; none waits at a worker, to be blamed with it.
        "distributed.scheduler.allowed-failures": ATTEMPTS - 1,
        "distributed.scheduler.worker-saturation": 1.0,
        # What a worker holds is its libraries' and the cell's at hand: there is nothing to spill, and to pause is to
        # wait for ever. A cell that takes too much ends its worker, and is tried again.
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": False,
        # A scene in memory travels to the workers with the job.
        "distributed.admin.large-graph-warning-threshold": "1TiB",
        # Profiles of a thousand seconds are some hundred MiB of every worker.
        "distributed.worker.profile.enabled": False,
        # Dask's own setting gives all freed memory back, which the kernel then clears anew at every step of a fit:
        # two fifths of a worker's time. A worker gives it back between cells.
        **{f"distributed.nanny.pre-spawn-environ.{name}": value for name, value in KEEP_FREED_MEMORY.items()},
    }
    how = {"threads_per_worker": 1, "processes": True, "dashboard_address": ":0", "silence_logs": logging.ERROR}
    with (
        dask.config.set(settings),
        _environment_as_before(*dask.config.get("distributed.nanny.pre-spawn-environ"), "PYTHONHASHSEED"),
        LocalCluster(n_workers=workers, **how) as cluster,
        Client(cluster) as client,
    ):
        told(f"Dashboard: {client.dashboard_link}")
        yield DaskCrew(client, gpus)


@contextlib.contextmanager
def _environment_as_before(*names: str) -> Iterator[None]:
    """Dask sets what a worker is to find in the environment of the process that starts it, and leaves it there."""
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@dataclass(frozen=True)
class Task:
    """One stage of one cell: tried up to three times, and marked; what fails is said, not raised.

    Attributes:
        stage: "fitted", "blended" or "drawn".
        function: (job, place) -> what is marked.
    """

    stage: str
    function: Callable[[Job, Place], dict[str, Any]]

    def __call__(self, place: Place, *, job: Job) -> dict[str, Any]:
        """What is said of a cell: "status" is its stage, "empty", "failed", or "stopped" where no cell can go on."""
        said: dict[str, Any] = {}
        begin, spent = time.perf_counter(), time.process_time()
        for number in range(1, ATTEMPTS + 1):
            try:
                said = self.function(job, place)
                break
            except Exception as error:  # a cell may fail in any way: another attempt, then the next cell
                if isinstance(error, OSError) and error.errno in _FATAL:
                    return {"status": "stopped", "error": _in_words(error)}
                said = {"status": "failed", "error": _in_words(error), "attempts": number}
        return_freed_memory()  # a worker that does a thousand cells must not hold what one of them left
        said = said | {"seconds": time.perf_counter() - begin, "cpu_seconds": time.process_time() - spent}
        try:
            Store(job.store).mark(self.stage, place, said)
        except OSError as error:
            return {"status": "stopped", "error": _in_words(error)}
        return said


def run(job: Job, crew: Crew, told: Callable[[Progress], None] = lambda progress: None) -> Report:
    """Take all cells through all stages, those that are not marked as done.

    Raises:
        OSError: If the disk is full: what is done stays, and the run can be resumed.
        ValueError: If no cell could be fitted.
    """
    store, report = Store(job.store), Report()
    pace = _Pace(job, crew)
    if _take_back(job, store):
        store.describe(store.about | {"finished": False})
    every = set(job.grid.places)
    _stage(Task("fitted", fit_cell), every, job, crew, report, pace, told)
    marks = {place: mark for place in job.grid.places if (mark := store.marked("fitted", place)) is not None}
    fitted = {place: mark for place, mark in marks.items() if mark["status"] == "fitted"}
    if not fitted:
        raise ValueError(_nothing(report))
    first = next(iter(fitted.values()))
    fields, precisions = fields_of(first), {mark["precision"] for mark in fitted.values()}
    create_mosaic(job, fields)
    _stage(Task("blended", partial(blend_cell, fields=fields)), job.grid.about(fitted), job, crew, report, pace, told)
    drawable = set(fitted) - _without_neighbours(job, store, set(fitted), report)
    known = {
        "fields": fields_as_json(fields),
        "precision": precisions.pop() if len(precisions) == 1 else "float32",
        "blank": sorted(every - drawable),
    }
    store.describe(store.about | known)
    create_results(job)
    _stage(Task("drawn", draw_cell), drawable, job, crew, report, pace, told)
    if not report.failed:
        store.drop_tiles()
    store.describe(store.about | {"finished": True})
    return report


def _without_neighbours(job: Job, store: Store, fitted: set[Place], report: Report) -> set[Place]:
    """Fitted cells that are decoded from one that could not be blended, itself among them: given up, and marked so."""
    given_up = fitted & set(job.grid.about(_unblended(job, store, fitted)))
    for place in given_up:
        report.failed.setdefault(place, "a cell beside it could not be blended")
        store.mark("drawn", place, {"status": "failed", "error": report.failed[place]})
    return given_up


def _unblended(job: Job, store: Store, fitted: set[Place]) -> set[Place]:
    """Cells that fits have a say in, and that have not been blended."""
    return {place for place in job.grid.about(fitted) if not store.is_done("blended", place)}


def _take_back(job: Job, store: Store) -> bool:
    """Take back what was made of cells that are to be fitted (again); whether anything is left to be done.

    That is what was blended and drawn of them and of those that touch them: no cell is decoded from more, as it is
    larger than what a decoder and a blend reach. To blend a cell again takes the fits about it, and those whose files
    are not there or damaged are to be fitted again, too.
    """
    places = job.grid.places
    undone = {place for place in places if not store.is_done("fitted", place)}
    fitted = {place for place in places if store.is_fitted(place)}
    while True:
        for place in job.grid.about(undone):
            for stage in ("blended", "drawn"):
                store.unmark(stage, place)
        open_cells = _unblended(job, store, fitted)
        lacking = {place for place in job.grid.about(open_cells) & fitted - undone if not store.has_tile(place)}
        if not lacking:
            drawn = all(store.is_done("drawn", place) for place in fitted)
            return bool(undone or open_cells) or not drawn
        for place in lacking:
            store.unmark("fitted", place)
        undone |= lacking


def _stage(
    task: Task,
    cells: set[Place],
    job: Job,
    crew: Crew,
    report: Report,
    pace: "_Pace",
    told: Callable[[Progress], None],
) -> None:
    store, begin, total = Store(job.store), time.perf_counter(), len(job.grid.places)
    left = [place for place in sorted(cells) if not store.is_done(task.stage, place)]
    done = total - len(left)
    told(Progress(task.stage, done, total, pace.remaining(task.stage, len(left))))
    for place, said in crew.work(task, job, left):
        if said["status"] == "stopped":
            raise OSError(f"The run stops: {said['error']}; what is done stays: make room, and resume it.")
        if said["status"] == "failed":
            report.failed[place] = said["error"]
            store.mark(task.stage, place, said)
        elif said["status"] == "empty":
            report.empty.append(place)
        done += 1
        pace.add(task.stage, said)
        told(Progress(task.stage, done, total, pace.remaining(task.stage, total - done)))
    report.seconds[task.stage] = time.perf_counter() - begin


class _Pace:
    """What cells take, and so what is left of a run."""

    def __init__(self, job: Job, crew: Crew) -> None:
        self._crew, self._samples, self._cells = crew, job.samples + job.kept_samples, len(job.grid.places)
        self._seconds: dict[str, list[float]] = {}

    def add(self, stage: str, said: dict[str, Any]) -> None:
        """Take in what is said of a cell."""
        if said["status"] not in ("failed", "empty"):
            self._seconds.setdefault(stage, []).append(said["seconds"])
            if stage == "fitted":  # a fit tells what a sample of it takes
                self._seconds.setdefault("sample", []).append(said["sample_seconds"])

    def remaining(self, stage: str, left: int) -> float | None:
        """Seconds until the end, with so many cells left of a stage; None if nothing tells."""
        if stage not in self._seconds:
            return None if stage == "fitted" else 0.0 if not left else None
        own = statistics.fmean(self._seconds[stage]) * left
        if stage == "fitted":
            own += statistics.fmean(self._seconds["sample"]) * self._samples * self._cells
        return own / self._crew.size


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {brief(' '.join(str(error).split()))}"


def _nothing(report: Report) -> str:
    if report.failed:
        place, error = next(iter(report.failed.items()))
        return f"No cell of the scene could be restored; the first that failed, {place}, says {error}."
    return "A scene must have a measured pixel; received one in which all are missing; check nodata and bands."
