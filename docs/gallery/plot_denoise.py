"""
Denoise
=======

The simplest problem: a photograph with Gaussian noise, of a standard deviation that is a tenth of white.

**Look at** the two maps in the last picture. They share one scale. The first is the error that was made, which only
a simulation knows. The second is what the posterior predicted: a bound that 90 % of errors should stay below. It is
higher along edges and in the fur, where noise and detail are hard to tell apart.
"""

import deepinv as dinv
import skimage.data
import torch

import pyro_vble as pv
from pyro_vble.figures import side_by_side

truth = torch.from_numpy(skimage.data.cat()[60:188, 150:278].copy()).permute(2, 0, 1)[None] / 255
physics = dinv.physics.Denoising(dinv.physics.GaussianNoise(0.1))
torch.manual_seed(0)
y = physics(truth)

# %%
# One call fits the posterior. ``seed`` makes the result reproducible.

posterior = pv.restore(y, physics, "cae-bsd", seed=0, progress=False)
image = posterior.mmse_x(100)
samples = posterior.sample(2)
side_by_side({"measured": y, "restored": image, "sample 1": samples[0], "sample 2": samples[1], "truth": truth})

# %%
# How good is it, and do the error bars tell the truth?

print(f"PSNR: measured {pv.metrics.psnr(y, truth):.1f} dB, restored {pv.metrics.psnr(image, truth):.1f} dB")
print(f"90 % intervals cover {pv.metrics.coverage(posterior.interval(0.9, 100), truth):.0%} of the true pixels")
errors = {"true error": (image - truth).abs(), "90 % of errors predicted below": posterior.error_quantile(0.9, 100)}
side_by_side({"restored": image}, errors)
