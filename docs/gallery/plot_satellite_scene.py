"""
A satellite scene
=================

A georeferenced scene, restored tile by tile with an error bar on every pixel. The ground here is the moon's, from a
photograph that scikit-image ships, seen by an imagined 12-bit sensor with pixels of half a metre.

**Look at** the dotted line, where two tiles meet: neither the mean nor the sample has a seam there. Values are in
the numbers of the file, and the coordinates are the scene's own.
"""

import matplotlib.pyplot as plt
import numpy as np
import rioxarray  # noqa: F401, gives arrays their georeference
import skimage.data
import torch
import xarray as xr

import pyro_vble as pv
from pyro_vble.sensors import load_sensor

sensor = load_sensor("pleiades-like")
torch.manual_seed(0)
truth = torch.from_numpy(skimage.data.moon()[200:328, 100:292].copy()).float()[None, None] / 255
numbers = sensor.radiometry_of().from_unit(sensor.physics()(truth)[0].numpy())
scene = xr.DataArray(numbers, dims=("band", "y", "x"), attrs={"long_name": ("pan",)})
scene = scene.assign_coords(x=400_000.25 + 0.5 * np.arange(192), y=4_516_999.75 - 0.5 * np.arange(128))
scene = scene.rio.write_crs(32610)

# %%
# A real scene is the path of a GeoTIFF, and has tiles of 512 pixels that worker processes restore.

settings = {"tile": 128, "samples": 30, "num_steps": 40, "workers": 0, "seed": 0}
settings |= {"radiometry": sensor.radiometry_of(), "told": lambda _: None}
posterior = pv.restore_scene(scene, sensor.physics(), "cae-aerial", **settings)
posterior.results

# %%
# ``results`` holds lazy arrays; ``sample`` draws any window of any sample.

window = np.s_[0:128, 64:192]
figure, axes = plt.subplots(1, 4, figsize=(13, 3), layout="constrained")
scene[0].plot.imshow(ax=axes[0], cmap="gray", add_colorbar=False)
posterior.results["mean"][0].plot.imshow(ax=axes[1], cmap="gray", add_colorbar=False)
posterior.results["std"][0].plot.imshow(ax=axes[2], cmap="magma", cbar_kwargs={"label": "numbers of the file"})
axes[3].imshow(posterior.sample(window, 7)[0], cmap="gray")
for axis, title in zip(axes, ("measured", "mean", "standard deviation", "a window of sample 7"), strict=True):
    axis.set(title=title, xticks=[], yticks=[], xlabel="", ylabel="", aspect="equal")
    axis.axvline(63.5 if axis is axes[3] else float(scene.x[128]) - 0.25, color="tab:cyan", linestyle=":")
