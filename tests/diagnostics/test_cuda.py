"""The same on a GPU: nothing stays behind on the CPU."""

import pyro.distributions as dist
import pytest
import torch
from deepinv.physics import Denoising, GaussianNoise

import pyro_vble as pv
from pyro_vble import diagnostics as d
from pyro_vble.guides import VBLE, VBLExz
from pyro_vble.physics import GaussianBlur

pytestmark = pytest.mark.cuda

FAST = {"num_steps": 3, "seed": 0, "device": "cuda", "progress": False}


@pytest.fixture
def x():
    return torch.rand(1, 3, 64, 64)


def test_diagnostics_arviz_and_zarr(bundled, x, tmp_path):
    physics = Denoising(GaussianNoise(0.1))
    posterior = pv.restore(physics(x), physics, bundled, VBLExz, num_fits=2, **FAST)
    assert d.coverage_curve(posterior, x, num_samples=20).num_pixels == 3 * 54 * 54
    assert d.crps(posterior, x, num_samples=20).device == x.device
    there = pv.restore(physics(x).cuda(), physics, bundled, VBLExz, **FAST)  # whose results stay there
    for score in (d.crps, d.interval_score):
        assert score(there, x.cuda(), num_samples=20).is_cuda
    assert posterior.to_arviz(8, truth=x).posterior["image"].shape[:2] == (2, 4)
    posterior.fits[0].to_zarr(tmp_path / "draws.zarr", 5)
    assert d.importance_sampling(posterior.fits[0], 30).mean.device == x.device
    with pytest.warns(UserWarning, match="knows little"):
        calibration = d.Calibration.fit([posterior.fits[0]], [x], num_samples=20)
    low, high = posterior.fits[0].calibrated(calibration).interval(0.9, 20)
    assert bool((low <= high).all())


def test_semi_blind_and_chains(bundled, x):
    physics = GaussianBlur(1.0, radius=5, noise_model=GaussianNoise(0.1))
    priors = {"sigma": dist.HalfNormal(0.2), "width": dist.LogNormal(0.0, 0.5)}
    posterior = pv.restore(physics(x), physics, bundled, VBLE, physics_priors=priors, **FAST)
    assert posterior.sample_latents(3)["sigma"].shape == (3, 1)
    chains = pv.reference_posterior(
        posterior, num_samples=4, num_warmup=40, num_chains=2, max_tree_depth=2, progress=False
    )
    assert chains.image.shape == (2, 4, 1, 3, 64, 64)


def test_simulations_and_comparison(bundled, x):
    physics = Denoising(GaussianNoise(0.1))
    options = {"num_simulations": 2, "num_draws": 5, "batch_size": 2, "progress": False, "num_steps": 2}
    found = d.simulation_based_calibration(bundled, physics, VBLExz, image_shape=(3, 64, 64), **options)
    assert found.ranks["z"].shape == (2, 16)
    table = pv.compare_guides(physics(x), physics, bundled, [VBLE], truth=x, num_samples=30, **FAST)
    assert table.loc["VBLE", "psnr"] > 0
