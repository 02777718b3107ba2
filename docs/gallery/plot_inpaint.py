"""
Inpaint
=======

Half of the pixels are missing, and a square hole of 24 pixels. Missing values are NaN: nothing else has to be said.

**Look at** the hole. The samples continue the edge of the coffee through it, because that is plausible, although
nothing was measured there. Compare the two shares at the end: how far do intervals hold where the model had to
guess?
"""

import deepinv as dinv
import skimage.data
import torch

import pyro_vble as pv
from pyro_vble.figures import side_by_side

truth = torch.from_numpy(skimage.data.coffee()[60:188, 190:318].copy()).permute(2, 0, 1)[None] / 255
torch.manual_seed(0)
missing = torch.rand(1, 1, 128, 128) < 0.5
missing[..., 52:76, 60:84] = True
physics = dinv.physics.Denoising(dinv.physics.GaussianNoise(0.02))
y = torch.where(missing, torch.nan, physics(truth))

posterior = pv.restore(y, physics, "cae-bsd", seed=0, progress=False)
image, samples = posterior.mmse_x(100), posterior.sample(2)
side_by_side({"measured": y, "restored": image, "sample 1": samples[0], "sample 2": samples[1], "truth": truth})

# %%
side_by_side({"missing": missing.float()}, {"true error": (image - truth).abs(), "std": posterior.std(100)})

# %%
low, high = posterior.interval(0.9, 100)
inside = ((low <= truth) & (truth <= high)).float()
print(f"restored {pv.metrics.psnr(image, truth):.1f} dB")
inside_hole = inside[..., 52:76, 60:84].mean()
print(f"90 % intervals cover {inside.mean():.0%} of all pixels, {inside_hole:.0%} of those in the hole")
