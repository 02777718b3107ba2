"""What every prior must keep, whatever its networks."""

import pyro
import pytest
import torch
from deepinv.physics import Denoising, GaussianNoise
from helpers import ARCHITECTURES, small_network
from pyro import poutine

import pyro_vble as pv
from pyro_vble.models import CAE, convolutional_vae
from pyro_vble.models.freezing import frozen
from pyro_vble.models.turned import Turn, TurnedPrior

SIZE = (64, 64)


class PriorContract:
    """Subclasses say which prior; the tests are shared."""

    bands = (1, 2, 3)

    @pytest.fixture
    def prior(self):
        raise NotImplementedError

    def test_encoding_names_the_models_latents(self, prior):
        for bands in self.bands:
            shape = (bands, *SIZE)
            latents = prior.encode(torch.rand(2, *shape))
            with pyro.plate("image", 2, dim=-1):
                trace = poutine.trace(prior).get_trace(shape, latent_image=False)
            sites = {name: trace.nodes[name]["value"].shape for name in latents}
            assert sites == {name: value.shape for name, value in latents.items()}
            assert torch.isfinite(trace.log_prob_sum())

    def test_decoding_gives_images_and_positive_standard_deviations(self, prior):
        for bands in self.bands:
            shape = (bands, *SIZE)
            z = prior.encode(torch.rand(2, *shape))["z"]
            mean, std = prior.decode(z, shape)
            assert mean.shape == std.shape == (2, *shape)
            assert mean.isfinite().all()
            assert bool((std > 0).all())

    def test_samples_are_drawn_ancestrally(self, prior):
        for bands in self.bands:
            assert prior.sample(3, (bands, *SIZE)).shape == (3, bands, *SIZE)

    def test_variance_of_latents_is_positive(self, prior):
        shape = (self.bands[-1], *SIZE)
        latents = prior.encode(torch.rand(1, *shape))
        for site, variance in prior.latent_variance(latents, shape).items():
            assert variance.shape == latents[site].shape
            assert bool((variance > 0).all())

    def test_frozen_it_is_the_same_function(self, prior):
        shape = (self.bands[-1], *SIZE)
        x = torch.rand(1, *shape)
        copy = frozen(prior)
        torch.testing.assert_close(copy.encode(x)["z"], prior.eval().encode(x)["z"], rtol=1e-4, atol=1e-4)
        z = prior.encode(x)["z"].detach()
        torch.testing.assert_close(copy.decode_mean(z, shape), prior.decode_mean(z, shape), rtol=1e-4, atol=1e-4)
        assert not any(p.requires_grad for p in copy.parameters())

    def test_it_restores(self, prior):
        y = torch.rand(1, self.bands[-1], *SIZE)
        posterior = pv.restore(y, Denoising(GaussianNoise(0.1)), prior, num_steps=2, seed=0, progress=False)
        assert posterior.mmse_x(2).isfinite().all()


class TestMeanScaleHyperprior(PriorContract):
    @pytest.fixture
    def prior(self):
        return CAE(small_network("MeanScaleHyperprior"), alpha=0.025)


class TestScaleHyperprior(PriorContract):
    @pytest.fixture
    def prior(self):
        return CAE(small_network("ScaleHyperprior"), alpha=0.025)


class TestContextModel(PriorContract):
    bands = (3,)

    @pytest.fixture
    def prior(self):
        assert "JointAutoregressiveHierarchicalPriors" in ARCHITECTURES
        return CAE(small_network("JointAutoregressiveHierarchicalPriors"), alpha=0.025)


class TestConvolutionalVAE(PriorContract):
    @pytest.fixture
    def prior(self):
        return convolutional_vae((3, *SIZE), num_latents=4, channels=(4, 4))


class TestRateScale(PriorContract):
    @pytest.fixture
    def prior(self):
        return CAE(small_network(), alpha=0.025, rate_scale=0.5)


class TestTurnedCAE(PriorContract):
    @pytest.fixture
    def prior(self):
        return TurnedPrior(CAE(small_network(), alpha=0.025), Turn(mirrored=True, quarters=1))


class TestTurnedContextModel(PriorContract):
    bands = (3,)

    @pytest.fixture
    def prior(self):
        return TurnedPrior(CAE(small_network("JointAutoregressiveHierarchicalPriors"), alpha=0.025), Turn(quarters=3))
