"""The hand-written loop of the published algorithm and the library reach the same ELBO."""

import pytest
import skimage.data
import torch

import pyro_vble as pv
from benchmarks.published_loop import published_fit, published_samples
from pyro_vble.guides import VBLE, VBLExz
from pyro_vble.models import CAE
from pyro_vble.physics import initial_image
from pyro_vble.physics.problems import deblurring, gaussian_kernel


@pytest.mark.parametrize("guide", [VBLE, VBLExz])
def test_same_elbo_and_same_image(bundled, guide):
    x = torch.from_numpy(skimage.data.cat()[60:124, 160:224].copy()).permute(2, 0, 1)[None].float() / 255
    physics = deblurring(0.03, gaussian_kernel(1.0))
    y = physics(x)
    gamma = bundled.gamma if guide is VBLExz else None
    torch.manual_seed(1)
    prior = CAE(bundled.network, bundled.alpha)  # as the loop: one standard deviation for all pixels
    network = prior.network.requires_grad_(False)
    loop = published_fit(network, physics.A, y, 0.03, initial_image(physics, y, (3, 64, 64)), std=gamma)
    ours = pv.restore(
        y,
        physics,
        prior,
        guide=guide,
        num_steps=300,
        lr=0.1,
        schedule="constant",
        tolerance=None,
        precision="float32",
        seed=0,
        progress=False,
    )
    tails = torch.stack((torch.tensor(loop.elbo[-100:]), ours.elbo[-100:]))
    # One-draw ELBOs of the last 100 steps: their means have this standard error, taking them as half independent.
    error = float((tails.var(1) / 50).sum().sqrt())
    difference = float(tails[1].mean() - tails[0].mean())
    assert abs(difference) < 5 * error, (difference, error)
    mean = published_samples(network, loop, gamma).mean(0)
    assert pv.metrics.psnr(ours.mmse_x(100), x) == pytest.approx(pv.metrics.psnr(mean, x), abs=0.3)
