"""The library as one of deepinv's reconstruction methods."""

import subprocess
import sys

import deepinv
import pytest
import torch

import pyro_vble as pv
from pyro_vble.guides import VBLE, MAPz

SETTINGS = {"num_steps": 4, "num_samples": 6, "seed": 0}


@pytest.fixture(scope="module")
def physics():
    return deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))


@pytest.fixture(scope="module")
def y():
    return torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def test_it_is_restore(y, physics):
    model = pv.deepinv.VBLEReconstructor("vae-mnist", VBLE, **SETTINGS)
    found = model(y, physics)
    posterior = pv.restore(y, physics, "vae-mnist", guide=VBLE, num_steps=4, seed=0, progress=False, device="cpu")
    assert torch.equal(found, posterior.mmse_x(6))
    assert model.posterior is not None
    mean, variance = model.sample(y, physics)
    assert torch.equal(mean, found)
    torch.testing.assert_close(variance, posterior.std(6) ** 2)


def test_settings_of_a_call_go_before_its_own(y, physics):
    model = pv.deepinv.VBLEReconstructor("vae-mnist", MAPz, estimate="mmse_z", **SETTINGS)
    first = model(y, physics)
    more = model(y, physics, num_steps=40)
    assert float((first - more).abs().max()) > 1e-3
    with pytest.raises(TypeError, match="has no argument 'steps'"):
        model(y, physics, steps=3)


def test_it_is_a_reconstructor_that_deepinv_tests(physics):
    model = pv.deepinv.VBLEReconstructor("vae-mnist", **SETTINGS)
    assert isinstance(model, deepinv.models.Reconstructor)
    x = pv.load_prior("vae-mnist").sample(2, latent_image=False).clamp(0, 1)
    pairs = torch.utils.data.TensorDataset(x, physics(x))
    found = deepinv.test(
        model, torch.utils.data.DataLoader(pairs, batch_size=2), physics, verbose=False, show_progress_bar=False
    )
    expected = deepinv.metric.PSNR()(model(pairs.tensors[1], physics), x).mean()
    assert found["PSNR"] == pytest.approx(float(expected), abs=1e-3)


def test_missing_values_and_no_gradients_of_the_caller_are_no_matter(y, physics):
    model = pv.deepinv.VBLEReconstructor("vae-mnist", **SETTINGS)
    y = y.clone()
    y[..., 3, 3] = torch.nan
    with torch.inference_mode():
        assert bool(model(y, physics).isfinite().all())


def test_what_is_no_prior_or_estimate_is_told():
    with pytest.raises(TypeError, match="prior must be a generative prior"):
        pv.deepinv.VBLEReconstructor(3)
    with pytest.raises(ValueError, match="estimate must be one of 'mmse_x', 'mmse_z'"):
        pv.deepinv.VBLEReconstructor("vae-mnist", estimate="median")


def test_it_is_imported_when_asked_for():
    code = (
        "import sys, pyro_vble; assert 'deepinv' not in sys.modules; assert pyro_vble.baselines and pyro_vble.deepinv"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
