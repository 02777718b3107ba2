"""Coordinates of chains: the density that they have, and what they are for."""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from deepinv.physics import Denoising, GaussianNoise

import pyro_vble as pv
from pyro_vble.diagnostics._coordinates import Coordinates
from pyro_vble.guides import VBLE, VBLExz
from pyro_vble.models import CAE
from pyro_vble.seeding import seeded


@pytest.fixture(scope="module")
def fitted():
    """A semi-blind fit with all kinds of sites, in double precision: h, z that depends on it, a positive parameter."""
    from helpers import small_network

    prior = CAE(small_network().double(), alpha=0.01)
    torch.manual_seed(0)
    y = torch.rand(1, 3, 20, 20, dtype=torch.float64)
    guide = partial(VBLE, family="gaussian")
    how = {"num_steps": 20, "seed": 0, "precision": "float64", "progress": False}
    physics = Denoising(GaussianNoise(0.1))
    return pv.restore(y, physics, prior, guide, physics_priors={"sigma": dist.HalfNormal(1.0)}, **how)


@pytest.fixture(scope="module")
def coordinates(fitted):
    return Coordinates(fitted.fits, 0)


def test_density_is_the_models_with_the_jacobian(fitted, coordinates):
    with seeded(0):
        position = coordinates.start(2)
    _, latents = coordinates.images_and_latents(position)
    y = fitted.y.expand(2, -1, -1, -1)
    trace = pyro.poutine.trace(pyro.poutine.condition(fitted.model, data=latents)).get_trace(y)
    trace.compute_log_prob()
    joint = sum(trace.nodes[name]["log_prob"] for name in ("sigma", "h", "z", "y"))

    def flat(one):
        from pyro_vble.diagnostics._coordinates import _Placed

        placed = _Placed(coordinates, one[None])
        with placed:
            fitted.model.unmeasured(fitted.y)
        return torch.cat([value.reshape(-1) for value in placed.values.values()])

    jacobian = torch.stack([torch.autograd.functional.jacobian(flat, one).slogdet()[1] for one in position])
    torch.testing.assert_close(coordinates.log_density(position), joint + jacobian, rtol=1e-9, atol=1e-7)


def test_chains_start_at_draws_of_the_guide(fitted, coordinates):
    with seeded(0):
        position = coordinates.start(3)
    with seeded(0):
        drawn = fitted.latents(3)
    image, latents = coordinates.images_and_latents(position)
    assert image.shape == (3, 3, 20, 20)
    assert set(latents) == {"sigma", "h", "z"}
    for name, value in latents.items():
        torch.testing.assert_close(value, drawn[name][:, 0])


def test_z_moves_along_with_h_where_nothing_is_told_of_it(fitted, coordinates):
    """Beyond the image's 20 pixels, of 64 in the network, p(z|y, h) is p(z|h)."""
    free = coordinates.precision["z"] == 0
    assert 0.1 < float(free.double().mean()) < 1
    with seeded(0):
        position = coordinates.start(1)
    _, before = coordinates.images_and_latents(position)
    moved = position + 3 * torch.randn_like(position) * (torch.arange(position.shape[1]) < 1 + 8)
    _, after = coordinates.images_and_latents(moved)

    def standard(latents):
        prior = fitted.model.prior.p_z(latents["h"], (3, 20, 20)).base_dist
        return ((latents["z"] - prior.mean) / prior.variance.sqrt())[0][free]

    assert float((before["z"] - after["z"]).abs().max()) > 0
    torch.testing.assert_close(standard(before), standard(after))


@pytest.mark.parametrize("guide", [VBLE, VBLExz])
def test_information_is_that_of_a_linear_gaussian_model(guide):
    from helpers import MatrixPhysics, linear_vae

    torch.manual_seed(0)
    weight, matrix = torch.randn(9, 2, dtype=torch.float64), torch.randn(6, 9, dtype=torch.float64)
    prior = linear_vae(weight, torch.zeros(9), 0.4, (1, 3, 3))
    y, physics = torch.randn(1, 6, dtype=torch.float64), MatrixPhysics(matrix, GaussianNoise(0.5))
    how = {"image_shape": (1, 3, 3), "precision": "float64", "num_steps": 100, "seed": 0, "progress": False}
    coordinates = Coordinates(pv.restore(y, physics, prior, guide, **how).fits, 0)
    size = 2 if guide is VBLE else 2 + 9
    with seeded(0):
        found, rest = coordinates.information(torch.zeros(4000, size, dtype=torch.float64), at_once=1000)
    effect, width = matrix @ weight * coordinates.width["z"] / 0.5, coordinates.width["z"]
    expected = effect.T @ effect + torch.diag(width.square().clamp(0.02, 1))
    scale = expected.diagonal().sqrt()
    assert float(((found - expected) / (scale[:, None] * scale)).abs().max()) < 0.1
    assert len(rest) == size - 2
    if guide is VBLExz:
        width = coordinates.width["x_decentered"].flatten()
        expected = (matrix * 0.4 * width / 0.5).square().sum(0) + width.square().clamp(0.02, 1)
        assert float((rest / expected - 1).abs().max()) < 0.1
