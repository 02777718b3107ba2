"""The hand-written loop of the published algorithm and the library reach the same ELBO."""

from functools import partial

import pytest
import skimage.data
import torch

import pyro_vble as pv
from benchmarks.published_loop import published_fit, published_samples
from pyro_vble.guides import VBLE, VBLExz
from pyro_vble.models import CAE
from pyro_vble.physics import initial_image
from pyro_vble.physics.problems import deblurring, gaussian_kernel


@pytest.mark.parametrize("steps", [60, pytest.param(300, marks=pytest.mark.slow)])
@pytest.mark.parametrize("guide", [VBLE, VBLExz])
def test_same_elbo_and_same_image(bundled, guide, steps):
    x = torch.from_numpy(skimage.data.cat()[60:124, 160:224].copy()).permute(2, 0, 1)[None].float() / 255
    physics = deblurring(0.03, gaussian_kernel(1.0))
    y = physics(x)
    gamma = bundled.gamma if guide is VBLExz else None
    torch.manual_seed(1)
    prior = CAE(bundled.network, bundled.alpha)  # as the loop: one standard deviation for all pixels
    network = prior.network.requires_grad_(False)
    x_init = initial_image(physics, y, (3, 64, 64))
    loop = published_fit(network, physics.A, y, 0.03, x_init, std=gamma, num_steps=steps)
    ours = pv.restore(
        y,
        physics,
        prior,
        guide=partial(guide, family="uniform"),
        num_steps=steps,
        lr=0.1,
        schedule="constant",
        tolerance=None,
        precision="float32",
        seed=0,
        progress=False,
    )
    last = steps // 3
    tails = torch.stack((torch.tensor(loop.elbo[-last:]), ours.elbo[-last:]))
    # One-draw ELBOs of the last third of the steps: their means have this standard error, taken as half independent.
    error = float((tails.var(1) / (last / 2)).sum().sqrt())
    difference = float(tails[1].mean() - tails[0].mean())
    assert abs(difference) < 5 * error, (difference, error)
    mean = published_samples(network, loop, gamma).mean(0)
    assert pv.metrics.psnr(ours.mmse_x(100), x) == pytest.approx(pv.metrics.psnr(mean, x), abs=0.3)
