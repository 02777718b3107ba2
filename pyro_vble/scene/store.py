"""A scene's store on disk: what tiles were fitted to, their mosaic, and what was drawn of it."""

import contextlib
import fcntl
import itertools
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vble._extras import extra
from pyro_vble.io.atomic import atomic_path, remove_leftovers, to_disk
from pyro_vble.scene.grid import Grid, Window

#: Version of the layout; another one is not read.
LAYOUT = 2
#: Stages of a cell, in order.
STAGES = ("fitted", "blended", "drawn")


@dataclass(frozen=True)
class Field:
    """A latent site of a scene: independent factors of one family, on a grid over the image.

    Attributes:
        family: "gaussian" or "uniform".
        step: Pixels a value, along each side.
        unit: To a multiple of how many pixels the image is padded before it has such values; 1 for its own pixels.
        leading: Dimensions before rows and columns.
    """

    family: str
    step: int
    unit: int
    leading: tuple[int, ...]


class Store:
    """The folder of a scene.

    ``scene.json`` says what the scene is, ``prior.safetensors`` is its prior; ``tiles/`` holds what was fitted, a file
    a cell, until it is blended into ``mosaic/``, one Zarr array a site and parameter over the whole scene; ``results/``
    has what was drawn; ``marks/`` says which cells have come how far. Files appear under their names when they are
    whole, and a mark after what it is about: whatever ends a run, what is marked is done.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)

    # --- what the scene is ---

    def describe(self, about: dict[str, Any]) -> None:
        """Write ``scene.json``."""
        self._write_json(self.path / "scene.json", {"layout": LAYOUT, **about})

    @property
    def about(self) -> dict[str, Any]:
        """What ``scene.json`` says.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If it is of another layout.
        """
        path = self.path / "scene.json"
        if not path.exists():
            raise FileNotFoundError(f"No scene at {self.path}; give the folder that pyro-vble scene wrote (*.scene).")
        about = json.loads(path.read_text())
        if about.get("layout") != LAYOUT:
            raise ValueError(
                f"A scene's store must be of layout {LAYOUT}; {self.path} is of {about.get('layout')}; restore it anew."
            )
        return about

    @property
    def grid(self) -> Grid:
        """How the scene is cut."""
        return Grid(**self.about["grid"])

    @property
    def prior(self) -> Path:
        """File of the prior."""
        return self.path / "prior.safetensors"

    # --- marks ---

    def mark(self, stage: str, place: tuple[int, int], about: dict[str, Any]) -> None:
        """Say that a cell has come through a stage."""
        self._write_json(self._mark(stage, place), about)

    def marked(self, stage: str, place: tuple[int, int]) -> dict[str, Any] | None:
        """What was said of a cell and a stage; None if it has not come so far, or if the mark is damaged."""
        try:
            said = json.loads(self._mark(stage, place).read_text())
        except (FileNotFoundError, ValueError):
            return None
        return said if isinstance(said, dict) and "status" in said else None

    def is_done(self, stage: str, place: tuple[int, int]) -> bool:
        """Whether a cell has come through a stage; one that was given up in an earlier run is tried again."""
        return (self.marked(stage, place) or {"status": "failed"})["status"] != "failed"

    def is_fitted(self, place: tuple[int, int]) -> bool:
        """Whether there is a fit of a cell: it has not failed, and something was measured there."""
        return (self.marked("fitted", place) or {}).get("status") == "fitted"

    def unmark(self, stage: str, place: tuple[int, int]) -> None:
        """Take a cell back."""
        self._mark(stage, place).unlink(missing_ok=True)

    # --- what was fitted ---

    def tile(self, place: tuple[int, int]) -> Path:
        """File of what was fitted for a cell."""
        return self.path / "tiles" / f"{place[0]}-{place[1]}.safetensors"

    def write_tile(self, place: tuple[int, int], arrays: dict[str, np.ndarray]) -> None:
        """Write what was fitted for a cell."""
        from safetensors.numpy import save_file

        path = self.tile(place)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path, tidy=False) as temporary:
            save_file({name: np.ascontiguousarray(value) for name, value in arrays.items()}, temporary)

    def read_tile(self, place: tuple[int, int]) -> dict[str, np.ndarray]:
        """What was fitted for a cell."""
        from safetensors.numpy import load_file

        return load_file(self.tile(place))

    def has_tile(self, place: tuple[int, int]) -> bool:
        """Whether the file of a cell is there and whole."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.tile(place), "np"):
                return True
        except (OSError, SafetensorError):
            return False

    def drop_tiles(self) -> None:
        """Remove what was fitted: the mosaic has it all."""
        shutil.rmtree(self.path / "tiles", ignore_errors=True)

    # --- arrays over the whole scene ---

    def create(self, group: str, name: str, shape: tuple[int, ...], chunk: int, dtype: str, fill: float) -> None:
        """Create an array of a group, in chunks of ``chunk`` rows and columns, if it is not there."""
        zarr = _zarr()
        root = zarr.open_group(str(self.path / group), mode="a")
        if name not in root:
            chunks = (*shape[:-2], *(min(chunk, side) for side in shape[-2:]))
            codec = zarr.codecs.BloscCodec(cname="zstd", clevel=5, shuffle="bitshuffle")
            root.create_array(name, shape=shape, chunks=chunks, dtype=dtype, fill_value=fill, compressors=codec)

    def array(self, group: str, name: str, *, writable: bool = False) -> Any:
        """An array over the whole scene, which is read where it is indexed."""
        return _zarr().open_group(str(self.path / group), mode="r+" if writable else "r")[name]

    def write(self, group: str, name: str, window: Window, values: np.ndarray) -> None:
        """Write a window of an array, and have it on the disk: its mark must not be there before it."""
        array = self.array(group, name, writable=True)
        array[(..., *window.slices)] = values.astype(array.dtype)
        folder = self.path / group / name
        chunks = (range(s.start // c, -(-s.stop // c)) for s, c in zip(window.slices, array.chunks[-2:], strict=True))
        for place in itertools.product(*chunks):
            chunk = folder / array.metadata.encode_chunk_key((*[0] * (array.ndim - 2), *place))
            if chunk.exists():  # one that holds nothing but what fills an array is not written
                to_disk(chunk)
                to_disk(chunk.parent)

    def names(self, group: str) -> list[str]:
        """Names of the arrays of a group."""
        return sorted(_zarr().open_group(str(self.path / group), mode="r").array_keys())

    # --- one run at a time ---

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """A scope in which no other run writes here.

        Raises:
            BlockingIOError: If another run does.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self.path / "lock", "a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise BlockingIOError(
                    f"One run at a time writes to {self.path}; another one does ({file.read().strip() or 'unknown'}); "
                    "wait for it, or choose another output."
                ) from None
            file.seek(0)
            file.truncate()
            file.write(f"process {os.getpid()} of {os.uname().nodename}")
            file.flush()
            # Once for all cells: to look for it at every write would list folders of thousands of files.
            for folder in (self.path, self.path / "tiles", *(self.path / "marks" / stage for stage in STAGES)):
                remove_leftovers(folder)
            yield

    def _mark(self, stage: str, place: tuple[int, int]) -> Path:
        return self.path / "marks" / stage / f"{place[0]}-{place[1]}.json"

    def _write_json(self, path: Path, value: dict[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path, tidy=False) as temporary:
            temporary.write_text(json.dumps(value, indent=1, default=_plain))


def fields_as_json(fields: dict[str, Field]) -> dict[str, Any]:
    """Fields as ``scene.json`` has them."""
    return {name: asdict(field) for name, field in fields.items()}


def fields_of(about: dict[str, Any]) -> dict[str, Field]:
    """Fields of a scene, as ``scene.json`` or a mark says."""
    return {name: Field(**{**one, "leading": tuple(one["leading"])}) for name, one in about["fields"].items()}


def _plain(value: Any) -> Any:
    """What JSON does not know: paths and NumPy's numbers."""
    return value.item() if isinstance(value, np.generic) else str(value)


def _zarr() -> Any:
    with extra("geo"):
        import zarr
        import zarr.codecs

    return zarr
