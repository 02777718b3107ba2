"""Flips and quarter turns of a prior."""

import copy
import itertools

import pytest
import torch

from pyro_vble.models import convolutional_vae
from pyro_vble.models.freezing import frozen, is_frozen
from pyro_vble.models.turned import SYMMETRIES, TURNS, UPRIGHT, Turn, TurnedPrior, turn_of, upright

ALL = SYMMETRIES["dihedral"]


class TestTurn:
    def test_there_are_eight_which_differ(self):
        x = torch.rand(1, 4, 4)
        assert len({tuple(turn(x).flatten().tolist()) for turn in ALL}) == len(set(ALL)) == len(TURNS) == 8
        assert ALL[0] == SYMMETRIES["flip"][0] == UPRIGHT

    @pytest.mark.parametrize("name", SYMMETRIES)
    def test_they_are_a_group(self, name):
        group = set(SYMMETRIES[name])
        x = torch.rand(2, 3, 5)
        for a, b in itertools.product(group, group):
            assert a.after(b) in group
            assert torch.equal(a.after(b)(x), a(b(x)))
        for a in group:
            assert a.inverse in group
            assert a.after(a.inverse) == a.inverse.after(a) == UPRIGHT
            assert torch.equal(a.inverse(a(x)), x)

    @pytest.mark.parametrize("turn", ALL, ids=str)
    def test_shapes(self, turn):
        assert turn.of_shape((3, 4, 6)) == tuple(turn(torch.rand(3, 4, 6)).shape)


@pytest.mark.parametrize("turn", ALL, ids=str)
class TestTurnedPrior:
    @pytest.mark.parametrize("bands", [1, 2, 3])
    @pytest.mark.parametrize("size", [(64, 64), (40, 130)])
    def test_it_decodes_and_encodes_the_other_priors_images_turned(self, cae, turn, bands, size):
        prior, shape = TurnedPrior(cae, turn), (bands, *size)
        x = torch.rand(2, *shape)
        latents, own = prior.encode(x), cae.encode(turn.inverse(x))
        assert all(torch.equal(latents[site], own[site]) for site in own)
        mean, std = prior.decode(latents["z"], shape)
        own_mean, own_std = cae.decode(latents["z"], turn.inverse.of_shape(shape))
        assert mean.shape == std.shape == x.shape
        assert torch.equal(mean, turn(own_mean))
        assert torch.equal(std, turn(own_std))
        variance = prior.latent_variance(latents, shape)["z"]
        assert torch.equal(variance, cae.latent_variance(latents, turn.inverse.of_shape(shape))["z"])
        assert torch.equal(variance, prior.latent_moments(latents, shape)["z"][1])

    def test_standard_deviations_of_pixels_turn_with_them(self, turn):
        vae = convolutional_vae((3, 64, 64), num_latents=4, channels=(4, 4))
        vae.decoder_std = torch.nn.Sequential(copy.deepcopy(vae.decoder), torch.nn.Softplus())
        z = torch.randn(2, 4)
        for turned, own in zip(TurnedPrior(vae, turn).decode(z), vae.decode(z), strict=True):
            assert own.std() > 0
            assert torch.equal(turned, turn(own))

    def test_turned_further(self, cae, turn):
        for first in ALL:
            prior = TurnedPrior(TurnedPrior(cae, first), turn)
            assert prior.turn == turn.after(first)
            assert prior.prior is cae
            z = cae.encode(torch.rand(1, 3, 64, 64))["z"]
            assert torch.equal(prior.decode_mean(z), turn(first(cae.decode_mean(z))))

    def test_it_shares_networks_and_what_else_makes_the_prior(self, cae, turn):
        cae.name = "mine"
        prior = TurnedPrior(cae, turn)
        assert {id(p) for p in prior.parameters()} == {id(p) for p in cae.parameters()}
        assert (prior.name, prior.bands, prior.rate_scale) == ("mine", 3, 1)
        assert prior.settings == cae.settings | {"turn": str(turn)}
        scaled = prior.with_rate_scale((0.5, 1.0))
        assert (scaled.rate_scale, scaled.turn) == ((0.5, 1.0), turn)
        assert not is_frozen(prior)
        assert is_frozen(TurnedPrior(frozen(cae), turn))
        assert (turn_of(prior), upright(prior), turn_of(cae), upright(cae)) == (turn, cae, UPRIGHT, cae)

    def test_a_prior_of_one_size(self, turn):
        vae = convolutional_vae((1, 8, 16), num_latents=2, channels=(4,))
        prior = TurnedPrior(vae, turn)
        assert prior.image_shape == turn.of_shape((1, 8, 16))
        prior.validate_image_shape(prior.image_shape)
        assert prior.sample(2).shape == (2, *prior.image_shape)
        with pytest.raises(ValueError, match="makes images of"):
            prior.validate_image_shape((1, 8, 9))


def test_oblong_samples(cae):
    assert TurnedPrior(cae, Turn(quarters=1)).sample(2, (40, 70)).shape == (2, 3, 40, 70)
