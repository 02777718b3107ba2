"""Simulation-based calibration: the exact posterior passes, one of half the width fails."""

import matplotlib
import numpy as np
import pyro.distributions as dist
import pytest
import torch
from deepinv.physics import Denoising, GaussianNoise
from helpers import MatrixPhysics, linear_vae

from pyro_vble.diagnostics import plot_sbc, sbc, simulation_based_calibration
from pyro_vble.diagnostics.sbc import patch_means, spread
from pyro_vble.guides import VBLE, VBLExz

matplotlib.use("Agg")


class LinearGaussian:
    """x = W z + s e, y = A x + t w, and samples of p(x, z | y) with its widths times a factor."""

    def __init__(self, seed: int, widths: float = 1.0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.W, self.A = (torch.randn(*shape, generator=generator).double() for shape in ((16, 3), (9, 16)))
        self.s, self.t, self.widths = 0.3, 0.5, widths
        joint = torch.cat((self.W, self.s * torch.eye(16, dtype=torch.float64)), 1)  # x = joint (z, e)
        self.joint = joint
        precision = torch.eye(19, dtype=torch.float64) + (self.A @ joint).T @ (self.A @ joint) / self.t**2
        self.covariance = torch.linalg.inv(precision)
        self.gain = self.covariance @ (self.A @ joint).T / self.t**2

    def values(self, latents):
        return {"x": (latents @ self.joint.T).unflatten(-1, (1, 4, 4)), "z": latents[..., :3]}

    def simulator(self, n):
        latents = torch.randn(n, 19, dtype=torch.float64)
        y = latents @ (self.A @ self.joint).T + self.t * torch.randn(n, 9, dtype=torch.float64)
        return self.values(latents), y

    def sampler(self, y, n):
        root = torch.linalg.cholesky(self.covariance)
        noise = torch.randn(n, len(y), 19, dtype=torch.float64) @ root.T
        return self.values(y @ self.gain.T + self.widths * noise)


QUANTITIES = {
    "pixel": lambda v: spread(v["x"].flatten(-3), 4),
    "patch mean": lambda v: patch_means(v["x"], 2).flatten(-3),
    "latent": lambda v: v["z"],
}


def test_places_among_more_values_than_a_float_counts():
    values = torch.zeros(1, 1, dtype=torch.int8).expand(1, 25_000_000)  # one value of memory
    assert spread(values, 4096).shape == (1, 4096)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_exact_posterior_passes_and_half_its_width_fails(seed):
    settings = {"num_simulations": 400, "num_draws": 49, "batch_size": 100, "seed": 0, "progress": False}
    exact = LinearGaussian(seed)
    found = sbc(exact.simulator, exact.sampler, QUANTITIES, **settings)
    # Three quantities at 99.9 % each: a right posterior fails here once in 300 seeds.
    assert all(found.passes(0.999).values())
    narrow = LinearGaussian(seed, widths=0.5)
    assert not any(sbc(narrow.simulator, narrow.sampler, QUANTITIES, **settings).passes(0.999).values())


def test_ranks_are_counts_of_draws_below():
    truth, draws = torch.tensor([[0.5], [2.5]]), torch.arange(4.0)[:, None, None].expand(4, 2, 1)
    found = sbc(
        lambda n: ({"x": truth}, truth), lambda y, n: {"x": draws}, {"x": lambda v: v["x"]},
        num_simulations=2, num_draws=4, batch_size=2, seed=0, progress=False,
    )  # fmt: skip
    assert found.ranks["x"].ravel().tolist() == [1, 3]
    points, difference = found.ecdf_difference("x")
    np.testing.assert_allclose(points, [0.2, 0.4, 0.6, 0.8])
    np.testing.assert_allclose(difference, np.array([0, 0.5, 0.5, 1]) - points)


def test_point_masses_have_random_ranks():
    ones = torch.ones(300, 1)
    found = sbc(
        lambda n: ({"x": ones[:n]}, ones[:n]), lambda y, n: {"x": ones.expand(n, *y.shape)}, {"x": lambda v: v["x"]},
        num_simulations=300, num_draws=9, batch_size=300, seed=0, progress=False,
    )  # fmt: skip
    assert found.passes(0.999)["x"]


@pytest.mark.slow
@pytest.mark.parametrize("guide", [VBLE, VBLExz])
def test_fits_to_data_of_the_prior(guide):
    """W'W diagonal and A = I: VBLE's family holds the exact posterior of its model."""
    W = torch.linalg.qr(torch.randn(16, 3, dtype=torch.float64))[0] * torch.tensor([3.0, 2.0, 1.0])
    prior = linear_vae(W, torch.zeros(16), 0.3, (1, 4, 4))
    found = simulation_based_calibration(
        prior, Denoising(GaussianNoise(0.5)), guide, image_shape=(1, 4, 4), num_simulations=150, num_draws=49,
        batch_size=50, patch=2, seed=0, progress=False, num_steps=200, tolerance=None,
    )  # fmt: skip
    assert found.ranks["pixel"].shape == (150, 16)
    assert found.ranks["z"].shape == (150, 3)
    if guide is VBLE:
        assert all(found.passes(0.999).values())


def test_an_operator_of_ones_own_and_the_figure():
    W = torch.randn(16, 2, dtype=torch.float64)
    physics = MatrixPhysics(torch.randn(5, 16, dtype=torch.float64), GaussianNoise(0.5))
    found = simulation_based_calibration(
        linear_vae(W, torch.zeros(16), 0.3, (1, 4, 4)), physics, VBLExz, image_shape=(1, 4, 4), num_simulations=5,
        num_draws=9, batch_size=3, patch=2, seed=0, progress=False, num_steps=3,
    )  # fmt: skip
    ax = plot_sbc(found)
    assert ax.get_xlabel()
    assert ax.get_title()


def test_parameters_of_the_noise_are_ranked_too():
    prior = linear_vae(torch.randn(16, 2, dtype=torch.float64), torch.zeros(16), 0.3, (1, 4, 4))
    found = simulation_based_calibration(
        prior, Denoising(GaussianNoise(0.5)), lambda model, y: VBLExz(model, y), image_shape=(1, 4, 4), patch=2,
        num_simulations=6, num_draws=9, batch_size=3, seed=0, progress=False, num_steps=3,
        physics_priors={"sigma": dist.HalfNormal(0.5)},
    )  # fmt: skip
    assert found.ranks["sigma"].shape == (6, 1)


def test_errors():
    prior = linear_vae(torch.randn(16, 2, dtype=torch.float64), torch.zeros(16), 0.3, (1, 4, 4))
    with pytest.raises(ValueError, match="would fit another"):
        simulation_based_calibration(prior, Denoising(), VBLE, image_shape=(1, 4, 4), kl_weight=2.0)
    with pytest.raises(ValueError, match="num_draws must be a whole number of at least 1"):
        sbc(lambda n: None, lambda y, n: None, {"x": len}, num_draws=0)


WITH_LIKELIHOOD = QUANTITIES | {"log-likelihood": lambda v: v["log-likelihood"]}


class WithLikelihood(LinearGaussian):
    """The same, with log p(y | x) up to a constant; and samples of the prior, which know nothing of y."""

    def with_likelihood(self, values, y):
        residual = y - values["x"].flatten(-3) @ self.A.T
        return values | {"log-likelihood": -residual.square().sum(-1, keepdim=True)}

    def simulator(self, n):
        values, y = super().simulator(n)
        return self.with_likelihood(values, y), y

    def sampler(self, y, n):
        return self.with_likelihood(super().sampler(y, n), y)

    def prior_sampler(self, y, n):
        return self.with_likelihood(self.values(torch.randn(n, len(y), 19, dtype=torch.float64)), y)


def test_a_sampler_that_ignores_the_data_is_found_by_the_likelihood_alone():
    settings = {"num_simulations": 300, "num_draws": 49, "batch_size": 100, "seed": 0, "progress": False}
    made = WithLikelihood(0)
    assert all(sbc(made.simulator, made.sampler, WITH_LIKELIHOOD, **settings).passes(0.999).values())
    ignorant = sbc(made.simulator, made.prior_sampler, WITH_LIKELIHOOD, **settings).passes(0.999)
    assert not ignorant.pop("log-likelihood")
    assert all(ignorant.values())


def test_quantities_may_look_at_the_measurement():
    made, seen = LinearGaussian(0), []
    quantity = {"y": lambda v: seen.append(v["y"].shape) or v["x"].flatten(-3)}
    sbc(made.simulator, made.sampler, quantity, num_simulations=4, num_draws=3, batch_size=4, seed=0, progress=False)
    assert set(seen) == {(4, 9)}


class PriorGuide(VBLE):
    """q = p(z), whatever is measured."""

    def __init__(self, model, y):
        super().__init__(model, y, family="gaussian")
        with torch.no_grad():
            self.factors["z"].loc.zero_()
            self.factors["z"].free_std = torch.ones_like(self.factors["z"].loc)


@pytest.mark.slow
def test_of_fits_too():
    W = torch.linalg.qr(torch.randn(16, 3, dtype=torch.float64))[0] * 2
    prior = linear_vae(W, torch.zeros(16), 0.3, (1, 4, 4))
    found = simulation_based_calibration(
        prior, Denoising(GaussianNoise(0.5)), PriorGuide, image_shape=(1, 4, 4), num_simulations=100, num_draws=49,
        batch_size=50, patch=2, seed=0, progress=False, num_steps=1, lr=1e-6, tolerance=None,
    )  # fmt: skip
    passed = found.passes(0.999)
    assert not passed.pop("log-likelihood")
    assert all(passed.values())


def test_the_prior_may_be_named():
    found = simulation_based_calibration(
        "vae-mnist", Denoising(GaussianNoise(0.2)), VBLE, image_shape=(1, 28, 28), num_simulations=2, num_draws=3,
        batch_size=2, seed=0, progress=False, num_steps=1,
    )  # fmt: skip
    assert set(found.ranks) == {"pixel", "patch mean", "log-likelihood", "z"}
    with pytest.raises(TypeError, match="prior must be a generative prior"):
        simulation_based_calibration(3, Denoising(), VBLE, image_shape=(1, 28, 28))
    with pytest.raises(ValueError, match="image_shape must be the three positive sides"):
        simulation_based_calibration("vae-mnist", Denoising(), VBLE, image_shape=(28, 28))
