"""
Pansharpen
==========

Many satellites measure one fine panchromatic band and colours on pixels four times as wide. Both are measurements
of one image: give them as a list, and the likelihood is the product of theirs.

**Look at** the standard deviation: brightness is known from the panchromatic band, so what is left is colour, and
it is uncertain where colours change within a coarse pixel.
"""

import skimage.data
import torch

import pyro_vble as pv
from pyro_vble.figures import side_by_side
from pyro_vble.physics import pansharpening, spectral_weights

truth = torch.from_numpy(skimage.data.astronaut()[0:128, 160:288].copy()).permute(2, 0, 1)[None] / 255
shape, noise = (3, 128, 128), {"pan_noise": 0.005, "ms_noise": 0.005}
torch.manual_seed(0)
simulated = pansharpening(shape, ratio=4, weights=[0.3, 0.4, 0.3], **noise)
pan, colours = simulated.split(simulated(truth))

# %%
# The weights by which colours sum to the panchromatic band are estimated from the two measurements. ``left`` is the
# part of the panchromatic variance that no weighted sum explains; where it is large, colours cannot be trusted.

weights, left = spectral_weights(pan, colours)
print(f"weights {', '.join(f'{w:.2f}' for w in weights)}; {left:.2%} of the variance is left")

physics = pansharpening(shape, ratio=4, weights=weights, **noise)
posterior = pv.restore([pan, colours], physics, "cae-bsd", seed=0, progress=False)
image = posterior.mmse_x(100)
side_by_side({"panchromatic": pan, "colours": colours, "restored": image, "truth": truth}, {"std": posterior.std(100)})

# %%
print(f"restored {pv.metrics.psnr(image, truth):.1f} dB")
print(f"90 % intervals cover {pv.metrics.coverage(posterior.interval(0.9, 100), truth):.0%} of the true pixels")
