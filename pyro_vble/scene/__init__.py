"""Scenes larger than memory: restored tile by tile, sampled without seams (extra ``geo``)."""

import os

from pyro_vble.scene.posterior import ScenePosterior
from pyro_vble.scene.restoration import restore_scene

__all__ = ["ScenePosterior", "open_scene", "restore_scene"]


def open_scene(path: str | os.PathLike, *, seed: int | None = None, device: str = "auto") -> ScenePosterior:
    """Open the posterior of a scene, the folder NAME.scene that :func:`restore_scene` wrote.

    Args:
        path: The folder.
        seed: Default seed of the methods; by default that of the restoration, whose samples they then are.
        device: Where to decode: "auto" (CUDA where there is one) or a torch device.

    Raises:
        FileNotFoundError: If there is no scene.
        ValueError: If it is of another version, or not finished.
    """
    return ScenePosterior.open(path, seed=seed, device=device)
