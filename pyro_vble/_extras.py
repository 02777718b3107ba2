"""Packages that parts of the library need and the rest does not: they come with its extras."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def extra(name: str) -> Iterator[None]:
    """A scope to import an extra's packages in: one that is missing is told of, with what installs it.

    Args:
        name: The extra, as ``setup.cfg`` has it.

    Raises:
        ImportError: If a package is not installed.

    Example:
        >>> from pyro_vble._extras import extra
        >>> with extra("diagnostics"):
        ...     import missing_here
        Traceback (most recent call last):
        ImportError: This needs the extra "diagnostics"; the package missing_here is missing; install it with ...
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or str(error)).split(".")[0]
        raise ImportError(
            f'This needs the extra "{name}"; the package {package} is missing; install it with '
            f'pip install "pyro-vble[{name}]".',
            name=package,
        ) from error
