import pytest
import torch
from deepinv.physics import Denoising, GaussianNoise
from helpers import small_network

import pyro_vble as pv
from pyro_vble.guides import VBLE, MAPz, VBLExz
from pyro_vble.models import CAE

PHYSICS = Denoising(GaussianNoise(0.1))


@pytest.mark.parametrize("guide", [VBLE, VBLExz, MAPz])
def test_round_trip_of_a_bundled_prior(tmp_path, guide):
    posterior = pv.restore(
        torch.rand(2, 3, 70, 64), PHYSICS, "cae-bsd", guide=guide, rate_scale=0.5, num_steps=3, seed=0, progress=False
    )
    posterior.save(tmp_path / "deep" / "fit.pvble")
    again = pv.load_posterior(tmp_path / "deep" / "fit.pvble", physics=PHYSICS)
    assert torch.equal(again.mmse_x(4), posterior.mmse_x(4))
    assert torch.equal(again.mmse_z, posterior.mmse_z)
    assert torch.equal(again.elbo, posterior.elbo)
    assert torch.equal(again.predictive(2), posterior.predictive(2))
    assert again.model.prior.rate_scale == 0.5
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["fit.pvble"]


def test_round_trip_of_a_vae_with_one_standard_deviation(tmp_path):
    from pyro_vble.io.prior_files import save_prior
    from pyro_vble.models import convolutional_vae

    save_prior(
        convolutional_vae((1, 28, 28), num_latents=4, channels=(8,), decoder_std=0.2), tmp_path / "p.safetensors"
    )
    prior = pv.load_prior(tmp_path / "p.safetensors")
    posterior = pv.restore(torch.rand(1, 1, 28, 28), PHYSICS, prior, num_steps=2, seed=0, progress=False)
    posterior.save(tmp_path / "fit.pvble")
    assert torch.equal(pv.load_posterior(tmp_path / "fit.pvble").mmse_x(3), posterior.mmse_x(3))


def test_a_prior_of_ones_own_is_asked_for_and_checked(cae, tmp_path):
    path = tmp_path / "fit.pvble"
    posterior = pv.restore(torch.rand(1, 3, 64, 64), PHYSICS, cae, num_steps=2, seed=0, progress=False)
    posterior.save(path)
    assert torch.equal(pv.load_posterior(path, prior=cae).mmse_x(3), posterior.mmse_x(3))
    with pytest.raises(ValueError, match="pass prior="):
        pv.load_posterior(path)
    other = small_network()
    with torch.no_grad():
        next(other.g_s.parameters()).add_(0.1)
    with pytest.raises(ValueError, match="must be the one that the posterior was fitted with"):
        pv.load_posterior(path, prior=CAE(other, 0.025))


def test_settings_of_the_prior_are_part_of_it(tmp_path):
    path = tmp_path / "fit.pvble"
    prior = pv.load_prior("cae-bsd", alpha=0.1)
    posterior = pv.restore(torch.rand(1, 3, 64, 64), PHYSICS, prior, guide=VBLExz, num_steps=2, seed=0, progress=False)
    posterior.save(path)
    assert torch.equal(pv.load_posterior(path).std(4), posterior.std(4))
    with pytest.raises(ValueError, match=r"'alpha': 0.1.*received .*'alpha': 0.025"):
        pv.load_posterior(path, prior=pv.load_prior("cae-bsd"))


def test_the_operator_is_brought_to_the_posteriors_precision(tmp_path):
    from pyro_vble.physics.problems import deblurring, gaussian_kernel

    physics = deblurring(0.1, gaussian_kernel(1.0))
    posterior = pv.restore(
        torch.rand(1, 3, 64, 64), physics, "cae-bsd", num_steps=2, seed=0, progress=False, precision="float64"
    )
    posterior.save(tmp_path / "fit.pvble")
    again = pv.load_posterior(tmp_path / "fit.pvble", physics=physics, device="auto")
    assert again.predictive(2).dtype == torch.float64
    assert physics.filter.dtype == torch.float32


def test_without_operator_predictions_say_what_is_missing(cae, tmp_path):
    posterior = pv.restore(torch.rand(1, 3, 64, 64), PHYSICS, cae, num_steps=2, seed=0, progress=False)
    posterior.save(tmp_path / "fit.pvble")
    with pytest.raises(ValueError, match=r"pass\s+physics="):
        pv.load_posterior(tmp_path / "fit.pvble", prior=cae).predictive(1)


def test_damaged_and_foreign_files(cae, tmp_path):
    path = tmp_path / "fit.pvble"
    pv.restore(torch.rand(1, 3, 64, 64), PHYSICS, cae, num_steps=2, seed=0, progress=False).save(path)
    truncated = tmp_path / "truncated.pvble"
    truncated.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="may be truncated"):
        pv.load_posterior(truncated)
    from safetensors.torch import save_file

    save_file({"a": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"Posterior\.save"):
        pv.load_posterior(tmp_path / "other.safetensors")
    with pytest.raises(FileNotFoundError, match=r"none\.pvble"):
        pv.load_posterior(tmp_path / "none.pvble")


def test_a_guide_of_ones_own_cannot_be_saved(cae, tmp_path):
    class Mine(VBLE):
        pass

    posterior = pv.restore(torch.rand(1, 3, 64, 64), PHYSICS, cae, guide=Mine, num_steps=2, progress=False)
    with pytest.raises(TypeError, match=r"received Mine; save guide\.state_dict"):
        posterior.save(tmp_path / "fit.pvble")
    assert list(tmp_path.iterdir()) == []
