"""Writing files so that a reader never meets half of one.

What is written goes into a scratch folder beside its target, ``.NAME.HOST.RANDOM.partial``, and is renamed when it is
whole. The writer holds a lock on that folder for as long as it lives, so that what a killed one left can be told from
what another is writing: the next writer in the same folder, on the same host, removes every scratch folder whose lock
it gets. Where the file system knows no locks, nothing is removed.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from pyro_vble._arguments import Flag, PathName, checked

_SUFFIX = ".partial"
_LONGEST_LABEL = 100
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What torch and safetensors say when writing fails; torch keeps the system's reason to itself.
_WRITERS = ("inline_container.cc", "PytorchStreamWriter", "I/O error")


@contextlib.contextmanager
@checked
def atomic_path(path: PathName, *, tidy: Flag = True) -> Iterator[Path]:
    """A temporary path beside ``path``, renamed to it if the block ends well and removed if not.

    Its name is that of ``path``, because writers choose their format by it. A link is followed, and keeps pointing to
    what is written. File and folder are on the disk when the block has ended.

    Args:
        path: The file to be.
        tidy: Whether to remove first what killed writers left in the folder, which lists it: not for the thousandth
            file of one.

    Raises:
        ValueError: If there is something at ``path`` that is no regular file.
        OSError: If it cannot be written, or the disk is full, by whichever library: with ``path`` in the message.

    Example:
        >>> import pathlib, tempfile
        >>> from pyro_vble.io.atomic import atomic_path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with atomic_path(pathlib.Path(folder, "a.txt")) as path:
        ...         _ = path.write_text("whole")
        ...     pathlib.Path(folder, "a.txt").read_text()
        'whole'
    """
    target = _file_target(path)
    with _scratch(target, tidy=tidy) as temporary:
        yield temporary
        # Who may read the old one may read the new one; of a new one, whoever the system lets, whatever its writer did.
        temporary.chmod(stat.S_IMODE(target.stat().st_mode) if target.exists() else _usual_mode(temporary.parent))
        to_disk(temporary)
        os.replace(temporary, target)
        to_disk(target.parent)


@contextlib.contextmanager
@checked
def atomic_folder(path: PathName) -> Iterator[Path]:
    """An empty folder beside ``path``, renamed to it if the block ends well and removed with all it holds if not.

    Raises:
        FileExistsError: If there is something at ``path``.
        OSError: As :func:`atomic_path` does.
    """
    if os.path.exists(path):
        raise FileExistsError(f"A folder is not overwritten; {path} exists; remove it or choose another path.")
    target = Path(os.path.realpath(path))
    with _scratch(target) as temporary:
        temporary.mkdir()
        yield temporary
        for folder, _, names in os.walk(temporary):
            for name in (*names, "."):
                to_disk(Path(folder, name))
        os.rename(temporary, target)
        to_disk(target.parent)


@checked
def check_writable(path: PathName) -> None:
    """Raise unless a file can be written at ``path``: to be asked before long work, not after.

    Folders that are missing above it are made, and a file beside it, which is removed.

    Raises:
        ValueError: If there is something at ``path`` that is no regular file.
        OSError: If its folder cannot be made or written in; the message names it.

    Example:
        >>> from pyro_vble.io.atomic import check_writable
        >>> check_writable("/proc/restored.png")
        Traceback (most recent call last):
        ...
        FileNotFoundError: [Errno 2] No such file or directory: '/proc/restored.png'
    """
    with _scratch(_file_target(path)) as temporary:
        temporary.write_bytes(b"\0")


@checked
def remove_leftovers(folder: PathName) -> None:
    """Remove what killed writers left in a folder; living writers, and those of other hosts, keep theirs."""
    ours = re.compile(rf"(?s)\..*\.{re.escape(_host())}\.\w+{re.escape(_SUFFIX)}")
    try:
        scratch = [entry.path for entry in os.scandir(folder) if ours.fullmatch(entry.name)]
    except OSError:
        return  # what cannot be listed has nothing that could be removed
    for path in scratch:
        with contextlib.suppress(OSError), _locked(path) as lock:
            if lock is not None:
                shutil.rmtree(path, ignore_errors=True)


def to_disk(path: str | os.PathLike) -> None:
    """Have the system write a file, or a folder's list, to the disk: a rename may reach it before what it publishes."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:
        if os.path.isdir(path):
            return  # a folder that may be written in and not be listed
        raise
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that cannot
            raise
    finally:
        os.close(handle)


@contextlib.contextmanager
def errors_named(path: str | os.PathLike, within: str | os.PathLike | None = None) -> Iterator[None]:
    """Whatever says in the block that writing failed comes out as an OSError of ``path``, in one line.

    Args:
        path: The file as the user knows it.
        within: A folder whose files are not to be named, as the user does not know them.
    """
    try:
        yield
    except OSError as error:
        known = error.filename is not None and not (within and os.fsdecode(error.filename).startswith(str(within)))
        code = error.errno or _code_in(str(error))
        if known or (code is None and type(error) is not OSError):
            raise  # of another file, or with words of its own
        if code is None:
            raise OSError(f"{path} cannot be written ({_in_a_line(error)}); is the disk full?") from error
        raise _named(code, path) from error
    except (SafetensorError, RuntimeError) as error:
        code = _code_in(str(error))
        if code is None and not any(name in str(error) for name in _WRITERS):
            raise
        full = shutil.disk_usage(Path(path).parent).free < 1 << 20
        raise _named(code or (errno.ENOSPC if full else errno.EIO), path) from error


@contextlib.contextmanager
def _scratch(target: Path, *, tidy: bool = True) -> Iterator[Path]:
    """The path of the target's name in a locked folder of its own, removed in the end."""
    with errors_named(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    if tidy:
        remove_leftovers(target.parent)
    prefix = f".{_label(target.name)}.{_host()}."
    while True:
        try:
            folder = Path(tempfile.mkdtemp(prefix=prefix, suffix=_SUFFIX, dir=target.parent))
        except OSError as error:
            raise _named(error.errno or errno.EIO, target) from error
        with contextlib.ExitStack() as stack:
            try:
                lock = stack.enter_context(_locked(folder))
                # Between its making and its locking another writer may have taken it for a leftover.
                if lock is None or os.fstat(lock).st_ino != os.stat(folder).st_ino:
                    continue
            except FileNotFoundError:
                continue
            except OSError:
                pass  # no locks here: others cannot take it for a leftover either
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            stack.enter_context(errors_named(target, within=folder))
            yield folder / target.name
            return


@contextlib.contextmanager
def _locked(folder: str | Path) -> Iterator[int | None]:
    """A lock on a folder for as long as the block and the process last; None where another holds it."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield handle
    finally:
        os.close(handle)


def _file_target(path: str | os.PathLike) -> Path:
    """What a path leads to, links followed; it may be a regular file or nothing yet."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise ValueError(f"A file to write must be a regular file or not exist; {path} is {kind}; choose another path.")
    return Path(os.path.realpath(path))


def _usual_mode(folder: Path) -> int:
    """What a new file in a folder may be used for by whom; there is no way to ask for it but to make one."""
    probe = folder / ".mode"
    probe.touch()
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    return mode


def _label(name: str) -> str:
    """A target's name within its scratch folder's, which must not become too long."""
    if len(os.fsencode(name)) <= _LONGEST_LABEL:
        return name
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:32]


def _host() -> str:
    return re.sub(r"\W", "-", socket.gethostname())[:64]


def _named(code: int, path: str | os.PathLike) -> OSError:
    return OSError(code, os.strerror(code), os.fspath(path))


def _code_in(text: str) -> int | None:
    """The system's error number that a library has put into its message."""
    found = re.search(r"(?:os error|[Ee]rrno[ =]+|code: )\s*(\d+)", text)
    if found:
        return int(found[1])
    return next((code for code in _FULL if os.strerror(code) in text), None)


def _in_a_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
