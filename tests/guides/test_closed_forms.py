"""The linear-Gaussian case, where the optimum of every guide is known (DESIGN section 3)."""

from functools import partial

import pytest
import torch
from deepinv.physics import GaussianNoise
from helpers import MatrixPhysics, linear_vae

import pyro_vble as pv
from pyro_vble.guides import VBLE, MAPz, VBLExz
from pyro_vble.models import RestorationModel
from pyro_vble.physics import jointly

PIXELS, LATENTS, VALUES = 16, 5, 12
IMAGE = (1, 4, 4)


class Problem:
    """x = W z + c + s e, y = A x + t w, and the optimum of each guide."""

    def __init__(self, seed: int, s: float = 0.4, t: float = 0.3) -> None:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.s, self.t = s, t
        self.W, self.c, self.A = normal(PIXELS, LATENTS), normal(PIXELS), normal(VALUES, PIXELS) / PIXELS**0.5
        z, e, w = normal(2, LATENTS), normal(2, PIXELS), normal(2, VALUES)
        self.y = (z @ self.W.T + self.c + s * e) @ self.A.T + t * w
        self.prior = linear_vae(self.W, self.c, s, IMAGE)
        self.physics = MatrixPhysics(self.A, GaussianNoise(t))
        self.residual = self.y - self.c @ self.A.T
        self.AW = self.A @ self.W

    def fit(self, guide, **options):
        model = RestorationModel(
            self.prior, self.physics, latent_image=guide_class(guide).latent_image, image_shape=IMAGE
        )
        settings = {
            "num_steps": 600,
            "lr": 0.05,
            "schedule": "cosine",
            "num_particles": 64,
            "tolerance": None,
            "seed": 0,
        }
        settings |= {"tolerance": None, "progress": False}
        return pv.fit(model, guide(model, self.y), self.y, **settings | options)

    @property
    def ridge(self):
        """Ridge regression of y on z alone: the mean of z if x = D(z)."""
        precision = torch.eye(LATENTS, dtype=torch.float64) + self.AW.T @ self.AW / self.t**2
        return torch.linalg.solve(precision, self.AW.T @ self.residual.T / self.t**2).T

    @property
    def a(self):
        return (1 + self.AW.square().sum(0) / self.t**2).rsqrt()

    @property
    def b(self):
        return (1 + self.s**2 * self.A.square().sum(0) / self.t**2).rsqrt()

    @property
    def exact_mean(self):
        """E[x|y] of the full model."""
        covariance = self.W @ self.W.T + self.s**2 * torch.eye(PIXELS, dtype=torch.float64)
        gain = (
            covariance
            @ self.A.T
            @ torch.linalg.inv(self.A @ covariance @ self.A.T + self.t**2 * torch.eye(VALUES, dtype=torch.float64))
        )
        return self.c + self.residual @ gain.T


class TwoMeasurements(Problem):
    """The same, its values measured by two instruments, of which the second has three times the noise."""

    FIRST = 7

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        rows, t = self.FIRST, self.t
        parts = [MatrixPhysics(self.A[:rows], GaussianNoise(t)), MatrixPhysics(self.A[rows:], GaussianNoise(3 * t))]
        self.physics = jointly(parts, IMAGE)
        # With noise of one level the second instrument is a third as sensitive.
        weight = torch.where(torch.arange(VALUES) < rows, 1.0, 1 / 3).double()
        self.A, self.residual = weight[:, None] * self.A, weight * self.residual
        self.AW = self.A @ self.W


def guide_class(guide):
    return guide.func if isinstance(guide, partial) else guide


def assert_close(found, expected, tolerance=0.02):
    """Within a relative tolerance in norm, and every value within it of the largest."""
    assert float((found - expected).norm() / expected.norm()) < tolerance
    assert float((found - expected).abs().max() / expected.abs().max()) < tolerance


@pytest.fixture(params=[1, pytest.param(2, marks=pytest.mark.slow)])
def problem(request):
    return Problem(request.param)


@pytest.mark.parametrize("elbo", ["trace", "mean_field"])
def test_vble(problem, elbo):
    guide = problem.fit(VBLE, elbo=elbo).guide
    assert_close(guide.loc["z"], problem.ridge)
    assert_close(guide.width["z"], problem.a.expand(2, -1))


@pytest.mark.parametrize("elbo", ["trace", "mean_field"])
def test_vble_xz(problem, elbo):
    guide = problem.fit(VBLExz, elbo=elbo).guide
    assert_close(guide.loc["z"], problem.ridge)
    assert_close(guide.width["z"], problem.a.expand(2, -1))
    assert_close(guide.b.flatten(1), problem.b.expand(2, -1))
    assert bool((guide.u == 0).all())


def test_vble_xz_with_a_free_mean_has_the_exact_posterior_mean(problem):
    guide = problem.fit(partial(VBLExz, free_mean=True)).guide
    mean = guide.loc["z"] @ problem.W.T + problem.c + problem.s * guide.u.flatten(1)
    assert_close(mean, problem.exact_mean)
    assert_close(guide.width["z"], problem.a.expand(2, -1))
    assert_close(guide.b.flatten(1), problem.b.expand(2, -1))
    # Neither of the published forms has it: the test above would not tell if the two means were the same.
    published = problem.ridge @ problem.W.T + problem.c
    assert float((published - problem.exact_mean).norm() / problem.exact_mean.norm()) > 0.05


def test_two_measurements_are_one_whose_likelihood_is_their_product():
    problem = TwoMeasurements(1)
    guide = problem.fit(partial(VBLExz, free_mean=True)).guide
    mean = guide.loc["z"] @ problem.W.T + problem.c + problem.s * guide.u.flatten(1)
    assert_close(mean, problem.exact_mean)
    assert_close(guide.width["z"], problem.a.expand(2, -1))
    assert_close(guide.b.flatten(1), problem.b.expand(2, -1))


def test_the_samples_have_the_fitted_moments(problem):
    posterior = problem.fit(VBLExz, num_steps=200, lr=0.1, num_particles=8)
    guide, n = posterior.guide, 4000
    x = posterior.sample(n, seed=1).flatten(2)
    mean = guide.loc["z"] @ problem.W.T + problem.c
    variance = guide.width["z"].square() @ problem.W.square().T + (problem.s * guide.b.flatten(1)).square()
    torch.testing.assert_close(x.mean(0), mean, rtol=0, atol=5 * float(variance.max() / n) ** 0.5)
    torch.testing.assert_close(x.var(0), variance, rtol=5 * (2 / n) ** 0.5, atol=0)


def test_map_z_is_the_ridge_solution_and_csgm_least_squares(problem):
    ridge = problem.fit(MAPz, num_particles=1, num_steps=1000, lr=0.3).guide.loc["z"]
    assert_close(ridge, problem.ridge, 1e-3)
    csgm = problem.fit(MAPz, num_particles=1, num_steps=1500, lr=0.3, kl_weight=0.0).guide.loc["z"]
    assert_close(csgm, torch.linalg.lstsq(problem.AW, problem.residual.T).solution.T, 1e-2)


@pytest.mark.parametrize("kl_weight", [0.5, pytest.param(3.0, marks=pytest.mark.slow)])
def test_the_kl_weight_tempers_the_posterior(kl_weight):
    """With weight λ the optimum is that of noise variance λ t²."""
    problem = Problem(1)
    tempered = Problem(1)
    tempered.t = kl_weight**0.5 * problem.t
    guide = problem.fit(VBLE, kl_weight=kl_weight).guide
    assert_close(guide.loc["z"], tempered.ridge)
    assert_close(guide.width["z"], tempered.a.expand(2, -1))


def test_with_no_data_the_posterior_is_the_prior():
    """The sign of the KL terms: without data a = b = 1 and z̄ = 0, wherever the fit starts."""
    problem = Problem(1)
    problem.physics.matrix = torch.zeros(VALUES, PIXELS, dtype=torch.float64)
    problem.y = torch.zeros(2, VALUES, dtype=torch.float64)
    guide = problem.fit(partial(VBLExz, free_mean=True)).guide
    assert float(guide.loc["z"].abs().max()) < 0.02
    assert float(guide.u.abs().max()) < 0.02
    assert_close(guide.width["z"], torch.ones(2, LATENTS, dtype=torch.float64))
    assert_close(guide.b, torch.ones(2, *IMAGE, dtype=torch.float64))


def test_the_elbo_at_the_optimum_is_the_closed_form(problem):
    """E_q log p(y|x) - KL, which for Gaussians is a formula; the trace's tail estimates it."""
    posterior = problem.fit(VBLExz)
    a, b, z = problem.a, problem.b, problem.ridge
    mean = problem.residual - z @ problem.AW.T
    spread = (problem.AW.square() * a.square()).sum() + problem.s**2 * (problem.A.square() * b.square()).sum()
    log_likelihood = -0.5 * (mean.square().sum() + 2 * spread) / problem.t**2 - 2 * VALUES * float(
        torch.log(torch.tensor(problem.t * (2 * torch.pi) ** 0.5))
    )
    kl = 2 * ((a.square() - 1) / 2 - a.log()).sum() + z.square().sum() / 2
    kl = kl + 2 * ((b.square() - 1) / 2 - b.log()).sum()
    tail = posterior.elbo[-100:]
    error = float(tail.std()) / 100**0.5
    assert float(tail.mean()) == pytest.approx(float(log_likelihood - kl), abs=4 * error + 0.05)
