"""In the linear-Gaussian case, where each of the three errors is known."""

import pytest
import torch
from deepinv.physics import GaussianNoise
from helpers import MatrixPhysics, linear_vae

import pyro_vble as pv
from pyro_vble import diagnostics
from pyro_vble.guides import VBLE
from pyro_vble.models import RestorationModel

PIXELS, LATENTS, VALUES, IMAGE = 16, 5, 12, (1, 4, 4)
S, T = 0.4, 0.3
SETTINGS = {"lr": 0.1, "schedule": "cosine", "num_particles": 16, "tolerance": None, "progress": False, "seed": 0}


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@pytest.fixture
def known():
    """W, c, A, truth and measurement of two images."""
    torch.manual_seed(3)
    weight, offset, matrix = normal(PIXELS, LATENTS), normal(PIXELS), normal(VALUES, PIXELS) / PIXELS**0.5
    x = normal(2, LATENTS) @ weight.T + offset + S * normal(2, PIXELS)
    return weight, offset, matrix, x, x @ matrix.T + T * normal(2, VALUES)


def fitted(known, num_steps):
    weight, offset, matrix, _, y = known
    prior = linear_vae(weight, offset, S, IMAGE)
    model = RestorationModel(prior, MatrixPhysics(matrix, GaussianNoise(T)), image_shape=IMAGE)
    return pv.fit(model, VBLE(model, y), y, num_steps=num_steps, **SETTINGS)


def optimum(known):
    """D(z̄) of the best Gaussian guide, and its a."""
    weight, offset, matrix, _, y = known
    through = matrix @ weight
    precision = torch.eye(LATENTS, dtype=torch.float64) + through.T @ through / T**2
    z = torch.linalg.solve(precision, through.T @ (y - offset @ matrix.T).T / T**2).T
    return z @ weight.T + offset, (1 + through.square().sum(0) / T**2).rsqrt()


def budget_of(posterior, known, **options):
    truth = known[3].reshape(2, *IMAGE)
    settings = {"num_steps": 100, "num_restarts": 1, "num_samples": 400, "border": 0, **SETTINGS, **options}
    return diagnostics.error_budget(posterior, truth, **settings)


@pytest.mark.slow
def test_the_three_errors_of_a_fit_that_has_converged(known):
    budget = budget_of(fitted(known, 400), known, num_steps=250)
    weight, offset, _, x, _ = known
    best, a = optimum(known)
    uncertainty = (weight.square() @ a.square()).sqrt().reshape(IMAGE)
    # A standard deviation of 400 draws is known to 3.5 %, one in a thousand of them to 12 %; a itself to 2 %.
    assert float((budget.uncertainty / uncertainty - 1).abs().max()) < 0.15
    inside = weight @ torch.linalg.pinv(weight)
    left = (x - offset) @ (torch.eye(PIXELS, dtype=torch.float64) - inside)
    assert torch.allclose(budget.representation, left.abs().reshape(2, *IMAGE), atol=1e-5)
    assert float(budget.rms["optimisation"].max()) < 0.03 * float(budget.rms["uncertainty"].min())
    # The mean of 400 draws is off by a twentieth of their standard deviation.
    off = (budget.error - (best - x).abs().reshape(2, *IMAGE)).abs()
    assert float((off / uncertainty).max()) < 5 / 20


def test_a_fit_that_was_ended_early_is_told_how_far_it_had_to_go(known):
    posterior = fitted(known, 3)
    budget = budget_of(posterior, known, from_truth=False)
    best, _ = optimum(known)
    missing = (posterior.mmse_z - best.reshape(2, *IMAGE)).square().flatten(1).mean(1).sqrt()
    assert torch.allclose(budget.rms["optimisation"], missing, rtol=0.1)
    for name in ("first guess", "scattered 1"):
        assert bool((budget.elbo[name] > budget.elbo["given"]).all())
        assert bool((budget.distance[name] < 0.1 * budget.distance["given"]).all())


def test_unknown_pixels_are_left_out(known):
    posterior = fitted(known, 30)
    weight, offset, matrix, x, y = known
    holed = x.clone()
    holed[:, :3] = torch.nan
    budget = budget_of(posterior, (weight, offset, matrix, holed, y), num_steps=20)
    for part in ("error", "uncertainty", "representation", "optimisation"):
        assert bool(getattr(budget, part).flatten(1)[:, :3].isnan().all())
        assert bool(budget.rms[part].isfinite().all())
    # Thirteen known pixels are projected on five latents.
    kept, seen = weight[3:], (x - offset)[:, 3:]
    left = seen - seen @ torch.linalg.pinv(kept).T @ kept.T
    assert torch.allclose(budget.representation.flatten(1)[:, 3:], left.abs(), atol=1e-5)


def test_what_cannot_be_is_refused(known):
    posterior = fitted(known, 2)
    with pytest.raises(ValueError, match="truth must have the shape"):
        diagnostics.error_budget(posterior, torch.rand(2, 1, 5, 5))
    posterior.model.physics = None
    with pytest.raises(ValueError, match="need the forward operator"):
        budget_of(posterior, known)


def test_the_figure_has_a_map_a_part_and_a_point_a_fit(known):
    budget = budget_of(fitted(known, 5), known, num_steps=5)
    figure = diagnostics.plot_error_budget(budget, image=1, title="two images")
    maps = [axis for axis in figure.get_axes() if axis.images]
    assert len(maps) == 4
    labels = figure.get_axes()[-1].get_legend_handles_labels()[1]
    assert labels == ["given", "first guess", "scattered 1", "truth"]
    with pytest.raises(ValueError, match="image must be less than 2"):
        diagnostics.plot_error_budget(budget, image=2)
