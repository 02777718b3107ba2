"""
MRI, with an operator of your own
=================================

Any object with a differentiable method ``A`` and a noise model is an operator. This one is a magnetic resonance
scanner that measures a third of the lines of the image's Fourier transform: all low frequencies, and some of the
others. No adjoint has to be written; it comes from autograd.

**Look at** the image that treats unmeasured frequencies as zero: it has ripples beside every edge. The posterior
mean has fewer. Its standard deviation is highest along the skull, where its error is, too. The prior was trained on
photographs and never saw a phantom.
"""

import deepinv as dinv
import skimage.data
import torch
from torch.nn import functional as F

import pyro_vble as pv
from pyro_vble.figures import side_by_side


class Scanner:
    noise_model = dinv.physics.GaussianNoise(0.02)

    def __init__(self, lines):
        self.lines = lines

    def A(self, x):
        frequencies = torch.fft.fft2(x[:, 0], norm="ortho")[:, self.lines]
        return torch.stack((frequencies.real, frequencies.imag), 1)  # (B, 2, lines, columns)


phantom = torch.from_numpy(skimage.data.shepp_logan_phantom()).float()[None, None]
truth = F.interpolate(phantom, (128, 128), mode="area")
torch.manual_seed(0)
frequency = torch.fft.fftfreq(128).abs()
physics = Scanner((frequency < 0.1) | (torch.rand(128) < 0.15))
y = physics.noise_model(physics.A(truth))
print(f"{int(physics.lines.sum())} of 128 lines are measured")

posterior = pv.restore(y, physics, "cae-bsd", image_shape=(1, 128, 128), seed=0, progress=False)
image = posterior.mmse_x(100)

# %%
spectrum = torch.zeros(128, 128, dtype=torch.complex64)
spectrum[physics.lines] = torch.complex(y[0, 0], y[0, 1])
naive = torch.fft.ifft2(spectrum, norm="ortho").real[None, None]
errors = {"true error": (image - truth).abs(), "std": posterior.std(100)}
side_by_side({"unmeasured as zero": naive, "restored": image, "truth": truth}, errors)

# %%
print(f"unmeasured as zero {pv.metrics.psnr(naive, truth):.1f} dB, restored {pv.metrics.psnr(image, truth):.1f} dB")
print(f"90 % intervals cover {pv.metrics.coverage(posterior.interval(0.9, 100), truth):.0%} of the true pixels")
