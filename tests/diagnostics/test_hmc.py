"""The batch of chains itself, on densities that are known."""

import pytest
import torch

from pyro_vble.diagnostics._hmc import hmc
from pyro_vble.seeding import seeded


def run(log_density, start, **options):
    how = {"num_samples": 400, "num_warmup": 100, "trajectory": 1.5, "max_steps": 64} | options
    with seeded(0):
        return list(hmc(log_density, start, **how))


def test_mean_and_covariance_of_a_gaussian():
    scales = torch.tensor([0.05, 1.0, 8.0], dtype=torch.float64)
    mixing = torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [0.0, 0.5, 1.0]], dtype=torch.float64)
    factor = mixing * scales[:, None]
    mean, covariance = torch.tensor([1.0, -2.0, 30.0], dtype=torch.float64), factor @ factor.T
    p = torch.distributions.MultivariateNormal(mean, covariance)
    states = run(p.log_prob, torch.zeros(8, 3, dtype=torch.float64))
    draws = torch.cat([state.position for state in states if state.warm])
    std = covariance.diagonal().sqrt()
    # 3,200 draws that are hardly correlated: standard errors of 0.02 of both.
    assert float(((draws.mean(0) - mean) / std).abs().max()) < 0.08
    error = (torch.cov(draws.T) - covariance) / (std[:, None] * std)
    assert float(error.abs().max()) < 0.1
    assert not any(bool(state.divergent.any()) for state in states if state.warm)


def test_the_step_size_leads_to_the_acceptance_wanted():
    """Of many dimensions: of a few, acceptance falls from near one to nothing at the step that is just stable."""
    scales = torch.logspace(-2, 1, 300)
    states = run(lambda position: -(position / scales).square().sum(1) / 2, torch.zeros(8, 300), num_samples=50)
    acceptance = torch.stack([state.acceptance for state in states if state.warm]).mean()
    assert 0.6 < float(acceptance) < 0.85
    found = torch.cat([state.position for state in states if state.warm]).std(0) / scales
    assert 0.9 < float(found.median()) < 1.1


def test_every_chain_accepts_by_itself():
    """A chain that always rejects holds no other up, nor moves with them."""

    def log_density(position):
        first = torch.arange(len(position)) == 0
        away = (position != 0).any(1)
        return torch.where(first & away, torch.nan, -position.square().sum(1) / 2)

    states = run(log_density, torch.zeros(4, 2), num_samples=200, num_warmup=0)
    positions = torch.stack([state.position for state in states])
    assert bool((positions[:, 0] == 0).all())
    assert all(bool(state.divergent[0]) and not bool(state.divergent[1:].any()) for state in states)
    assert bool(((positions[:, 1:].std(0) - 1).abs() < 0.3).all())
    moved = (positions[1:, 1:] != positions[:-1, 1:]).any(2).float().mean(0)
    assert bool((moved > 0.5).all())


def test_chains_are_independent():
    """What one chain does is not told by another's place: their draws are uncorrelated."""
    states = run(lambda position: -position.square().sum(1) / 2, torch.zeros(4, 1), num_samples=1500)
    draws = torch.stack([state.position[:, 0] for state in states if state.warm])
    correlation = torch.corrcoef(draws.T) - torch.eye(4)
    assert float(correlation.abs().max()) < 0.15


@pytest.mark.parametrize("num_warmup", [0, 1, 7])
def test_short_warm_ups(num_warmup):
    states = run(
        lambda position: -position.square().sum(1) / 2, torch.zeros(1, 1), num_samples=5, num_warmup=num_warmup
    )
    assert [state.warm for state in states] == [False] * num_warmup + [True] * 5
