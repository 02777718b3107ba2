"""Scenes larger than memory: restored tile by tile, sampled without seams (extra ``geo``)."""

from pyro_vble.scene.posterior import ScenePosterior
from pyro_vble.scene.restoration import restore_scene

__all__ = ["ScenePosterior", "restore_scene"]
