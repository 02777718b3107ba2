import arviz as az
import numpy as np
import pytest
import torch
from deepinv.physics import Denoising, Downsampling, GaussianNoise

import pyro_vble as pv
from pyro_vble.guides import VBLExz

PHYSICS = Denoising(GaussianNoise(0.1))


@pytest.fixture
def posterior(cae):
    return pv.restore(torch.rand(2, 3, 64, 64), PHYSICS, cae, guide=VBLExz, num_steps=3, seed=0, progress=False)


def test_groups_dims_and_values(posterior, tmp_path):
    truth = torch.rand(2, 3, 64, 64)
    idata = posterior.to_arviz(12, truth=truth)
    image = idata.posterior["image"]
    assert image.dims == ("chain", "draw", "image_batch", "band", "row", "col")
    np.testing.assert_array_equal(image[0].values, posterior.sample(12).numpy())
    assert idata.observed_data["y"].shape == (2, 3, 64, 64)
    assert idata.posterior_predictive["y"].shape == (1, 12, 2, 3, 64, 64)
    np.testing.assert_array_equal(idata.constant_data["truth"].values, truth.numpy())
    assert idata.attrs["guide"] == "VBLExz"
    idata.to_netcdf(str(tmp_path / "p.nc"))
    again = az.from_netcdf(str(tmp_path / "p.nc"))
    np.testing.assert_array_equal(again.posterior["image"].values, image.values)
    assert again.attrs["guide"] == "VBLExz"


def test_regions_keep_their_coordinates(posterior):
    idata = posterior.to_arviz(5, region=(slice(10, 14), slice(60, 64)))
    image = idata.posterior["image"]
    assert image.coords["row"].values.tolist() == [10, 11, 12, 13]
    assert image.coords["col"].values.tolist() == [60, 61, 62, 63]
    np.testing.assert_array_equal(image[0].values, posterior.sample(5)[..., 10:14, 60:64].numpy())
    assert idata.observed_data["y"].shape == (2, 3, 4, 4)
    summary = az.summary(idata, var_names=["image"], hdi_prob=0.9, kind="stats")
    assert len(summary) == 2 * 3 * 16


def test_measurements_of_another_size_are_kept_whole(cae):
    physics = Downsampling(img_size=(3, 64, 64), filter="bicubic", factor=2, noise_model=GaussianNoise(0.1))
    posterior = pv.restore(torch.rand(1, 3, 32, 32), physics, cae, num_steps=2, seed=0, progress=False)
    idata = posterior.to_arviz(3, region=(slice(0, 4), slice(0, 4)))
    assert idata.observed_data["y"].shape == (1, 3, 32, 32)


def test_errors(posterior):
    with pytest.raises(ValueError, match="at least one pixel"):
        posterior.to_arviz(3, region=(slice(64, 70), slice(0, 4)))
    with pytest.raises(ValueError, match="truth must have the image's shape"):
        posterior.to_arviz(3, truth=torch.rand(1, 3, 64, 64))
