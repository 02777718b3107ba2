"""
Calibrate the error bars
========================

Error bars are as good as the prior, and on photographs they are often too narrow. A dozen images of the same sensor
whose truth is known, or sharp images from which measurements are simulated, are enough to correct them.

**Look at** the coverage of images that the calibration has not seen, before and after. The mean comes close to 90
%; single images scatter around it, and those of another kind may be missed.
"""

import matplotlib.pyplot as plt
import skimage.data
import torch

import pyro_vble as pv
from pyro_vble.diagnostics import Calibration
from pyro_vble.physics.problems import super_resolution

physics = super_resolution(0.005, (3, 64, 64), 2)


def restored(corners):
    for photograph in (skimage.data.astronaut(), skimage.data.coffee(), skimage.data.cat()):
        for top, left in corners:
            crop = photograph[top : top + 64, left : left + 64].copy()
            truth = torch.from_numpy(crop).permute(2, 0, 1)[None] / 255
            torch.manual_seed(1000 * top + left)
            yield pv.restore(physics(truth), physics, "cae-bsd", num_steps=40, seed=0, progress=False), truth


calibration = Calibration.fit_pairs(restored([(16, 16), (112, 160), (200, 240), (60, 300)]))

# %%
# ``posterior.calibrated(...)`` corrects ``interval`` and ``error_quantile``. The command line does the same with
# ``pyro-vble calibrate`` and ``pyro-vble restore --calibration``.

before, after = [], []
for posterior, truth in restored([(16, 160), (112, 16), (220, 120)]):
    before.append(pv.metrics.coverage(posterior.interval(0.9), truth))
    after.append(pv.metrics.coverage(posterior.calibrated(calibration).interval(0.9), truth))
figure, axis = plt.subplots(figsize=(7, 3), layout="constrained")
axis.plot(before, "o", label=f"before, mean {sum(before) / len(before):.0%}")
axis.plot(after, "s", label=f"after, mean {sum(after) / len(after):.0%}")
axis.axhline(0.9, color="0.4", linewidth=1)
axis.set(xlabel="new image", ylabel="true pixels in 90 % intervals", ylim=(0, 1))
_ = axis.legend(frameon=False)
