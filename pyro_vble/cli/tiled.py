"""``pyro-vble restore`` of an image that is too large for memory: tile by tile, as a scene."""

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyro_vble.cli import report
from pyro_vble.cli.any_size import TILEABLE, physics_of_any_size
from pyro_vble.cli.fit import Fit
from pyro_vble.cli.outputs import SAMPLES, TILE_BARS
from pyro_vble.cli.problems import Problem
from pyro_vble.cli.words import say, warn
from pyro_vble.io.images import ImageFile, write_image

if TYPE_CHECKING:
    from pyro_vble.scene.grid import Grid


@dataclass(frozen=True)
class Tiles:
    """A restoration in tiles.

    Attributes:
        problem: What happened to the image.
        fit: How it is restored.
        noise: Its noise level; None where the problem knows it.
        tile: Side of a tile, in pixels of the restored image; None for 512, or the next that the problem allows.
    """

    problem: Problem
    fit: Fit
    noise: float | None
    tile: int | None = None

    def refusal(self) -> str | None:
        """Why it cannot be done in tiles; None if it can."""
        if self.problem.name not in TILEABLE:
            return f"--problem {self.problem} is not restored in tiles"
        if self.fit.symmetries is not None:
            return "--symmetries needs the image in one piece"
        if self.fit.linearised:
            return "--linearised needs the image in one piece"
        if self.fit.rate_scale == "auto":
            return "--rate-scale auto needs the image in one piece"
        if not self.fit.family.spread or "correlated" in self.fit.family.settings.values():
            return f"--guide {self.fit.family} needs the image in one piece"
        return None

    def grid(self, shape: tuple[int, int, int], prior: Any) -> "Grid":
        """How an image (C, H, W) is cut."""
        from pyro_vble.scene.operators import scene_operator
        from pyro_vble.scene.restoration import cut

        operator = scene_operator(self.physics(shape[0]), shape[0])
        measured = shape[0], shape[1] // operator.ratio, shape[2] // operator.ratio
        return cut(measured, operator, prior, tile=self.tile)[0]

    def physics(self, bands: int) -> Any:
        """The operator, of any size or as a function of it."""
        return physics_of_any_size(self.problem, self.noise, bands)

    def restore(
        self,
        folder: Path,
        source: ImageFile,
        y: Tensor,
        prior: Any,
        *,
        suffix: str,
        fill: bool,
        calibration: Any,
    ) -> tuple[dict[str, Any], list[Path]]:
        """Restore y and write the images into the folder; returns what metrics.json is to say, and the images' paths.

        The posterior's store is ``fit.scene``, from which ``pyro_vble.open_scene`` draws; a run that was ended goes on
        from there.
        """
        from pyro_vble import restore_scene
        from pyro_vble.cli.scene import bar

        begin = time.perf_counter()
        with bar() as told:
            scene = restore_scene(
                y[0].numpy(),
                self.physics(y.shape[1]),
                prior,
                folder / "fit.scene",
                guide=self.fit.family.load(),
                quality=self.fit.quality,
                num_steps=self.fit.num_steps,
                lr=self.fit.lr,
                kl_weight=self.fit.kl_weight,
                rate_scale=float(self.fit.rate_scale),
                tile=self.tile,
                samples=self.fit.samples,
                kept_samples=2,
                fill=fill,
                calibration=calibration,
                seed=self.fit.seed,
                device=self.fit.device,
                precision=self.fit.precision,
                resume=(folder / "fit.scene" / "scene.json").exists(),
                progress=told,
                told=say,
            )
        for place, why in scene.failed.items():
            warn(f"the tile at {scene.cell(place)} failed three times and is missing: {why}")
        raster, written = source.raster, []
        for name in scene.result_names:
            values = torch.from_numpy(scene.result(name)(*(slice(0, side) for side in scene.shape[2:])))
            if name in TILE_BARS:
                kind = ".npy" if suffix == ".npy" else ".tif"
                if name == "std":
                    report.draw_error_bars(folder / "error_bars.png", values[None], source, None, folder.name)
                numbers = source.widths_in_file(values) if name == "std" else source.in_file(values)
                of = report.of_error_bars(raster, source.dtype, widths=name == "std")
                how = {"dtype": np.float32, "scale": source.scale, "raster": of}
                written.append(write_image(folder / f"{name}{kind}", numbers, **how))
            else:
                known = bool(values.isfinite().all()) or suffix != ".npy"
                dtype = source.dtype if known else np.dtype(np.float32)
                file = folder / f"{_name(name)}{suffix}"
                how = {"dtype": dtype, "scale": source.scale, "raster": raster, "profile": source.profile}
                written.append(write_image(file, source.in_file(values), **how))
        return {
            "tiles": math.prod((scene.rows, scene.columns)),
            "tile": self.tile,
            "failed_tiles": len(scene.failed),
            "seconds": {"all": time.perf_counter() - begin},
        }, written


def tile_names(suffix: str) -> list[str]:
    """Names of the files that a restoration in tiles writes, of an image of this kind."""
    images = [f"{name}{kind}" for name in ("restored", *SAMPLES) for kind in {suffix, ".tif"}]
    return [*images, *(f"{name}{'.npy' if suffix == '.npy' else '.tif'}" for name in TILE_BARS), "error_bars.png"]


def tell_tiles(tiles: Tiles, shape: tuple[int, int, int], prior: Any, why: str) -> Tiles:
    """Say that an image is restored in tiles; returns them with their side."""
    side = tiles.grid(shape, prior).cell
    say(f"{shape[2]}x{shape[1]} pixels{why}: they are restored in tiles of {side}x{side}.")
    return replace(tiles, tile=side)


def _name(result: str) -> str:
    return "restored" if result == "mean" else f"sample_{int(result.removeprefix('sample_')) + 1}"
