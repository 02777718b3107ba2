"""The posterior of a scene: any window of any sample, on demand."""

import os
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import numpy as np
import torch
from torch import Tensor

from pyro_vble._arguments import BrokenRuleError, Count, CountOrZero, PathName, Probability, Rule, Seed, checked
from pyro_vble._extras import extra
from pyro_vble.inference.precision import Device, network_precision, resolve_device
from pyro_vble.models import Prior
from pyro_vble.models.freezing import frozen
from pyro_vble.samples import Samples
from pyro_vble.samples.kept import KeptSamples
from pyro_vble.scene.blending import latents_about
from pyro_vble.scene.grid import Window
from pyro_vble.scene.job import prior_of
from pyro_vble.scene.noise import noise_field
from pyro_vble.scene.store import Field, Store, fields_of
from pyro_vble.scene.tiles import FAMILIES, IMAGE

if TYPE_CHECKING:
    from dask.array import Array
    from xarray import Dataset

Windowed = tuple[slice, slice]


def _window(value: Any) -> Any:
    if not isinstance(value, tuple) or len(value) != 2 or not all(isinstance(one, slice) for one in value):
        raise BrokenRuleError("type")
    if any(one.step not in (None, 1) for one in value):
        raise BrokenRuleError("value")
    return value


WindowLike = Annotated[Any, Rule("a pair of slices without a step, rows and columns", _window, "np.s_[0:512, 0:512]")]


class ScenePosterior(Samples):
    r"""The posterior q(x) ≈ p(x | y) of a whole scene, or of a window of it, as samples that have no seams.

    .. math:: z = \bar z + a\,\varepsilon_z, \qquad x = D(z) + \sigma_\theta(z)\,(\bar u + b\,\varepsilon_x)

    with centres and widths from one mosaic over the scene, on disk, and the noise a function of seed, number of the
    sample, site and place alone. A window of a sample is therefore the crop of the whole one, bit for bit on one
    machine, whatever else is drawn, and in whatever order: pixels are decoded cell by cell, each from its own latents
    and those about it that its pixels depend on.

    What is asked of a window reads and decodes that window; the statistics of large ones are put together cell by
    cell. :meth:`lazy` makes them Dask arrays. Cells that were given up, and those without a measurement, are NaN.

    Args:
        store: The scene's store.
        window: Rows and columns that this posterior is of.
        seed: Default seed of the methods; that of the fit, if None.
        device: Where to decode.

    Example:
        >>> import numpy as np, tempfile, deepinv, pyro_vble as pv
        >>> from pyro_vble.scene import restore_scene
        >>> physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))
        >>> y = np.random.default_rng(0).random((3, 150, 130), np.float32)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     how = {"tile": 128, "num_steps": 2, "samples": 2, "workers": 0}
        ...     scene = restore_scene(y, physics, "cae-bsd", folder + "/a.scene", **how)
        ...     whole, part = scene.draw(7), scene.draw(7, np.s_[100:150, 90:130])
        >>> tuple(whole.shape), bool((whole[:, 100:150, 90:130] == part).all())
        ((3, 150, 130), True)
    """

    def __init__(
        self,
        store: Store,
        window: Window | None = None,
        *,
        seed: int | None = None,
        device: str | torch.device = "auto",
    ) -> None:
        self._store, self._about = store, store.about
        self._grid = store.grid
        self.window = self._grid.whole if window is None else window
        seed = self._about["seed"] if seed is None else seed
        super().__init__((1, self._about["bands"], self.window.height, self.window.width), seed=seed)
        self._device = resolve_device(device)
        self._blank = {(row, column) for row, column in self._about.get("blank", ())}
        self.made_with = self._about.get("made_with", "")
        self._kept = KeptSamples()
        self._kept_parameters: tuple[tuple[int, int], dict[str, tuple[Tensor, Tensor]]] | None = None

    @classmethod
    @checked
    def open(cls, path: PathName, *, seed: Seed | None = None, device: Device = "auto") -> Self:
        """Open the posterior of a scene.

        Args:
            path: The folder that a scene's restoration wrote, ``NAME.scene``.
            seed: Default seed of the methods; by default that of the restoration, whose samples they then are.
            device: Where to decode: "auto" (CUDA where there is one) or a torch device.

        Raises:
            FileNotFoundError: If there is no scene.
            ValueError: If it is of another version, or not finished.
        """
        store = Store(os.fspath(path))
        if not store.about.get("finished"):
            raise ValueError(
                f"A scene must be finished to be sampled; {path} is not; go on with pyro-vble scene --resume, or "
                "restore_scene(..., resume=True)."
            )
        return cls(store, seed=seed, device=device)

    def __repr__(self) -> str:
        """A line: shape, place, store."""
        return f"ScenePosterior({self.shape[1:]}, {self.window}, {self._store.path})"

    def __getitem__(self, window: Windowed) -> "ScenePosterior":
        """The posterior of a window, rows and columns counted within this one.

        Raises:
            TypeError: If it is no pair of slices.
            IndexError: If it is empty.
        """
        if not isinstance(window, tuple) or len(window) != 2 or not all(isinstance(one, slice) for one in window):
            raise TypeError(f"A window is a pair of slices, scene[0:512, 0:512]; received {window!r}.")
        (top, bottom, down), (left, right, along) = (
            one.indices(side) for one, side in zip(window, self.shape[-2:], strict=True)
        )
        if (down, along) != (1, 1) or bottom <= top or right <= left:
            raise IndexError(
                f"A window must hold a pixel of the {self.shape[-2]}x{self.shape[-1]}, and have no step; received "
                f"{window}."
            )
        own = self.window
        inner = Window(own.top + top, own.top + bottom, own.left + left, own.left + right)
        part = ScenePosterior(self._store, inner, seed=self.seed, device=self._device)
        part.calibration = self.calibration
        return part

    # --- samples ---

    def chunks(self, num_samples: int, *, seed: int | None = None) -> Iterator[Tensor]:
        """The samples of numbers 0 to n - 1, one a chunk, (1, 1, C, H, W)."""
        seed = self.lasting_seed(seed)
        draw = lambda: (self._drawn(number, seed)[None, None] for number in range(num_samples))  # noqa: E731
        return self._kept.chunks((num_samples, seed), num_samples, self.shape, draw)

    @checked
    def draw(self, number: CountOrZero, window: WindowLike | None = None, *, seed: Seed | None = None) -> Tensor:
        """One sample by its number, of a window if there is one, (C, H, W).

        Sample ``number`` of a seed is the same image whenever and wherever it is asked for.
        """
        part = self if window is None else self[window]
        return self._out(part._drawn(number, self.lasting_seed(seed)))

    def sample(self, n: Any = 1, index: int | None = None, *, seed: int | None = None) -> Tensor:
        """Draw n images, (n, 1, C, H, W); or ``sample(window, index)``, one sample's window, (C, h, w)."""
        if isinstance(n, tuple):
            return self.draw(0 if index is None else index, n, seed=seed)
        return super().sample(n, seed=seed)

    # --- statistics, of a window if one is told ---

    @checked
    def mean(
        self, window: WindowLike | None = None, num_samples: Count | None = None, *, seed: Seed | None = None
    ) -> Tensor:
        """The mean of the samples, (1, C, H, W): ``mmse_x`` of a window."""
        return (self if window is None else self[window]).mmse_x(num_samples, seed=seed)

    @checked
    def mmse_x(self, num_samples: Count | None = None, *, seed: Seed | None = None) -> Tensor:
        """The mean of the samples, (1, C, H, W)."""
        return self._by_cell(lambda part: Samples.mmse_x(part, num_samples, seed=seed))

    def std(self, num_samples: Any = None, *, seed: int | None = None) -> Tensor:
        """The standard deviation of every pixel, (1, C, H, W); ``std(window)`` that of a window."""
        if isinstance(num_samples, tuple):
            return self[num_samples].std(seed=seed)
        return self._by_cell(lambda part: Samples.std(part, num_samples, seed=seed))

    def quantile(self, q: float, num_samples: Any = None, *, seed: int | None = None) -> Tensor:
        """The q-quantile of every pixel, (1, C, H, W); ``quantile(q, window)`` that of a window."""
        if isinstance(num_samples, tuple):
            return self[num_samples].quantile(q, seed=seed)
        return self._by_cell(lambda part: Samples.quantile(part, q, num_samples, seed=seed))

    @checked
    def error_quantile(self, q: Probability, num_samples: Count | None = None, *, seed: Seed | None = None) -> Tensor:
        """The q-quantile of |sample - MMSE-x| at every pixel, (1, C, H, W)."""
        return self._by_cell(lambda part: Samples.error_quantile(part, q, num_samples, seed=seed))

    @checked
    def interval(
        self, probability: Probability, num_samples: Count | None = None, *, seed: Seed | None = None
    ) -> tuple[Tensor, Tensor]:
        """Lower and upper end of the central interval that holds every pixel with this probability."""
        ends = self._by_cell(lambda part: torch.stack(Samples.interval(part, probability, num_samples, seed=seed)))
        return ends[0], ends[1]

    @checked
    def lazy(self, statistic: str, *arguments: Any, **options: Any) -> "Array":
        """A statistic as a lazy Dask array (C, H, W), a chunk a cell, computed as its chunks are.

        Args:
            statistic: Name of the method: "mmse_x", "std", "quantile", "error_quantile", or "draw".
            arguments: Its arguments.
            options: Its options.

        Example: ``scene.lazy("quantile", 0.95, 100)[:, :2000, :2000].compute()``.
        """
        if statistic not in ("mmse_x", "std", "quantile", "error_quantile", "draw"):
            raise ValueError(
                f"statistic must be mmse_x, std, quantile, error_quantile or draw; received {statistic!r}."
            )
        with extra("geo"):
            import dask.array as da
            from dask.delayed import delayed

        def part(window: Window) -> np.ndarray:
            inner = ScenePosterior(self._store, window, seed=self.seed, device=self._device)
            inner.calibration = self.calibration
            found = getattr(inner, statistic)(*arguments, **options)
            return found.reshape(inner.shape[1:]).cpu().numpy()

        rows: dict[int, list[Any]] = {}
        for place in self._grid.touched(self.window):
            window = self._grid.core(*place).within(self.window)
            shape = self.shape[1], window.height, window.width
            rows.setdefault(place[0], []).append(da.from_delayed(delayed(part, pure=False)(window), shape, np.float32))
        return da.block([rows[row] for row in sorted(rows)])

    def to_arviz(self, num_samples: int | None = None, *, region: Windowed | None = None, **options: Any) -> Any:
        """Samples of a region as ArviZ ``InferenceData``; only the region is decoded."""
        if region is not None:
            return self[region].to_arviz(num_samples, **options)
        return super().to_arviz(num_samples, **options)

    # --- what the restoration wrote ---

    @property
    def failed(self) -> dict[tuple[int, int], str]:
        """Cells, by row and column, that were given up after three attempts, with the reason."""
        failed = self._about.get("failed", {})
        return {
            (int(row), int(column)): failed[f"{row}-{column}"] for row, column in (name.split("-") for name in failed)
        }

    @property
    def rows(self) -> int:
        """Rows of cells of the whole scene."""
        return self._grid.rows

    @property
    def columns(self) -> int:
        """Columns of cells of the whole scene."""
        return self._grid.columns

    def cell(self, place: tuple[int, int]) -> Window:
        """The pixels of a cell, by its row and column."""
        return self._grid.core(*place)

    @property
    def prior(self) -> Path:
        """File of the prior."""
        return self._store.prior

    def marked(self, stage: str) -> list[dict[str, Any]]:
        """What was noted of cells that came through a stage, "fitted", "blended" or "drawn": seconds, steps, ELBO."""
        marks = (self._store.marked(stage, place) for place in self._grid.places)
        return [mark for mark in marks if mark is not None and mark["status"] == stage]

    @property
    def settings(self) -> dict[str, Any]:
        """What the restoration was made with, by name."""
        return dict(self._about["run"])

    @property
    def result_names(self) -> list[str]:
        """Names of what was drawn: mean, std, low, high, samples."""
        return self._store.names("results")

    def result(self, name: str) -> Callable[[slice, slice], np.ndarray]:
        """The function (rows, columns) -> a result (C, h, w) of that part of the window, in numbers of the file."""
        array, window = self._store.array("results", name), self.window

        def read(rows: slice, columns: slice) -> np.ndarray:
            part = slice(window.top + rows.start, window.top + rows.stop)
            return np.asarray(array[:, part, window.left + columns.start : window.left + columns.stop])

        return read

    @property
    def results(self) -> "Dataset":
        """What was drawn of the window, as a lazy xarray Dataset in numbers of the file: mean, std, low, high, samples.

        Pixels that are missing in the input, unless they were filled in, and cells that failed are NaN. Coordinates,
        reference system and transform are the scene's own, on the finer grid if it was enlarged.
        """
        with extra("geo"):
            import dask.array as da
        import xarray as xr

        georeference = self._about.get("georeference") or {}
        arrays = {name: self._store.array("results", name) for name in self.result_names}
        rows, columns = self.window.slices
        data = {
            name: (("band", "y", "x"), da.from_array(array, chunks=array.chunks, name=False)[:, rows, columns])
            for name, array in arrays.items()
        }
        found = xr.Dataset(data, coords={"band": np.arange(1, self.shape[1] + 1)})
        if georeference.get("transform"):
            found = _placed(found, georeference, self.window)
        return found

    # --- decoding ---

    @cached_property
    def _fields(self) -> dict[str, Field]:
        return fields_of(self._about)

    @cached_property
    def _prior(self) -> Prior:
        prior = prior_of(str(self._store.path))  # which others of this process share
        here = prior.tensor_options()["device"].type == self._device.type == "cpu"
        return prior if here else frozen(prior).to(self._device)

    def _by_cell(self, statistic: Callable[["ScenePosterior"], Tensor]) -> Tensor:
        """A statistic of the window, put together of those of its cells."""
        places = list(self._grid.touched(self.window))
        if len(places) == 1 and places[0] not in self._blank:
            return statistic(self)
        whole: Tensor | None = None
        for place in places:
            window = self._grid.core(*place).within(self.window).relative_to(self.window)
            found = statistic(self[window.slices])
            if place in self._blank:
                found = torch.full_like(found, torch.nan)  # histograms know no NaN
            if whole is None:
                whole = found.new_empty((*found.shape[:-2], *self.shape[-2:]))
            whole[(..., *window.slices)] = found
        if whole is None:
            raise IndexError(f"The window {self.window} holds no pixel.")
        return whole

    def _drawn(self, number: int, seed: int) -> Tensor:
        """One sample of the window, (C, H, W)."""
        x = torch.empty(self.shape[1:], device=self._device)
        for place in self._grid.touched(self.window):
            core = self._grid.core(*place)
            part = core.within(self.window)
            decoded = self._decoded(place, number, seed)
            x[(..., *part.relative_to(self.window).slices)] = decoded[(..., *part.relative_to(core).slices)]
        return x

    @torch.no_grad()
    def _decoded(self, place: tuple[int, int], number: int, seed: int) -> Tensor:
        """One sample of a whole cell: always in one piece, whichever part is asked for, and so always the same bits."""
        core, field = self._grid.core(*place), self._fields["z"]
        if place in self._blank:
            return torch.full((self.shape[1], core.height, core.width), torch.nan, device=self._device)
        window = latents_about(self._grid, core, field, self._about["reach"])
        windows = {"z": window, IMAGE: core} if IMAGE in self._fields else {"z": window}
        known = self._parameters(place, windows)
        values = {site: self._value(site, *known[site], windows[site], number, seed) for site in windows}
        shape = self.shape[1], window.height * field.step, window.width * field.step
        cut = core.relative_to(window.finer(field.step)).slices
        with network_precision(self._about["precision"], self._device):
            if IMAGE not in self._fields:
                return self._prior.decode_mean(values["z"][None], shape)[0][(..., *cut)]
            mean, std = (x[0][(..., *cut)] for x in self._prior.decode(values["z"][None], shape))
        return mean + std * values[IMAGE]

    def _value(self, site: str, loc: Tensor, std: Tensor, window: Window, number: int, seed: int) -> Tensor:
        """A site's value in a window (in its own steps): its factor's, at the noise of the place."""
        field = self._fields[site]
        noise = torch.from_numpy(noise_field(seed, number, site, field.leading, window)).to(self._device)
        return FAMILIES[field.family](loc, std).at(noise[None])[0]

    def _parameters(self, place: tuple[int, int], windows: dict[str, Window]) -> dict[str, tuple[Tensor, Tensor]]:
        """Centres and deviations that a cell is sampled from; those of the last one are kept for its next sample."""
        kept = self._kept_parameters  # looked at once: another thread may exchange it
        if kept is None or kept[0] != place:
            read = {site: (self._read(site, "loc", at), self._read(site, "std", at)) for site, at in windows.items()}
            self._kept_parameters = kept = place, read
        return kept[1]

    def _read(self, site: str, parameter: str, window: Window) -> Tensor:
        value = self._store.array("mosaic", f"{site}_{parameter}")[(..., *window.slices)]
        return torch.from_numpy(np.asarray(value, np.float32)).to(self._device)[None]


def _placed(dataset: "Dataset", georeference: dict[str, Any], window: Window) -> "Dataset":
    """A dataset of a window with coordinates of its pixels' centres, where its axes are those of the ground."""
    with extra("geo"):
        import rioxarray  # noqa: F401, the accessor
        from rasterio import Affine

    transform = Affine(*georeference["transform"]) * Affine.translation(window.left, window.top)
    if not transform.b and not transform.d:
        x = transform.c + transform.a * (np.arange(window.width) + 0.5)
        y = transform.f + transform.e * (np.arange(window.height) + 0.5)
        dataset = dataset.assign_coords(x=x, y=y)
    if georeference.get("crs"):
        dataset = dataset.rio.write_crs(georeference["crs"])
    return dataset.rio.write_transform(transform)
