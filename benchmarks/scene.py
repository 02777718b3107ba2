"""What a scene takes: seconds and disk a megapixel, memory of workers and driver, by the side of the scene.

``python -m benchmarks.scene --data FOLDER --sides 1024 2048 4096 --output FILE`` makes a panchromatic scene of 12 bits
from the folder's images, as the sensor would see them, restores ever larger parts of it and writes FILE (JSON).
Seconds are those of the wall; of a machine that does other things too, CPU seconds tell more. ``--steps`` and
``--samples`` make it shorter: what is to be seen is whether megapixels of large scenes cost the same.
"""

import argparse
import json
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import rasterio
import torch
from rasterio.windows import Window

from benchmarks.measuring import surroundings
from pyro_vble import load_prior, open_scene, restore_scene
from pyro_vble.benchmark.measuring import kernel_count
from pyro_vble.io.atomic import atomic_path
from pyro_vble.io.images import SUFFIXES, read_image
from pyro_vble.sensors import load_sensor

_SEED = 0
_LOOK_EVERY = 0.2  # seconds
# Pixels of a side of the images that a scene is made of, and rows beyond a strip that its measurement depends on.
_IMAGE, _CONTEXT = 256, 32
_SHOWN = 1024  # pixels of a side that a picture shows


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of images of 256x256 pixels or more")
    parser.add_argument("--sides", type=int, nargs="+", default=[1024, 2048, 4096])
    parser.add_argument("--sensor", default="pleiades-like")
    parser.add_argument("--scale", type=int, default=1)
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--prior", default="cae-aerial")
    parser.add_argument("--keep", type=Path, help="folder in which scenes and their posteriors stay")
    parser.add_argument("--picture", type=Path, help="the last scene before and after, at three zooms; needs --keep")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if options.picture and not options.keep:
        parser.error("--picture shows a scene that was kept: pass --keep FOLDER too")
    prior = load_prior(options.prior)
    rows = []
    about = surroundings(torch.device("cpu"), "auto") | {
        name: value if isinstance(value, int | str | None) else str(value) for name, value in vars(options).items()
    }
    with tempfile.TemporaryDirectory() as temporary_folder:
        folder = options.keep or temporary_folder
        Path(folder).mkdir(parents=True, exist_ok=True)
        scene = Path(folder, "scene.tif")
        _measured_scene(options, max(options.sides), scene)
        for side in options.sides:
            rows.append(_measure(scene, side, prior, options, Path(folder)))
            print(json.dumps(rows[-1]), flush=True)
            if options.output:
                with atomic_path(options.output) as temporary:
                    temporary.write_text(json.dumps(about | {"scenes": rows}, indent=1) + "\n")
        if options.picture:
            _picture(scene, Path(folder, f"{options.sides[-1]}.scene"), options)


def _picture(measured: Path, store: Path, options: Any) -> None:
    """Draw what was measured, what was restored and its standard deviation, in numbers of the file: the whole scene, a
    quarter and a sixteenth of its side about its middle, where cells meet. All show means over the same blocks.
    """
    import matplotlib.pyplot as plt

    posterior, scale = open_scene(store), options.scale
    side = posterior.shape[-1]
    figure, axes = plt.subplots(3, 3, figsize=(12.4, 12.0), layout="constrained")
    for row, width in zip(axes, (side, side // 4, side // 16), strict=True):
        start, block = (side - width) // 2, max(1, width // _SHOWN)
        window = slice(start, start + width)
        with rasterio.open(measured) as file:
            part = file.read(1, window=Window(start // scale, start // scale, width // scale, width // scale))
        parts = [part.repeat(scale, 0).repeat(scale, 1)]
        parts += [posterior.result(name)(window, window)[0] for name in ("mean", "std")]
        shown = [part.astype(float).reshape(width // block, block, -1, block).mean((1, 3)) for part in parts]
        low, high = np.quantile(shown[0], (0.002, 0.998))
        for axis, values in zip(row, shown, strict=True):
            how: dict[str, Any] = {"cmap": "gray", "vmin": low, "vmax": high}
            if axis is row[2]:
                how = {"cmap": "magma", "vmin": 0, "vmax": np.quantile(values, 0.99)}
            drawn = axis.imshow(values, extent=(start, start + width, start + width, start), **how)
            ticks = range(0, side + 1, side // 4 if width == side else options.tile)
            axis.set(xticks=ticks, yticks=ticks, xlim=(start, start + width), ylim=(start + width, start))
            axis.tick_params(labelsize=7)
        figure.colorbar(drawn, ax=row[2], fraction=0.046, pad=0.02)
        row[0].set_ylabel(f"{width}x{width} pixels")
    for axis, title in zip(axes[0], ("measured", "restored", "standard deviation"), strict=True):
        axis.set_title(title)
    figure.savefig(options.picture, dpi=95, pil_kwargs={"quality": 88})


def _measured_scene(options: Any, side: int, path: Path) -> None:
    """Write what the sensor sees of a mosaic of images, in numbers of 12 bits, strip by strip.

    Borders between images lie where no cells of a multiple of 256 pixels meet: what is seen there is not the tiling.
    """
    files = sorted(file for file in options.data.iterdir() if file.suffix in SUFFIXES)
    random = np.random.default_rng(_SEED)
    settings = load_sensor(options.sensor)
    physics = settings.physics(options.scale)
    scale, fine = options.scale, side * options.scale
    truth = np.lib.format.open_memmap(path.with_suffix(".npy"), "w+", np.float32, (fine, fine))
    starts = range(-_IMAGE // 2, fine, _IMAGE)
    for top in starts:
        for left in starts:
            image = read_image(files[random.integers(len(files))]).values[0].mean(0).numpy()[:_IMAGE, :_IMAGE]
            rows, columns = (slice(max(0, start), start + _IMAGE) for start in (top, left))
            part = truth[rows, columns]
            part[:] = image[max(0, -top) :, max(0, -left) :][: part.shape[0], : part.shape[1]]
    torch.manual_seed(_SEED)
    how = {"driver": "GTiff", "dtype": "uint16", "count": 1, "tiled": True, "compress": "deflate"}
    with rasterio.open(path, "w", width=side, height=side, **how) as file:
        for top in range(0, side, _IMAGE):
            first, last = max(0, top - _CONTEXT), min(side, top + _IMAGE + _CONTEXT)
            strip = torch.from_numpy(truth[first * scale : last * scale].copy())
            y = physics(strip[None, None])[0, :, top - first : top - first + _IMAGE].numpy()
            file.write(settings.radiometry.from_unit(y), window=Window(0, top, side, y.shape[1]))
    path.with_suffix(".npy").unlink()


class _Memory(threading.Thread):
    """The largest resident memory of this process, and of any of those that it started, in bytes."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.driver = self.worker = 0
        self._over = threading.Event()

    def run(self) -> None:
        """Look every now and then."""
        own = psutil.Process()
        while not self._over.wait(_LOOK_EVERY):
            self.driver = max(self.driver, own.memory_info().rss)
            for child in own.children(recursive=True):
                try:
                    # Not what it has now: a look every now and then would miss short peaks.
                    self.worker = max(self.worker, kernel_count("VmHWM", child.pid) * 1024)
                except (OSError, StopIteration):  # it has ended
                    continue

    def end(self) -> None:
        """Look no longer."""
        self._over.set()
        self.join()


def _measure(path: Path, side: int, prior: Any, options: Any, folder: Path) -> dict[str, Any]:
    settings = load_sensor(options.sensor)
    store = folder / f"{side}.scene"
    memory = _Memory()
    memory.start()
    begin = time.perf_counter()
    posterior = restore_scene(
        path,
        settings.physics(options.scale),
        prior,
        store,
        window=(0, 0, side, side),
        radiometry=settings.radiometry,
        tile=options.tile,
        num_steps=options.steps,
        samples=options.samples,
        workers=options.workers,
        seed=_SEED,
        tolerance=None,
        told=lambda text: None,
    )
    seconds = time.perf_counter() - begin
    memory.end()
    megapixels = (side * options.scale) ** 2 / 1e6
    mosaic = sum(file.stat().st_size for file in (store / "mosaic").rglob("*") if file.is_file())
    results = sum(file.stat().st_size for file in (store / "results").rglob("*") if file.is_file())
    about = json.loads((store / "scene.json").read_text())
    cells = [posterior.marked(stage) for stage in ("fitted", "blended", "drawn")]
    cpu = [sum(mark["cpu_seconds"] for mark in marks) for marks in cells]
    found = {
        "side": side,
        "megapixels": megapixels,
        "seconds": seconds,
        "seconds_by_stage": about["seconds"],
        "cpu_seconds_per_megapixel": sum(cpu) / megapixels,
        "cpu_seconds_per_megapixel_by_stage": [seconds / megapixels for seconds in cpu],
        "fitted_steps": sum(mark.get("steps", 0) for mark in cells[0]) / len(cells[0]),
        "seconds_per_megapixel": sum(about["seconds"].values()) / megapixels,
        "megapixels_per_hour": 3600 * megapixels / seconds,
        "worker_peak_mib": memory.worker / 2**20,
        "driver_peak_mib": memory.driver / 2**20,
        "mosaic_mb_per_megapixel": mosaic / 1e6 / megapixels,
        "results_mb_per_megapixel": results / 1e6 / megapixels,
        "halo": about["grid"]["halo"],
        "failed": len(posterior.failed),
    }
    if options.keep is None:
        shutil.rmtree(store)
    return found


if __name__ == "__main__":
    main()
