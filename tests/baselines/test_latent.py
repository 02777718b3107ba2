"""MAP-z, CSGM and JPMAP on a linear prior, where all three are linear algebra."""

import deepinv
import pytest
import torch

from pyro_vble.baselines import csgm, jpmap, map_z
from pyro_vble.baselines.jpmap import log_density
from pyro_vble.models import VAE
from tests.helpers import linear_vae

SHAPE, LATENTS, STD, NOISE = (1, 4, 5), 3, 0.2, 0.1
PIXELS = 20
EVEN = torch.full((PIXELS,), STD, dtype=torch.float64)


class ExactEncoder(torch.nn.Module):
    """The mean of p(z|x) of a linear decoder."""

    def __init__(self, weight, offset, stds):
        super().__init__()
        scaled = weight / stds[:, None] ** 2
        gram = torch.eye(weight.shape[1]).double() + scaled.T @ weight
        self.register_buffer("back", torch.linalg.solve(gram, scaled.T))
        self.register_buffer("offset", offset)

    def forward(self, x):
        mean = (x.flatten(1) - self.offset) @ self.back.T
        return mean, torch.ones_like(mean)


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(0)
    weight = 0.2 * torch.randn(PIXELS, LATENTS, generator=generator, dtype=torch.float64)
    offset = torch.full((PIXELS,), 0.5, dtype=torch.float64)
    kernel = torch.outer(torch.tensor([0.1, 0.8, 0.1]), torch.tensor([0.25, 0.5, 0.25])).double()[None, None]
    physics = deepinv.physics.Blur(kernel, padding="reflect", noise_model=deepinv.physics.GaussianNoise(NOISE))
    x = (offset + torch.randn(2, LATENTS, generator=generator, dtype=torch.float64) @ weight.T).reshape(2, *SHAPE)
    y = physics.A(x) + NOISE * torch.randn(2, *SHAPE, generator=generator, dtype=torch.float64)
    matrix = physics.A(torch.eye(PIXELS, dtype=torch.float64).reshape(-1, *SHAPE)).flatten(1).T
    return weight, offset, physics, y, matrix


def latent_optimum(problem, ridge):
    weight, offset, _, y, matrix = problem
    a = matrix @ weight / NOISE
    b = (y.flatten(1) - offset @ matrix.T) / NOISE
    z = torch.linalg.solve(a.T @ a + ridge * torch.eye(LATENTS).double(), a.T @ b.T).T
    return (offset + z @ weight.T).reshape(y.shape)


@pytest.mark.parametrize(("method", "ridge"), [(map_z, 1.0), (csgm, 0.0)])
def test_points_in_latent_space_are_ridge_and_least_squares(problem, method, ridge):
    weight, offset, physics, y, _ = problem
    prior = linear_vae(weight, offset, STD, SHAPE)
    settings = {"num_steps": 200, "tolerance": None, "progress": False, "device": "cpu"}
    found = method(y, physics, prior, **settings)
    torch.testing.assert_close(found.mmse_z, latent_optimum(problem, ridge), rtol=0, atol=2e-3)
    assert float(found.std(4).max()) == 0


def joint_optimum(problem, stds=EVEN):
    weight, offset, _, y, matrix = problem
    covariance = weight @ weight.T + torch.diag(stds**2)
    precision = torch.linalg.inv(covariance) + matrix.T @ matrix / NOISE**2
    right = torch.linalg.inv(covariance) @ offset + y.flatten(1) @ matrix / NOISE**2
    return torch.linalg.solve(precision, right.T).T.reshape(y.shape)


@pytest.mark.parametrize(("exact", "num_latent_steps"), [(True, 0), (False, 12)])
def test_the_joint_mode_of_a_linear_prior_is_the_posterior_mean(problem, exact, num_latent_steps):
    # An exact encoder needs no gradient; one that says nothing leaves all to it.
    weight, offset, physics, y, _ = problem
    prior = linear_vae(weight, offset, STD, SHAPE)
    if exact:
        prior = VAE(ExactEncoder(weight, offset, EVEN), prior.decoder, (LATENTS,), STD)
    settings = {"num_iterations": 40, "num_latent_steps": num_latent_steps, "device": "cpu"}
    found = jpmap(y, physics, prior, **settings).mmse_x()
    torch.testing.assert_close(found, joint_optimum(problem), rtol=0, atol=5e-3)
    # The mode of the image alone is elsewhere than that of the latent.
    assert float((found - latent_optimum(problem, 1.0)).abs().max()) > 0.05


def test_a_width_that_differs_from_pixel_to_pixel_is_taken_as_it_is(problem):
    weight, offset, physics, y, _ = problem
    stds = torch.linspace(0.15, 0.4, PIXELS, dtype=torch.float64)

    class Widths(torch.nn.Module):
        def forward(self, z):
            return stds.reshape(1, *SHAPE).expand(len(z), *SHAPE)

    prior = linear_vae(weight, offset, STD, SHAPE)
    prior = VAE(ExactEncoder(weight, offset, stds), prior.decoder, (LATENTS,), Widths())
    found = jpmap(y, physics, prior, num_iterations=60, num_latent_steps=0, device="cpu").mmse_x()
    torch.testing.assert_close(found, joint_optimum(problem, stds), rtol=0, atol=1e-3)


def test_the_density_is_that_of_the_joint_gaussian(problem):
    weight, offset, *_ = problem
    prior = linear_vae(weight, offset, STD, SHAPE)
    z = torch.randn(2, LATENTS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x = torch.rand(2, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    expected = torch.distributions.Normal((offset + z @ weight.T).reshape(x.shape), STD).log_prob(x).sum((1, 2, 3))
    expected = expected + torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1)
    torch.testing.assert_close(log_density(prior, x, {"z": z}), expected)


def test_an_autoencoder_of_two_latents_is_restored_too(bundled, denoising):
    x = torch.full((1, 3, 64, 64), 0.5)
    x[..., 32:] = 0.8
    y = x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    found = jpmap(y, denoising, bundled, num_iterations=3, num_latent_steps=3, device="cpu").mmse_x()
    assert float((found - x).square().mean()) < 0.25 * float((y - x).square().mean())


def test_a_prior_that_is_none_is_told(denoising):
    with pytest.raises(TypeError, match="prior must be a generative prior"):
        jpmap(torch.rand(1, 1, 8, 8), denoising, 3)
