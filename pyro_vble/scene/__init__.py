"""Scenes larger than memory: restored tile by tile, sampled without seams (extra ``geo``)."""

from pyro_vble.scene.posterior import ScenePosterior
from pyro_vble.scene.restoration import restore_scene

#: Open the posterior of a scene, a folder NAME.scene.
open_scene = ScenePosterior.open

__all__ = ["ScenePosterior", "open_scene", "restore_scene"]
