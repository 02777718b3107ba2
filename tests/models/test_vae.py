import pytest
import torch
from helpers import LinearEncoder, linear_vae
from torch import nn

from pyro_vble.models import VAE


def convolutional_vae(decoder_std=0.1) -> VAE:
    class Encoder(nn.Conv2d):
        def forward(self, x):
            mean = super().forward(x)
            return mean, torch.ones_like(mean)

    return VAE(Encoder(3, 4, 4, stride=4), nn.ConvTranspose2d(4, 3, 4, stride=4), (4, 5, 3), decoder_std)


def test_moments_of_ancestral_samples_are_the_linear_models():
    weight, offset = torch.randn(6, 2, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    prior = linear_vae(weight, offset, 0.3, (1, 2, 3))
    x = prior.sample(100_000).flatten(1)
    covariance = weight @ weight.T + 0.09 * torch.eye(6)
    error = 5 * float(covariance.diagonal().max()) / 100_000**0.5
    torch.testing.assert_close(x.mean(0), offset, rtol=0, atol=error)
    torch.testing.assert_close(torch.cov(x.T), covariance, rtol=0, atol=2 * error)


def test_convolutional_latents_and_per_pixel_variance():
    std = nn.Sequential(nn.ConvTranspose2d(4, 3, 4, stride=4), nn.Softplus())
    prior = convolutional_vae(std)
    assert prior.image_shape == (3, 20, 12)
    assert prior.sample(2).shape == (2, 3, 20, 12)
    x = torch.rand(2, 3, 20, 12)
    z = prior.encode(x)["z"]
    assert z.shape == (2, 4, 5, 3)
    _, sigma = prior.decode(z)
    torch.testing.assert_close(sigma, std(z))
    assert prior.decode(z.expand(7, 2, 4, 5, 3))[0].shape == (7, 2, 3, 20, 12)


@pytest.mark.parametrize("bands", [1, 2, 3])
def test_other_numbers_of_bands(bands):
    prior = convolutional_vae()
    x = torch.rand(2, bands, 20, 12)
    mean, std = prior.decode(prior.encode(x)["z"], (bands, 20, 12))
    assert mean.shape == std.shape == x.shape
    assert prior.sample(3, (bands, 20, 12)).shape == (3, bands, 20, 12)


def test_a_wrong_size_is_refused_with_the_size_it_takes():
    with pytest.raises(ValueError, match=r"20x12 pixels; received a problem whose image has 24x12"):
        convolutional_vae().sample(1, (24, 12))


def test_a_decoder_in_training_learns_nothing_from_being_asked_its_shape():
    decoder = torch.nn.Sequential(
        torch.nn.Linear(4, 64), torch.nn.BatchNorm1d(64), torch.nn.Dropout(), torch.nn.Unflatten(1, (1, 8, 8))
    )
    before, random = {k: v.clone() for k, v in decoder.state_dict().items()}, torch.get_rng_state()
    assert VAE(torch.nn.Identity(), decoder, (4,), 0.1).image_shape == (1, 8, 8)
    assert decoder.training
    assert torch.equal(torch.get_rng_state(), random)
    for key, value in decoder.state_dict().items():
        assert torch.equal(value, before[key])


def test_decoder_std_must_be_positive():
    with pytest.raises(ValueError, match=r"decoder_std must be positive, .*; received 0"):
        linear_vae(torch.ones(4, 2), torch.zeros(4), 0.0, (1, 2, 2))


def test_a_decoder_of_vectors_is_refused():
    with pytest.raises(ValueError, match="Unflatten"):
        VAE(LinearEncoder(4, 2), nn.Linear(2, 4), (2,), 0.1)
