"""
Deblur
======

A photograph that is out of focus, and noisy. The blur is known: a Gaussian of 1.5 pixels.

**Look at** the samples. Each explains the measurement as well as the others. They agree on edges, which the blur
left visible, and differ in fine texture, which it removed: that detail is the model's guess, and the error bars say
so.
"""

from functools import partial

import deepinv as dinv
import skimage.data
import torch

import pyro_vble as pv
from pyro_vble.figures import side_by_side
from pyro_vble.guides import VBLE, VBLExz

truth = torch.from_numpy(skimage.data.cat()[100:212, 160:272].copy()).permute(2, 0, 1)[None] / 255
kernel = dinv.physics.functional.gaussian_blur(sigma=(1.5, 1.5))
physics = dinv.physics.Blur(filter=kernel, padding="reflect", noise_model=dinv.physics.GaussianNoise(0.03))
torch.manual_seed(0)
y = physics(truth)

posterior = pv.restore(y, physics, "cae-bsd", seed=0, progress=False)
image, samples = posterior.mmse_x(100), posterior.sample(2)
side_by_side({"measured": y, "restored": image, "sample 1": samples[0], "sample 2": samples[1], "truth": truth})

# %%
# The guide decides what the posterior may look like. VBLE takes the image for the decoder's output. VBLE-xz adds
# the decoder's own errors, and with a free mean, the default, the image may leave the decoder's range. Compare the
# coverage.

guides = {"VBLE": VBLE, "VBLE-xz": VBLExz, "VBLE-xz, free mean": partial(VBLExz, free_mean=True)}
bars = {}
for name, guide in guides.items():
    found = pv.restore(y, physics, "cae-bsd", guide, seed=0, progress=False)
    inside = pv.metrics.coverage(found.interval(0.9, 100), truth)
    print(f"{name}: {pv.metrics.psnr(found.mmse_x(100), truth):.2f} dB, 90 % intervals cover {inside:.0%}")
    bars[name] = found.std(100)
side_by_side({"restored": image}, bars)
