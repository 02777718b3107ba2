"""A grown network computes what the small one did."""

import copy
import math

import pyro
import pytest
import torch
from helpers import ARCHITECTURES, small_network
from pyro import poutine

from pyro_vble.models import CAE, DecoderStd, grown
from pyro_vble.training import NegativeELBO

ALPHA, SHAPE = 0.025, (3, 64, 128)


def small_prior(architecture: str = "MeanScaleHyperprior") -> CAE:
    """A prior whose channels all read each other, with a decoder of standard deviations."""
    network = small_network(architecture)
    std = DecoderStd(copy.deepcopy(network.g_s))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for module in (network, std):
            for name, weight in module.named_parameters():
                if name.endswith("gamma"):
                    weight += 0.1 * torch.rand_like(weight)
        prior = CAE(network, ALPHA, decoder_std=std).double()
        for weight in prior.parameters():
            weight *= 1 + 1e-9 * torch.rand_like(weight)  # what single precision could not hold
    return prior


def larger(prior: CAE) -> CAE:
    one_width = type(prior.network).__name__.startswith("Cheng")
    return grown(prior, N=11) if one_width else grown(prior, N=11, M=17)


def parts(prior: CAE, grown_prior: CAE):
    """Images, and noisy encodings of the grown prior whole and cut down to the old channels."""
    x = torch.rand(2, *SHAPE, dtype=torch.float64)
    with torch.no_grad():
        sites = {name: centre + torch.rand_like(centre) - 0.5 for name, centre in grown_prior.encode(x).items()}
        channels = {name: centre.shape[1] for name, centre in prior.encode(x).items()}
    return x, sites, {name: value[:, : channels[name]] for name, value in sites.items()}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
class TestSameFunction:
    def test_of_the_encoder(self, architecture):
        prior = small_prior(architecture)
        x, sites, old = parts(prior, larger(prior))
        with torch.no_grad():
            before, after = prior.encode(x), larger(prior).encode(x)
        for name in before:
            torch.testing.assert_close(after[name][:, : before[name].shape[1]], before[name])
            assert sites[name].shape[1] > old[name].shape[1]

    def test_of_both_decoders_whatever_the_new_latents_are(self, architecture):
        prior = small_prior(architecture)
        _, sites, old = parts(prior, larger(prior))
        with torch.no_grad():
            torch.testing.assert_close(larger(prior).decode(5 * sites["z"], SHAPE), prior.decode(5 * old["z"], SHAPE))

    def test_of_the_density_of_the_old_latents_whatever_the_new_ones_are(self, architecture):
        prior = small_prior(architecture)
        _, sites, old = parts(prior, larger(prior))
        before, after = log_densities(prior, old), log_densities(larger(prior), sites)
        for name, density in before.items():
            torch.testing.assert_close(after[name][:, : density.shape[1]], density, rtol=1e-6, atol=1e-6)

    def test_what_new_latents_cost(self, architecture):
        """Under the encoder's noise, in bits: 2 sigma times the integral of -log2 of the normal distribution function.

        At CompressAI's bound of .11 that is .15.
        """
        prior = small_prior(architecture)
        _, sites, old = parts(prior, larger(prior))
        latents = old["z"].shape[1]
        sites["z"][:, latents:] = torch.rand_like(sites["z"][:, latents:]) - 0.5
        bits = -log_densities(larger(prior), sites)["z"][:, latents:] / math.log(2)
        error = float(bits.std()) / bits.numel() ** 0.5
        t = torch.linspace(0, 12, 20001, dtype=torch.float64)
        expected = float(2 * 0.11 * torch.trapezoid(-torch.special.log_ndtr(t), t) / math.log(2))
        assert expected == pytest.approx(0.15, abs=0.01)
        assert float(bits.mean()) == pytest.approx(expected, abs=4 * error)

    def test_new_latents_are_encoded_to_almost_nothing(self, architecture):
        """Also of a network whose latents are as large as those of a trained one."""
        prior = small_prior(architecture)
        x = torch.rand(2, 3, 64, 64, dtype=torch.float64)
        before = prior.encode(x)["z"].std()
        last = [layer for layer in prior.network.g_a.modules() if isinstance(layer, torch.nn.Conv2d)][-1]
        with torch.no_grad():
            last.weight *= 5 / float(before)
        z, latents = larger(prior).encode(x)["z"], prior.network.M
        assert float(z[:, latents:].abs().mean()) < 0.15 * float(z[:, :latents].abs().mean())

    def test_it_can_be_trained(self, architecture):
        """All that joins new channels to old ones has a gradient, though the weights are zero."""
        prior = small_prior(architecture)
        network = larger(prior).requires_grad_(True).network
        NegativeELBO(CAE(network, ALPHA))(torch.rand(2, 3, 64, 64, dtype=torch.float64)).backward()
        convolutions = torch.nn.Conv2d | torch.nn.ConvTranspose2d
        first = next(module for module in network.g_s.modules() if isinstance(module, convolutions))
        gradient = first.weight.grad.movedim(0 if isinstance(first, torch.nn.ConvTranspose2d) else 1, 0)
        assert (gradient[prior.network.M :].flatten(1).norm(dim=1) > 0).all()


def log_densities(prior: CAE, sites) -> dict:
    """log p of every value of h and z."""

    def program():
        with pyro.plate("image", 2, dim=-1):
            return prior.latent(SHAPE)

    trace = poutine.trace(poutine.condition(program, sites)).get_trace()
    found = {}
    with torch.no_grad():
        for name in ("h", "z"):
            fn = trace.nodes[name]["fn"]
            while hasattr(fn, "base_dist"):
                fn = fn.base_dist
            found[name] = elementwise(fn, sites[name])
    return found


def elementwise(fn, value):
    conditional = getattr(fn, "conditional", None)
    return (conditional(value) if conditional else fn).log_prob(value)


def test_the_small_prior_stays_as_it_is():
    prior = small_prior()
    before = copy.deepcopy(prior.state_dict())
    grown(prior, N=9)
    assert all(torch.equal(value, before[key]) for key, value in prior.state_dict().items())


def test_it_keeps_what_else_makes_a_prior():
    prior = CAE(small_network(), ALPHA, distortion="sum", rate_scale=0.5)
    assert grown(prior, M=13).settings == prior.settings
    assert (grown(prior, M=13).network.N, grown(prior, M=13).network.M) == (8, 13)


def test_the_seed_makes_the_new_weights():
    prior = small_prior()
    one, same, other = (grown(prior, 9, 13, seed=seed).network.g_a[0].weight for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


class TestMistakes:
    def test_a_smaller_size(self):
        with pytest.raises(ValueError, match="M must be at least the 12 that it has; received 8"):
            grown(small_prior(), N=9, M=8)

    def test_a_size_that_fits_no_memory(self):
        with pytest.raises(ValueError, match="N must be at most 4096; received 2147483647"):
            grown(small_prior(), N=2**31 - 1)

    def test_no_autoencoder(self):
        with pytest.raises(TypeError, match="a CAE"):
            grown(torch.nn.Linear(1, 1), N=9)

    def test_latents_of_a_network_of_one_width(self):
        with pytest.raises(ValueError, match="have no M"):
            grown(small_prior("Cheng2020Anchor"), N=9, M=10)

    def test_a_decoder_of_standard_deviations_of_other_layers(self):
        prior = CAE(small_network(), decoder_std=torch.nn.ConvTranspose2d(12, 3, 16, 16))
        with pytest.raises(ValueError, match="must be a DecoderStd"):
            grown(prior, N=9)
        prior = CAE(small_network(), decoder_std=DecoderStd(torch.nn.ConvTranspose2d(12, 3, 16, 16)))
        with pytest.raises(ValueError, match="must have the layers"):
            grown(prior, N=9)
