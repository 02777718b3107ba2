"""Writing files so that a reader never meets half of one."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path in the same folder, renamed to ``path`` if the block ends well and removed if not.

    The suffix is kept, because writers choose their format by it.

    Example:
        >>> import pathlib, tempfile
        >>> from pyro_vble.io.atomic import atomic_path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with atomic_path(pathlib.Path(folder, "a.txt")) as path:
        ...         _ = path.write_text("whole")
        ...     pathlib.Path(folder, "a.txt").read_text()
        'whole'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=f".partial{path.suffix}", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files private; what is published gets the permissions any other file would.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
