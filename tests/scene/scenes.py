"""Small scenes, restored in a moment by a prior of random weights."""

from pathlib import Path
from typing import Any

import deepinv
import numpy as np
from deepinv.physics.functional import gaussian_blur
from helpers import small_network

from pyro_vble.models import CAE
from pyro_vble.scene import ScenePosterior, restore_scene
from pyro_vble.scene.store import Store

QUICK: dict[str, Any] = {"tile": 64, "num_steps": 3, "samples": 4, "workers": 0, "seed": 0, "device": "cpu"}


def prior() -> CAE:
    return CAE(small_network(), alpha=0.025)


def blur(sigma: float = 0.7, noise: float = 0.05) -> deepinv.physics.Physics:
    return deepinv.physics.Blur(
        filter=gaussian_blur(sigma=(sigma, sigma)),
        padding="reflect",
        noise_model=deepinv.physics.GaussianNoise(noise),
    )


def denoising(noise: float = 0.1) -> deepinv.physics.Physics:
    return deepinv.physics.Denoising(deepinv.physics.GaussianNoise(noise))


def measured(bands: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth image and some noise, (C, H, W)."""
    rng = np.random.default_rng(seed)
    down, along = np.mgrid[:height, :width].astype(np.float32) / 20
    phases = rng.random((bands, 1, 1)).astype(np.float32) * 6
    image = 0.5 + 0.3 * np.sin(down + phases) * np.cos(along + phases)
    return (image + 0.05 * rng.standard_normal(image.shape)).astype(np.float32)


def restored(folder: Path, y: Any = None, physics: Any = None, **options: Any) -> ScenePosterior:
    y = measured(1, 150, 100) if y is None else y
    own = options.pop("prior", None) or prior()
    return restore_scene(y, physics or denoising(), own, folder, **{**QUICK, **options})


def arrays(folder: Path) -> dict[str, np.ndarray]:
    """All that a scene's store has of the mosaic and of results."""
    store = Store(folder)
    return {
        f"{group}/{name}": store.array(group, name)[:] for group in ("mosaic", "results") for name in store.names(group)
    }


def assert_same(folder: Path, other: Path) -> None:
    """Two stores hold the same numbers, bit for bit."""
    a, b = arrays(folder), arrays(other)
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert np.array_equal(value, b[name], equal_nan=True), name


def random_window(rng: np.random.Generator, height: int, width: int) -> tuple[slice, slice]:
    (top, bottom), (left, right) = (sorted(rng.choice(side + 1, 2, replace=False)) for side in (height, width))
    return slice(int(top), int(bottom)), slice(int(left), int(right))
