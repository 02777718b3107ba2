"""What is restored, as a value: parts, scales and guides of one problem are problems that share its networks."""

import dataclasses
from functools import partial

import deepinv
import pytest
import torch

import pyro_vble as pv
from pyro_vble.guides import VBLE, VBLExz
from pyro_vble.inference import Problem
from pyro_vble.models.freezing import is_frozen

PHYSICS = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))


@pytest.fixture
def problem(cae):
    mask = (torch.rand(3, 3, 64, 64) > 0.3).float()
    physics = deepinv.physics.Inpainting((3, 64, 64), mask=mask, noise_model=deepinv.physics.GaussianNoise(0.1))
    return Problem.on("cpu", torch.rand(3, 3, 64, 64), physics, cae, VBLE)


def networks_of(problem):
    return {id(p) for p in problem.prior.network.parameters()}


def test_the_prior_is_frozen_once(problem, cae):
    assert is_frozen(problem.prior)
    assert not is_frozen(cae)
    assert networks_of(problem).isdisjoint(map(id, cae.network.parameters()))
    for other in (problem.at(0.5), problem.at((1.0, 0.5, 0.7)), problem.part(slice(0, 2))):
        assert networks_of(other) == networks_of(problem)
        model, _ = other.build()
        assert {id(p) for p in model.prior.network.parameters()} == networks_of(problem)


def test_what_was_given_does_not_change(cae):
    y = torch.rand(2, 3, 64, 64)
    problem = Problem.on("cpu", y, PHYSICS, cae, VBLE, dtype=torch.float64)
    assert problem.y.dtype == next(problem.prior.parameters()).dtype == torch.float64
    assert y.dtype == next(cae.parameters()).dtype == torch.float32
    assert cae.training == any(m.training for m in [cae])
    with pytest.raises(dataclasses.FrozenInstanceError):
        problem.y = y


def test_a_part_has_its_own_measurements_masks_and_scales(problem):
    part = problem.at((1.0, 0.5, 0.7)).part(slice(1, 3))
    assert torch.equal(part.y, problem.y[1:])
    assert torch.equal(part.physics.mask, problem.physics.mask[1:])
    assert part.prior.rate_scale == (0.5, 0.7)
    model, guide = part.build()
    assert guide.loc["z"].shape[0] == 2
    assert model.image_shape(part.y) == (3, 64, 64)


def test_the_model_is_as_the_guide_wants_it(problem):
    assert not problem.build()[0].latent_image
    for guide in (VBLExz, partial(VBLExz, free_mean=True), lambda model, y: VBLExz(model, y)):
        model, built = dataclasses.replace(problem, guide=guide).build()
        assert model.latent_image
        assert isinstance(built, VBLExz)


def test_a_prior_that_is_trained_further_is_frozen_again(problem, cae):
    thawed = problem.prior
    next(thawed.parameters()).requires_grad_()
    assert not is_frozen(thawed)
    posterior = pv.restore(torch.rand(1, 3, 64, 64), PHYSICS, thawed, num_steps=1, progress=False)
    assert posterior.model.prior is not thawed
