"""
Where does the error come from?
===============================

A restoration can be wrong for three reasons: the measurement leaves something open, the decoder cannot make the image,
or the fit has not arrived. ``error_budget`` tells them apart where the truth is known. It fits again, longer: from the
usual start, from a scattered one, and from the encoding of the truth.

**Look at** which map looks like the error. Without blur and with little noise it is the representation: the
measurement shows more than the decoder can make. Under a wide blur it is none of the three: fine detail did not reach
the measurement, and the uncertainty says so, but it is only half as large as the error. This posterior is too sure of
itself, and :doc:`calibrating it </auto_gallery/plot_calibrate>` is the remedy.
"""

import deepinv as dinv
import skimage.data
import torch

import pyro_vble as pv
from pyro_vble.diagnostics import error_budget, plot_error_budget
from pyro_vble.guides import VBLE

truth = torch.from_numpy(skimage.data.cat()[100:196, 160:256].copy()).permute(2, 0, 1)[None] / 255
wide = dinv.physics.functional.gaussian_blur(sigma=(3.0, 3.0))
blurred = dinv.physics.Blur(filter=wide, padding="circular", noise_model=dinv.physics.GaussianNoise(0.01))
torch.manual_seed(0)
posterior = pv.restore(blurred(truth), blurred, "cae-bsd", seed=0, progress=False)
budget = error_budget(posterior, truth, num_restarts=1, num_steps=90, projection_steps=100, seed=0)
plot_error_budget(budget, title="a blur of 3 pixels")

# %%
# The points at the lower right say whether the search is to blame. It is if the fit that started at the truth has a
# larger ELBO and another estimate: the usual start has missed something. If its ELBO is the smaller one, a better
# search would not help. Scattered starts may end far below.
#
# Now an image that is seen well, and VBLE, which keeps the image in the decoder's range.

seen = dinv.physics.Denoising(dinv.physics.GaussianNoise(0.01))
posterior = pv.restore(seen(truth), seen, "cae-bsd", guide=VBLE, seed=0, progress=False)
budget = error_budget(posterior, truth, num_restarts=1, num_steps=90, projection_steps=100, seed=0)
plot_error_budget(budget, title="noise of 0.01 alone, VBLE")
