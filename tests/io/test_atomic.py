"""Files appear whole or not at all, whatever happens to their writer."""

import errno
import os
import signal
import stat
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors import SafetensorError

from pyro_vble.io.atomic import atomic_folder, atomic_path, check_writable, remove_leftovers


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def write(path, text="new"):
    with atomic_path(path) as temporary:
        temporary.write_text(text)


class TestTargets:
    def test_folders_are_made_and_nothing_is_left_beside(self, tmp_path):
        write(tmp_path / "a" / "b" / "c.txt")
        assert names(tmp_path / "a" / "b") == ["c.txt"]
        assert (tmp_path / "a" / "b" / "c.txt").read_text() == "new"

    def test_the_temporary_file_has_the_targets_name_and_folder_to_itself(self, tmp_path):
        with atomic_path(tmp_path / "a.tar.gz") as temporary:
            assert temporary.name == "a.tar.gz"
            assert not temporary.exists()
            assert temporary.parent.parent == tmp_path
            temporary.touch()

    @pytest.mark.parametrize("exists", [True, False])
    def test_a_link_is_followed(self, tmp_path, exists):
        target, link = tmp_path / "deep" / "target.txt", tmp_path / "link.txt"
        if exists:
            write(target, "old")
        link.symlink_to(target)
        write(link)
        assert link.is_symlink()
        assert target.read_text() == "new"
        assert names(tmp_path) == ["deep", "link.txt"]

    def special(self, kind, path):
        if kind == "named pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        else:
            try:
                os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
            except OSError:
                pytest.skip("devices cannot be made here")

    @pytest.mark.parametrize("through_link", [True, False])
    @pytest.mark.parametrize("kind", ["named pipe", "folder", "device"])
    def test_what_is_no_regular_file_stays(self, tmp_path, kind, through_link):
        path = tmp_path / "special"
        self.special(kind, path)
        before = path.stat()
        asked = path
        if through_link:
            asked = tmp_path / "link"
            asked.symlink_to(path)
        for ask in (write, check_writable):
            with pytest.raises(ValueError, match=f"must be a regular file or not exist; .* is a {kind}"):
                ask(asked)
        assert (path.stat().st_ino, path.stat().st_mode) == (before.st_ino, before.st_mode)

    def test_permissions_are_those_of_any_new_file_or_of_the_old_one(self, tmp_path):
        (tmp_path / "plain").touch()
        write(tmp_path / "a")
        assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode
        (tmp_path / "a").chmod(0o640)
        write(tmp_path / "a")
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640

    @pytest.mark.parametrize("name", ["x" * 255, "[a]*$ 'b'", "é" * 100, os.fsdecode(b"\xff\xfe.txt")])
    def test_names(self, tmp_path, name):
        write(tmp_path / name)
        write(tmp_path / name, "again")
        assert names(tmp_path) == [name]

    @pytest.mark.parametrize("path", [5, None, b"a", 1.5])
    def test_what_is_no_path(self, path):
        with pytest.raises(TypeError, match="path must be a path"):
            write(path)

    def test_a_name_too_long_names_itself(self, tmp_path):
        with pytest.raises(OSError, match=r"File name too long.*xxx"):
            write(tmp_path / ("x" * 256))


class TestFailures:
    def test_the_old_file_survives(self, tmp_path):
        write(tmp_path / "a", "old")

        def interrupted():
            with atomic_path(tmp_path / "a") as temporary:
                temporary.write_text("half")
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert names(tmp_path) == ["a"]
        assert (tmp_path / "a").read_text() == "old"

    @pytest.mark.parametrize(
        "error",
        [
            OSError(errno.ENOSPC, "No space left on device"),
            SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
            RuntimeError("HDF5: write failed, errno = 28, error message = 'No space left on device'"),
        ],
    )
    def test_a_full_disk_names_the_file(self, tmp_path, error):
        full = r"^\[Errno 28\] No space left on device: '.*/fit.pvble'$"
        with pytest.raises(OSError, match=full) as caught, atomic_path(tmp_path / "fit.pvble"):
            raise error
        assert caught.value.filename == str(tmp_path / "fit.pvble")

    def test_torch_keeps_the_reason_to_itself(self, tmp_path):
        with pytest.raises(OSError, match=r"^\[Errno \d+\] .*: '.*/a.ckpt'$"), atomic_path(tmp_path / "a.ckpt"):
            raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0\nframe #0: c10")

    def test_other_errors_pass(self, tmp_path):
        for error in (RuntimeError("shapes"), FileNotFoundError(2, "No such file", "other"), SafetensorError("dtype")):
            with pytest.raises(type(error)) as caught, atomic_path(tmp_path / "a"):
                raise error
            assert caught.value is error

    def test_writers_that_reach_the_limit_of_a_files_size(self, tmp_path):
        """The system's own refusal, through every library that writes our files."""
        code = f"""
import resource, numpy as np, safetensors.torch, torch
from pyro_vble.io.atomic import atomic_path
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
values = torch.rand(20_000)
for name, write in {{
    "a.safetensors": lambda path: safetensors.torch.save_file({{"a": values}}, path),
    "a.ckpt": lambda path: torch.save(values, path),
    "a.json": lambda path: path.write_text("a" * 30_000),
    "a.npy": lambda path: np.save(path, values.numpy()),
}}.items():
    try:
        with atomic_path({str(tmp_path)!r} + "/" + name) as path:
            write(path)
    except OSError as error:
        assert {str(tmp_path)!r} + "/" + name in str(error) and "\\n" not in str(error), error
        print(name)
"""
        for name in ("a.safetensors", "a.ckpt"):
            (tmp_path / name).write_text("old")
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["a.safetensors", "a.ckpt", "a.json", "a.npy"]
        assert names(tmp_path) == ["a.ckpt", "a.safetensors"]
        assert (tmp_path / "a.ckpt").read_text() == "old"

    def test_a_folder_that_takes_no_files(self):
        for ask in (write, check_writable):
            with pytest.raises(OSError, match=r"/proc/a\.txt"):
                ask("/proc/a.txt")
            with pytest.raises(OSError, match="/proc/no"):
                ask("/proc/no/a.txt")

    def test_a_read_only_file_system(self, tmp_path, monkeypatch):
        def refuse(*args, **kwargs):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        monkeypatch.setattr("pyro_vble.io.atomic.tempfile.mkdtemp", refuse)
        for ask in (write, check_writable):
            with pytest.raises(OSError, match=r"Read-only file system: '.*/a.txt'"):
                ask(tmp_path / "a.txt")

    def test_a_file_in_the_folders_place(self, tmp_path):
        (tmp_path / "a").touch()
        for ask in (write, check_writable):
            with pytest.raises(OSError, match="a"):
                ask(tmp_path / "a" / "b.txt")

    def test_asking_leaves_the_old_file_and_the_folder(self, tmp_path):
        write(tmp_path / "a", "old")
        check_writable(tmp_path / "a")
        check_writable(tmp_path / "b" / "c")
        assert names(tmp_path) == ["a", "b"]
        assert names(tmp_path / "b") == []
        assert (tmp_path / "a").read_text() == "old"


class TestFolders:
    def test_whole_or_not_at_all(self, tmp_path):
        def interrupted():
            with atomic_folder(tmp_path / "store") as temporary:
                (temporary / "a").touch()
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert names(tmp_path) == []
        with atomic_folder(tmp_path / "store") as temporary:
            (temporary / "deep").mkdir()
            (temporary / "deep" / "a").touch()
        assert names(tmp_path / "store" / "deep") == ["a"]
        assert names(tmp_path) == ["store"]
        with pytest.raises(FileExistsError, match="not overwritten"), atomic_folder(tmp_path / "store"):
            pass


def killed_writer(path, how=signal.SIGKILL):
    """A process that is killed while it writes."""
    code = (
        "import sys, time\nfrom pyro_vble.io.atomic import atomic_path\n"
        f"with atomic_path({str(path)!r}) as temporary:\n"
        "    temporary.write_text('half'); print('writing', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "writing\n"
    if how is not None:
        process.send_signal(how)
        process.wait()
    return process


class TestLeftovers:
    def test_the_next_write_removes_what_a_killed_one_left(self, tmp_path):
        target = tmp_path / "fit.pvble"
        write(target, "old")
        for how in (signal.SIGKILL, signal.SIGTERM):
            killed_writer(target, how)
        assert target.read_text() == "old"
        assert len(names(tmp_path)) == 2  # the second removed what the first had left
        write(tmp_path / "other.txt")
        assert names(tmp_path) == ["fit.pvble", "other.txt"]

    def test_all_of_a_folder(self, tmp_path):
        killed_writer(tmp_path / "a.json")
        (tmp_path / ".mine.partial").touch()
        remove_leftovers(tmp_path)
        assert names(tmp_path) == [".mine.partial"]
        remove_leftovers(tmp_path / "none")

    def test_a_living_writer_keeps_its_own(self, tmp_path):
        target = tmp_path / "fit.pvble"
        process = killed_writer(target, how=None)
        try:
            with atomic_path(target) as temporary:
                write(target, "within")
                remove_leftovers(tmp_path)
                temporary.write_text("last")
            assert target.read_text() == "last"
            assert len(names(tmp_path)) == 2
        finally:
            process.kill()
            process.wait()
        write(target)
        assert names(tmp_path) == ["fit.pvble"]

    def test_writers_of_another_host_are_left_alone(self, tmp_path, monkeypatch):
        killed_writer(tmp_path / "a")
        monkeypatch.setattr("pyro_vble.io.atomic.socket.gethostname", lambda: "elsewhere")
        write(tmp_path / "a")
        assert len(names(tmp_path)) == 2

    def test_processes_that_write_one_file_all_succeed(self, tmp_path):
        code = (
            "from pyro_vble.io.atomic import atomic_path\n"
            "for k in range(60):\n"
            f"    with atomic_path({str(tmp_path / 'a.txt')!r}) as temporary:\n"
            "        temporary.write_text('whole' * 1000)"
        )
        processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(3)]
        while any(process.poll() is None for process in processes):
            if (tmp_path / "a.txt").exists():
                assert (tmp_path / "a.txt").read_text() == "whole" * 1000
            time.sleep(0.01)
        assert [process.returncode for process in processes] == [0, 0, 0]
        assert names(tmp_path) == ["a.txt"]


# A process writes one file and one folder after another; it is killed at a random moment.
_WRITES = """
from pyro_vble.io.atomic import atomic_folder, atomic_path
print("writing", flush=True)
for k in range(100_000):
    with atomic_path({folder!r} + "/fit.txt") as path:
        path.write_text("whole" * 20_000)
    with atomic_folder({folder!r} + f"/{{k}}.zarr") as path:
        for name in "abc":
            (path / name).write_text("whole")
"""
# The same of what the library itself writes.
_SAVES = """
import torch, deepinv, pyro_vble as pv
physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))
posterior = pv.restore(torch.rand(1, 3, 64, 64), physics, "cae-bsd", num_steps=2, seed=0, progress=False)
print("writing", flush=True)
for k in range(100_000):
    posterior.save({folder!r} + "/fit.pvble")
    posterior.to_zarr({folder!r} + f"/{{k}}.zarr", 3, include=["posterior"])
"""


def kill_at_a_random_moment(code, folder, trial, longest):
    # Python ignores SIGINT where its parent runs in a shell's background.
    heeding = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    process = subprocess.Popen(
        [sys.executable, "-c", heeding + code.format(folder=str(folder))],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout.readline() == "writing\n"
    time.sleep(np.random.default_rng(trial).uniform(0, longest))
    process.send_signal((signal.SIGKILL, signal.SIGTERM, signal.SIGINT)[trial % 3])
    process.wait(timeout=60)
    return sorted(name for name in names(folder) if name.endswith(".zarr"))


@pytest.mark.parametrize("trial", range(6))
def test_killed_at_a_random_moment(tmp_path, trial):
    stores = kill_at_a_random_moment(_WRITES, tmp_path, trial, 0.1)
    for name in stores:
        assert names(tmp_path / name) == ["a", "b", "c"]
    if (tmp_path / "fit.txt").exists():
        assert (tmp_path / "fit.txt").read_text() == "whole" * 20_000
    write(tmp_path / "fit.txt")
    assert not [name for name in names(tmp_path) if name.startswith(".")]


@pytest.mark.slow
@pytest.mark.parametrize("trial", range(12))
def test_posteriors_and_stores_killed_at_a_random_moment(tmp_path, trial):
    import pyro_vble as pv

    stores = kill_at_a_random_moment(_SAVES, tmp_path, trial, 3.0)
    for name in stores:
        assert pv.open_zarr(tmp_path / name).posterior["image"].shape[1] == 3
    if not (tmp_path / "fit.pvble").exists():
        return
    posterior = pv.load_posterior(tmp_path / "fit.pvble")
    assert posterior.mmse_z.isfinite().all()
    posterior.save(tmp_path / "fit.pvble")
    assert not [name for name in names(tmp_path) if name.startswith(".")]


def test_a_new_file_may_be_read_by_whom_the_system_lets(tmp_path):
    before = os.umask(0o022)
    try:
        with atomic_path(tmp_path / "a") as path:
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))  # as writers of weights do
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644
