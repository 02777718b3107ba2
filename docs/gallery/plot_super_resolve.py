"""
Super-resolve
=============

Twice as many pixels along each side: the measurement is the photograph, filtered and with every second pixel kept.

**Look at** the error bars. They are widest at sharp edges, where half a pixel decides between light and dark, and
narrow where the picture is smooth.
"""

import deepinv as dinv
import skimage.data
import torch
from torch.nn.functional import interpolate

import pyro_vble as pv
from pyro_vble.figures import side_by_side

truth = torch.from_numpy(skimage.data.astronaut()[0:160, 144:304].copy()).permute(2, 0, 1)[None] / 255
physics = dinv.physics.Downsampling(
    img_size=(3, 160, 160), filter="bicubic", factor=2, padding="reflect", noise_model=dinv.physics.GaussianNoise(0.01)
)
torch.manual_seed(0)
y = physics(truth)

posterior = pv.restore(y, physics, "cae-bsd", seed=0, progress=False)
image = posterior.mmse_x(100)
bicubic = interpolate(y, scale_factor=2, mode="bicubic")
side_by_side({"measured": y, "bicubic": bicubic, "restored": image, "truth": truth}, {"std": posterior.std(100)})

# %%
print(f"PSNR: bicubic {pv.metrics.psnr(bicubic, truth):.2f} dB, restored {pv.metrics.psnr(image, truth):.2f} dB")
print(f"90 % intervals cover {pv.metrics.coverage(posterior.interval(0.9, 100), truth):.0%} of the true pixels")

# %%
# Where the coverage is well below 90 %, the intervals are too narrow, as is usual for super-resolution: the prior
# is too sure of what it adds. :doc:`plot_calibrate` corrects that.
