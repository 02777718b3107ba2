"""
Unknown noise and blur
======================

How wide is the blur, how strong the noise? Give both a prior, and they are inferred with the image. Here the first
beliefs are wrong: a blur half as wide again as the true one, and twice the noise.

**Look at** the histograms. The noise level is found. The blur moves towards the truth, not always all the way, and
its histogram is far too narrow for that: take such values for estimates, not for error bars.
"""

import deepinv as dinv
import matplotlib.pyplot as plt
import pyro.distributions as dist
import skimage.data
import torch

import pyro_vble as pv
from pyro_vble.figures import side_by_side
from pyro_vble.physics import GaussianBlur

truth = torch.from_numpy(skimage.data.coffee()[200:312, 300:412].copy()).permute(2, 0, 1)[None] / 255
torch.manual_seed(0)
y = GaussianBlur(1.5, radius=10, noise_model=dinv.physics.GaussianNoise(0.03))(truth)
believed = GaussianBlur(2.25, radius=10, noise_model=dinv.physics.GaussianNoise(0.06))

# %%
# Names are those of the noise model's parameters and of the arguments of the operator's ``A``.

priors = {"width": dist.LogNormal(0.5, 0.5), "sigma": dist.HalfNormal(0.1)}
inferred = pv.restore(y, believed, "cae-bsd", physics_priors=priors, seed=0, progress=False)
wrong = pv.restore(y, believed, "cae-bsd", seed=0, progress=False)
pictures = {"measured": y}
for name, posterior in {"as believed": wrong, "inferred": inferred}.items():
    image = posterior.mmse_x(100)
    pictures[f"{name}: {pv.metrics.psnr(image, truth):.1f} dB"] = image
side_by_side(pictures | {"truth": truth})

# %%
draws = inferred.sample_latents(1000)
figure, axes = plt.subplots(1, 2, figsize=(9, 2.8), layout="constrained")
for axis, name, label, true, first in (
    (axes[0], "width", "width of the blur (pixels)", 1.5, 2.25),
    (axes[1], "sigma", "noise level", 0.03, 0.06),
):
    axis.hist(draws[name].flatten(), bins=30, density=True, label="posterior")
    axis.axvline(true, color="black", label="truth")
    axis.axvline(first, color="tab:red", linestyle="--", label="first belief")
    axis.set(xlabel=label, ylabel="density")
_ = axes[0].legend(frameon=False)
