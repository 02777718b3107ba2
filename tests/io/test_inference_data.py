import errno

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
    assert str(idata.constant_data["operator"].values) == "Denoising + GaussianNoise(sigma=0.1)"
    assert idata.prior["image"].shape == idata.prior_predictive["y"].shape == (1, 12, 2, 3, 64, 64)
    draws = next(posterior.draws(12))
    np.testing.assert_allclose(idata.sample_stats["log_p"][0].values, draws.log_joint.numpy(), rtol=1e-6)
    np.testing.assert_allclose(idata.sample_stats["log_q"][0].values, draws.log_guide.numpy(), rtol=1e-6)
    np.testing.assert_array_equal(idata.log_likelihood["y"][0].values, draws.log_likelihood.numpy())
    np.testing.assert_array_equal(idata.posterior_predictive["y"][0].values, posterior.predictive(12).numpy())
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
    with pytest.raises(ValueError, match="include must be a list of groups"):
        posterior.to_arviz(3, include=["posterier"])
    with pytest.raises(ValueError, match="one value for each of the image's 64"):
        posterior.to_arviz(3, coords={"row": np.arange(3)})
    with pytest.raises(ValueError, match="coords must be those of"):
        posterior.to_arviz(3, coords={"time": np.arange(3)})


def test_groups_as_asked_and_latents(posterior):
    idata = posterior.to_arviz(4, include=["posterior", "latents"])
    assert idata.groups() == ["posterior"]
    latents = posterior.sample_latents(4)
    assert idata.posterior["z"].shape == (1, *latents["z"].shape)
    assert set(idata.posterior.data_vars) == {"image", "h", "z", "x_decentered"}


def test_coordinates_of_ones_own_are_cut_with_the_region(posterior):
    north = np.linspace(5e6, 4e6, 64)
    idata = posterior.to_arviz(2, region=(slice(8, 10), slice(0, 3)), coords={"row": north, "band": ["r", "g", "b"]})
    np.testing.assert_array_equal(idata.posterior.coords["row"].values, north[8:10])
    assert idata.posterior.coords["band"].values.tolist() == ["r", "g", "b"]


def test_without_an_operator_there_are_groups_that_need_none(posterior, cae, tmp_path):
    posterior.save(tmp_path / "fit.pvble")
    loaded = pv.load_posterior(tmp_path / "fit.pvble", prior=cae)
    idata = loaded.to_arviz(3)
    assert set(idata.groups()) == {"posterior", "prior", "observed_data", "constant_data"}
    np.testing.assert_array_equal(idata.posterior["image"][0].values, posterior.sample(3).numpy())
    with pytest.raises(ValueError, match="need the forward operator"):
        loaded.to_arviz(3, include=["log_likelihood"])


def test_streamed_to_zarr_and_opened_lazily(posterior, tmp_path, monkeypatch):
    monkeypatch.setattr("pyro_vble.samples.posterior._PIXELS_AT_ONCE", {"cpu": 5 * 2 * 64 * 64})  # chunks of 5 draws
    truth = torch.rand(2, 3, 64, 64)
    posterior.to_zarr(tmp_path / "draws.zarr", 12, truth=truth, include=None)
    opened, held = pv.open_zarr(tmp_path / "draws.zarr"), posterior.to_arviz(12, truth=truth)
    assert set(opened.groups()) == set(held.groups())
    for group in held.groups():
        for name in held[group]:
            np.testing.assert_array_equal(opened[group][name].values, held[group][name].values)
            assert opened[group][name].dims == held[group][name].dims
    assert not opened.posterior["image"].variable._in_memory
    assert opened.attrs["sample_dims"] == ["chain", "draw"]
    with pytest.raises(FileExistsError, match="not overwritten"):
        posterior.to_zarr(tmp_path / "draws.zarr", 3)


def test_a_store_appears_whole_or_not_at_all(posterior, tmp_path, monkeypatch):
    monkeypatch.setattr(type(posterior), "_predictive_chunks", lambda *a: (_ for _ in ()).throw(RuntimeError("full")))
    with pytest.raises(RuntimeError, match="full"):
        posterior.to_zarr(tmp_path / "draws.zarr", 3)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError, match="No Zarr store"):
        pv.open_zarr(tmp_path / "draws.zarr")


def test_missing_values_are_told_of_by_none(cae):
    import warnings

    y = torch.rand(1, 3, 64, 64)
    y[..., 8:24, :] = torch.nan
    posterior = pv.restore(y, PHYSICS, cae, num_steps=2, seed=0, progress=False)
    idata = posterior.to_arviz(30, region=(slice(20, 28), slice(0, 8)))
    assert idata.log_likelihood["y"].shape == (1, 30, 3 * 4 * 8)
    places = idata.observed_data.coords["y_observed"].values
    np.testing.assert_array_equal(idata.observed_data["y"], y[..., 20:28, :8].flatten()[places])
    assert not np.isnan(idata.posterior_predictive["y"]).any()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert np.isfinite(az.loo(idata).elpd_loo)


class TestStores:
    def test_a_failed_stream_leaves_nothing_and_an_old_store_stays(self, cae, tmp_path, monkeypatch):
        posterior = pv.restore(torch.rand(1, 3, 64, 64), PHYSICS, cae, num_steps=2, seed=0, progress=False)
        posterior.to_zarr(tmp_path / "whole.zarr", 3, include=["posterior"])
        with pytest.raises(FileExistsError, match=r"whole\.zarr exists"):
            posterior.to_zarr(tmp_path / "whole.zarr", 3)
        with pytest.raises(ValueError, match="include must be a list of groups"):
            posterior.to_zarr(tmp_path / "other.zarr", 3, include=["nothing"])

        def full(*args, **kwargs):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("xarray.Dataset.to_zarr", full)
        with pytest.raises(OSError, match=r"^\[Errno 28\] No space left on device: '.*/other\.zarr'$"):
            posterior.to_zarr(tmp_path / "other.zarr", 3, include=["posterior"])
        assert [path.name for path in tmp_path.iterdir()] == ["whole.zarr"]

    def test_folders_that_are_no_stores(self, tmp_path):
        (tmp_path / "a").mkdir()
        (tmp_path / "b" / "posterior").mkdir(parents=True)
        (tmp_path / "b" / "zarr.json").write_text("{")
        for name in ("a", "b"):
            with pytest.raises(ValueError, match=r"must be a whole folder that Posterior\.to_zarr wrote"):
                pv.open_zarr(tmp_path / name)
        with pytest.raises(FileNotFoundError, match="No Zarr store"):
            pv.open_zarr(tmp_path / "c")
        with pytest.raises(TypeError, match="path must be a path"):
            pv.open_zarr(3)
