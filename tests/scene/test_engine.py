"""Nothing is lost: whoever does the work, in whatever order, whatever ends it, the bits are the same."""

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from scene.scenes import assert_same, denoising, measured, restored

from pyro_vble.guides import VBLE
from pyro_vble.scene import engine, open_scene
from pyro_vble.scene.engine import Alone, DaskCrew, Progress
from pyro_vble.scene.source import Source
from pyro_vble.scene.sources import open_source
from pyro_vble.scene.store import LAYOUT, STAGES, Store

Y = measured(1, 150, 100)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "a.scene"
    restored(folder, Y)
    return folder


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "a.scene"


class _Backwards(Alone):
    def work(self, task, job, places):
        return super().work(task, job, places[::-1])


class StopError(Exception):
    """What stands for a power cut."""


def stopping(stage, after):
    """A crew of one that is stopped once so many cells have come through a stage."""

    class _Stopping(Alone):
        def work(self, task, job, places):
            for number, done in enumerate(super().work(task, job, places)):
                yield done
                if task.stage == stage and number + 1 == after:
                    raise StopError

    return _Stopping


def test_another_order_of_cells_gives_the_same_bits(folder, undisturbed, monkeypatch):
    monkeypatch.setattr(engine, "Alone", _Backwards)
    restored(folder, Y)
    assert_same(folder, undisturbed)


def test_progress_counts_every_cell_of_every_stage_and_leaves_less_and_less(folder):
    told: list[Progress] = []
    restored(folder, Y, progress=told.append)
    for stage in STAGES:
        done = [one.done for one in told if one.stage == stage]
        assert done == list(range(7))
    assert told[0].remaining is None
    assert all(one.remaining is not None for one in told if one.stage == "fitted" and one.done)
    assert told[-1].remaining == 0
    assert {one.total for one in told} == {6}


@pytest.mark.parametrize(("stage", "after"), [("fitted", 2), ("blended", 3), ("drawn", 2), ("drawn", 6)])
def test_a_run_that_is_stopped_is_resumed_and_ends_in_the_same_bits(folder, undisturbed, monkeypatch, stage, after):
    with monkeypatch.context() as patch:
        patch.setattr(engine, "Alone", stopping(stage, after))
        with pytest.raises(StopError):
            restored(folder, Y)
    with pytest.raises(ValueError, match="must be finished"):
        open_scene(folder)
    fitted = {path: path.stat().st_mtime_ns for path in (folder / "marks" / "fitted").glob("*.json")}
    assert fitted
    with pytest.raises(FileExistsError, match="resume"):
        restored(folder, Y)
    scene = restored(folder, Y, resume=True)
    assert scene.failed == {}
    assert_same(folder, undisturbed)
    assert all(path.stat().st_mtime_ns == when for path, when in fitted.items())  # none of them anew
    assert open_scene(folder).shape == (1, 1, 150, 100)
    assert not (folder / "tiles").exists()


def test_to_resume_what_is_finished_does_nothing(folder, monkeypatch):
    restored(folder, Y)
    monkeypatch.setattr(engine, "fit_cell", None)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != "lock"}
    told: list[Progress] = []
    restored(folder, Y, resume=True, seed=None, progress=told.append)
    assert all(one.done == 6 for one in told)
    after = {path: path.stat().st_mtime_ns for path in before}
    assert [p.name for p in before if before[p] != after[p]] == ["scene.json"]  # which says how long it took


def test_a_run_is_resumed_with_its_own_settings(folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(engine, "Alone", stopping("fitted", 1))
        with pytest.raises(StopError):
            restored(folder, Y)
    for options, name in [
        ({"samples": 5}, "samples: 4 -> 5"),
        ({"seed": 1}, "seed: 0 -> 1"),
        ({"num_steps": 4}, "num_steps.*3.*4"),
        ({"tile": 128}, "grid.*64.*128"),
        ({"guide": VBLE}, "guide.*VBLE"),
        ({"rate_scale": 0.5}, "rate_scale: 1.0 -> 0.5"),
        ({"physics": denoising(0.2)}, "operator.*0.1.*0.2"),
        ({"y": Y + 0.01}, "source"),
        ({"fill": True}, "fill: False -> True"),
    ]:
        with pytest.raises(ValueError, match=f"resumed with the settings.*{name}.*choose another output"):
            restored(folder, **{"y": Y, "resume": True, **options})
    restored(folder, Y, resume=True)


def test_two_runs_on_one_output_refuse_each_other(folder):
    with (
        Store(folder).locked(),
        pytest.raises(BlockingIOError, match=rf"One run at a time.*process {os.getpid()}.*choose another output"),
    ):
        restored(folder, Y)
    restored(folder, Y)


def test_interrupted_from_the_keyboard_a_cell_is_not_taken_for_finished(folder, undisturbed, monkeypatch):
    """restore returns what it has; of a scene, half a fit is none."""
    from pyro_vble.scene import tiles

    real, calls = tiles.restore, []

    def restore(*args, **options):
        calls.append(1)
        posterior = real(*args, **options)
        posterior.interrupted = len(calls) == 2
        return posterior

    with monkeypatch.context() as patch:
        patch.setattr(tiles, "restore", restore)
        with pytest.raises(KeyboardInterrupt):
            restored(folder, Y)
    assert len(list((folder / "marks" / "fitted").iterdir())) == 1
    restored(folder, Y, resume=True)
    assert_same(folder, undisturbed)


# --- what is broken ---


class _Broken(Source):
    """A scene with a window, larger than a cell, that cannot be read as long as it is not mended."""

    def __init__(self, y, top):
        self.inner, self.top, self.mended = open_source(y), top, False
        self.name, self.shape, self.dtype, self.raster, self.nodata = "a.tif", y.shape, y.dtype, None, None

    def fingerprint(self):
        return self.inner.fingerprint()

    def _block(self, top, left, height, width):
        if not self.mended and top == self.top and height > 64 and left == 0:
            raise OSError("a broken block")
        return self.inner._block(top, left, height, width)


def test_a_cell_that_fails_three_times_is_reported_and_left_out_and_the_rest_is_finished(folder, tmp_path):
    y = measured(1, 320, 64)  # five cells in a column; the window of the last begins at row 192
    options = {"guide": VBLE, "kept_samples": 1}
    restored(tmp_path / "undisturbed", y, **options)
    source = _Broken(y, 192)
    scene = restored(folder, source, **options)
    assert list(scene.failed) == [(4, 0)]
    assert "a broken block" in scene.failed[4, 0]
    assert "rows 192 to 320" in scene.failed[4, 0]
    assert tuple(scene.cell((4, 0))) == (256, 320, 0, 64)
    assert Store(folder).marked("fitted", (4, 0))["attempts"] == 3
    mean = scene.results["mean"].values
    assert np.isnan(mean[:, 256:]).all()
    assert np.isfinite(mean[:, :256]).all()
    whole = open_scene(tmp_path / "undisturbed").results["mean"].values
    assert np.array_equal(mean[:, :192], whole[:, :192])  # beyond what depends on it
    assert not np.array_equal(mean[:, 192:256], whole[:, 192:256])
    assert open_scene(folder).failed == scene.failed

    again = restored(folder, source, resume=True, **options)  # not mended yet
    assert list(again.failed) == [(4, 0)]
    source.mended = True
    mended = restored(folder, source, resume=True, **options)
    assert mended.failed == {}
    assert_same(folder, tmp_path / "undisturbed")


def test_what_fails_while_it_is_drawn_is_reported_and_drawn_when_resumed(folder, undisturbed, monkeypatch):
    real = engine.draw_cell

    def draw(job, place):
        if place == (1, 1):
            raise RuntimeError("no memory left")
        return real(job, place)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "draw_cell", draw)
        scene = restored(folder, Y)
    assert list(scene.failed) == [(1, 1)]
    assert "no memory left" in scene.failed[1, 1]
    assert np.isnan(scene.results["std"].values[:, 64:128, 64:]).all()
    assert restored(folder, Y, resume=True).failed == {}
    assert_same(folder, undisturbed)


def test_what_is_decoded_from_a_cell_that_fails_while_it_is_blended_is_left_out(folder, undisturbed, monkeypatch):
    """Of its pixels, and of those beside it, there is nothing to say: not what latents are before anything is seen."""
    real = engine.blend_cell

    def blend(job, place, fields):
        if place == (2, 1):
            raise OSError("a disk that is away")
        return real(job, place, fields)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "blend_cell", blend)
        scene = restored(folder, Y)
    assert sorted(scene.failed) == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert "a disk that is away" in scene.failed[2, 1]
    assert "a cell beside it" in scene.failed[1, 0]
    for name in ("mean", "std"):
        values = scene.results[name].values
        assert np.isnan(values[:, 64:]).all()
        assert np.isfinite(values[:, :64]).all()
    assert np.isnan(open_scene(folder).draw(0)[..., 64:, :]).all()
    assert restored(folder, Y, resume=True).failed == {}
    assert_same(folder, undisturbed)


def test_a_full_disk_stops_the_run_and_what_is_done_stays(folder, undisturbed, monkeypatch):
    real, left = Store.write_tile, [3]

    def write_tile(self, place, values):
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.tile(place)))
        left[0] -= 1
        real(self, place, values)

    monkeypatch.setattr(Store, "write_tile", write_tile)
    with pytest.raises(OSError, match=r"The run stops.*No space left.*make room, and resume it"):
        restored(folder, Y)
    assert len(list((folder / "marks" / "fitted").iterdir())) == 3
    left[0] = 2
    with pytest.raises(OSError, match="The run stops"):
        restored(folder, Y, resume=True)
    left[0] = 99
    restored(folder, Y, resume=True)
    assert_same(folder, undisturbed)


@pytest.mark.parametrize("stage", STAGES)
def test_a_disk_too_full_for_a_mark_or_a_chunk_stops_the_run(folder, undisturbed, monkeypatch, stage):
    real = Store.mark

    def mark(self, own, place, about):
        if own == stage and place == (1, 0):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(self, own, place, about)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "mark", mark)
        with pytest.raises(OSError, match="The run stops"):
            restored(folder, Y)
    restored(folder, Y, resume=True)
    assert_same(folder, undisturbed)


# --- what is damaged ---


def _stopped(folder, monkeypatch, stage="drawn", after=2):
    with monkeypatch.context() as patch:
        patch.setattr(engine, "Alone", stopping(stage, after))
        with pytest.raises(StopError):
            restored(folder, Y)


@pytest.mark.parametrize(
    ("stage", "text"), [("fitted", ""), ("fitted", "[]"), ("blended", '{"status": "ble'), ("drawn", "\0\0\0")]
)
def test_a_damaged_mark_is_not_believed(folder, undisturbed, monkeypatch, stage, text):
    _stopped(folder, monkeypatch)
    (folder / "marks" / stage / "0-1.json").write_text(text)
    restored(folder, Y, resume=True)
    assert_same(folder, undisturbed)


@pytest.mark.parametrize(
    ("how", "stage", "after"), [("truncated", "fitted", 3), ("empty", "blended", 2), ("missing", "blended", 2)]
)
def test_a_damaged_fit_is_made_anew(folder, undisturbed, monkeypatch, how, stage, after):
    _stopped(folder, monkeypatch, stage, after)
    tile = folder / "tiles" / "0-0.safetensors"
    if how == "missing":
        tile.unlink()
    else:
        tile.write_bytes(tile.read_bytes()[: -10 if how == "truncated" else 0])
    restored(folder, Y, resume=True)
    assert_same(folder, undisturbed)


def test_a_mark_that_is_lost_when_the_fits_are_gone_has_all_that_it_takes_made_anew(folder, undisturbed):
    restored(folder, Y)
    assert not (folder / "tiles").exists()
    (folder / "marks" / "fitted" / "1-1.json").unlink()
    restored(folder, Y, resume=True)
    assert_same(folder, undisturbed)


def test_a_store_of_another_layout_is_refused(folder):
    restored(folder, Y)
    path = folder / "scene.json"
    path.write_text(path.read_text().replace(f'"layout": {LAYOUT}', '"layout": 7'))
    with pytest.raises(ValueError, match=rf"of layout {LAYOUT};.*is of 7"):
        restored(folder, Y, resume=True)


def test_what_a_killed_run_left_between_cells_is_removed(folder, monkeypatch):
    _stopped(folder, monkeypatch)
    left = folder / "marks" / "fitted" / f".0-0.json.{socket.gethostname()}.abc.partial"
    left.mkdir()
    restored(folder, Y, resume=True)
    assert not left.exists()


# --- a scheduler ---


class _Named:
    """Stands for a stage: says which cell it was."""

    stage = "fitted"

    def __call__(self, place, *, job):
        return {"status": "fitted", "place": place, "job": job}


@pytest.fixture
def client():
    from distributed import Client

    with Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=":0") as client:
        yield client


def test_what_cells_have_said_is_kept_by_no_worker(client):
    """Or all that a worker had done would be done again when it dies."""
    places = [(row, 0) for row in range(12)]
    found = {}
    for place, said in DaskCrew(client).work(_Named(), "the job", places):
        found[place] = said
        left = len(places) - len(found)
    assert found == {place: {"status": "fitted", "place": place, "job": "the job"} for place in places}
    assert left == 0
    deadline = time.monotonic() + 10
    while client.cluster.scheduler.tasks and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not client.cluster.scheduler.tasks


def test_a_lost_scheduler_is_no_failure_of_cells(client):
    work = DaskCrew(client).work(_Slow(), "the job", [(row, 0) for row in range(4)])
    next(work)
    from distributed import Future

    client.cancel([Future(key, client) for key in list(client.futures) if key.startswith("fitted")])
    with pytest.raises(ConnectionError, match=r"scheduler is lost.*resume"):
        list(work)


class _Slow(_Named):
    def __call__(self, place, *, job):
        time.sleep(0.2 * place[0])
        return super().__call__(place, job=job)


def test_an_error_of_the_scheduler_is_no_failure_of_a_cell(client):
    class _Unknown(_Named):
        def __call__(self, place, *, job):
            raise ModuleNotFoundError("No module named 'mine'")

    with pytest.raises(ModuleNotFoundError, match="mine"):
        list(DaskCrew(client).work(_Unknown(), "the job", [(0, 0)]))


def test_workers_share_the_gpus_by_their_numbers(client, monkeypatch):
    chosen = []
    monkeypatch.setattr("torch.cuda.set_device", chosen.append)
    assert len(list(DaskCrew(client, gpus=3).work(_Named(), "the job", [(0, 0), (1, 0)]))) == 2
    assert chosen == [0, 0]


# --- processes ---

DRIVER = """
import sys, pathlib
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from scene.scenes import measured, restored
if __name__ == "__main__":
    scene = restored(pathlib.Path(sys.argv[1]), measured(1, 150, 100), workers=int(sys.argv[2]), resume=True)
    print("failed", scene.failed)
"""


def start(folder: Path, workers: int) -> subprocess.Popen:
    script = folder.parent / "driver.py"
    script.write_text(DRIVER.format(tests=str(Path(__file__).parents[1])))
    return subprocess.Popen([sys.executable, script, folder, str(workers)], text=True, stdout=subprocess.PIPE)


def marks(folder: Path) -> int:
    return len(list((folder / "marks").rglob("*.json")))


def kill_after(folder: Path, count: int, workers: int = 0) -> None:
    """Kill a driver once so many marks are there."""
    driver = start(folder, workers)
    try:
        while marks(folder) < count and driver.poll() is None:
            time.sleep(0.02)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.communicate()


@pytest.mark.slow
def test_a_driver_that_is_killed_is_resumed_and_ends_in_the_same_bits(folder, undisturbed):
    kill_after(folder, 4)
    assert marks(folder) >= 4
    restored(folder, Y, resume=True)
    assert_same(folder, undisturbed)


@pytest.mark.slow
def test_a_driver_that_is_killed_at_random_moments_ends_in_the_same_bits(folder, undisturbed):
    rng = np.random.default_rng(0)
    for count in sorted(rng.integers(1, 18, 4)):
        kill_after(folder, int(count), workers=2 if count % 2 else 0)
        time.sleep(3)  # its workers notice
    restored(folder, Y, resume=True)
    assert_same(folder, undisturbed)


@pytest.mark.slow
def test_a_worker_process_gives_the_same_bits(folder, undisturbed):
    told = []
    restored(folder, Y, workers=1, told=told.append)
    assert "on 1 process" in told[0]
    assert "http" in told[1]
    assert not (folder / "measured.npy").exists()
    assert_same(folder, undisturbed)


@pytest.mark.slow
def test_workers_keep_the_memory_that_a_step_has_freed():
    os.environ.pop("__DASK_PARENT_PID", None)  # only says how its children are to be titled
    before = dict(os.environ)
    with engine.crew(1, told=lambda text: None) as crew:
        (environment,) = crew.client.run(lambda: dict(os.environ)).values()
    assert environment.items() >= engine.KEEP_FREED_MEMORY.items()
    assert environment["OMP_NUM_THREADS"] == "1"
    os.environ.pop("__DASK_PARENT_PID", None)
    assert dict(os.environ) == before, "what is for the workers is not for the caller's other processes"


@pytest.mark.slow
def test_four_workers_give_the_same_bits(folder, undisturbed):
    restored(folder, Y, workers=4)
    assert_same(folder, undisturbed)


class _Deadly(_Broken):
    """A scene one window of which kills the process that reads it, as often as is told."""

    def __init__(self, y, top, file, times):
        super().__init__(y, top)
        self.file, self.times, self.driver = str(file), times, os.getpid()

    def _block(self, top, left, height, width):
        # Of the second row of cells' windows the leftmost is the only one so narrow.
        mine = top == self.top and height > 64 and left == 0 and width <= 128
        if mine and os.getpid() != self.driver:
            with open(self.file, "a") as file:
                file.write("x")
            if os.path.getsize(self.file) <= self.times:
                os.kill(os.getpid(), signal.SIGKILL)
        return self.inner._block(top, left, height, width)


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced_and_its_cell_tried_again(folder, undisturbed, tmp_path):
    """Even if it is the only one, and all that it held is lost."""
    source = _Deadly(Y, 64, tmp_path / "deaths", 1)
    scene = restored(folder, source, workers=1)
    assert scene.failed == {}
    assert (tmp_path / "deaths").stat().st_size >= 2
    assert_same(folder, undisturbed)


@pytest.mark.slow
def test_a_cell_that_kills_three_workers_is_given_up_and_no_other_with_it(folder, tmp_path):
    y = measured(1, 150, 200)
    undisturbed = tmp_path / "undisturbed.scene"
    restored(undisturbed, y, workers=0)
    source = _Deadly(y, 64, tmp_path / "deaths", 3)
    scene = restored(folder, source, workers=2)
    assert list(scene.failed) == [(2, 0)]
    assert "workers died" in scene.failed[2, 0]
    assert (tmp_path / "deaths").stat().st_size == 3
    source.times = 0
    assert restored(folder, source, workers=0, resume=True).failed == {}
    assert_same(folder, undisturbed)


@pytest.mark.slow
def test_the_workers_of_a_running_scheduler_give_the_same_bits(folder, undisturbed, tmp_path):
    """A scheduler and a worker started by hand."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    common = {"env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path}
    address = f"tcp://127.0.0.1:{port}"
    dask = [sys.executable, "-m", "dask"]
    options = ["--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
    scheduler = subprocess.Popen([*dask, "scheduler", *options], **common)
    worker = subprocess.Popen([*dask, "worker", address, "--nthreads", "1", "--no-dashboard"], **common)
    try:
        restored(folder, Y, scheduler=address, workers=None)
    finally:
        for process in (worker, scheduler):
            process.terminate()
            process.wait(30)
    assert_same(folder, undisturbed)


@pytest.mark.slow
def test_the_threads_of_the_process_do_not_change_the_bits(folder, undisturbed):
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        restored(folder, Y)
    finally:
        torch.set_num_threads(threads)
    assert_same(folder, undisturbed)
