"""
Compare with DPIR and DiffPIR
=============================

DPIR and DiffPIR put a denoiser in the prior's place. Published results use large networks, which are downloaded:
``dpir(y, physics)`` does that. This page needs no download, because it takes a classical denoiser, non-local means.
**So the PSNR here says nothing about the published methods**; :doc:`/which_method` compares with a network.

**Look at** what each method returns. DPIR gives one image. DiffPIR's samples differ by the noise of its steps; they
are not draws from the posterior, and their spread need not match the error. VBLE-xz's intervals are meant to cover
what they claim, and the title says how far they do.
"""

import deepinv as dinv
import skimage.data
import torch
from skimage.restoration import denoise_nl_means

import pyro_vble as pv
from pyro_vble.baselines import diffpir, dpir
from pyro_vble.figures import side_by_side


def denoiser(x, sigma):
    keep = min(1.0, 0.09 / float(sigma) ** 2)  # DiffPIR begins with noise far above the image: there, go towards grey
    level = keep * float(sigma)
    image = (keep * x[0] + (1 - keep) * 0.45).permute(1, 2, 0).numpy()
    settings = {"patch_size": 5, "patch_distance": 6, "h": 0.8 * level, "sigma": level, "channel_axis": -1}
    return torch.from_numpy(denoise_nl_means(image, **settings)).to(x).permute(2, 0, 1)[None]


truth = torch.from_numpy(skimage.data.cat()[100:212, 160:272].copy()).permute(2, 0, 1)[None] / 255
kernel = dinv.physics.functional.gaussian_blur(sigma=(1.5, 1.5))
physics = dinv.physics.Blur(filter=kernel, padding="circular", noise_model=dinv.physics.GaussianNoise(0.03))
torch.manual_seed(0)
y = physics(truth)
found = {
    "DPIR": dpir(y, physics, denoiser),
    "DiffPIR": diffpir(y, physics, denoiser, num_samples=10, num_evaluations=20, seed=0),
    "VBLE-xz": pv.restore(y, physics, "cae-bsd", seed=0, progress=False),
}

# %%
# All three are :class:`~pyro_vble.samples.Samples`, with the same statistics.

images = {name: samples.mmse_x() for name, samples in found.items()}
titles = {name: f"{name}: {pv.metrics.psnr(image, truth):.1f} dB" for name, image in images.items()}
side_by_side({"measured": y} | {titles[name]: image for name, image in images.items()} | {"truth": truth})

# %%
# Ten samples can say what lies within 80 %, so the intervals are of that level for both.

bars = {}
for name in ("DiffPIR", "VBLE-xz"):
    inside = pv.metrics.coverage(found[name].interval(0.8), truth)
    bars[f"{name}: std\n80 % intervals cover {inside:.0%}"] = found[name].std()
side_by_side({"truth": truth}, bars)
