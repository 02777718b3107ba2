"""Fixtures: priors, an operator, and where the shared images are."""

from pathlib import Path

import deepinv
import pyro
import pytest
import torch
from helpers import small_network

import pyro_vble as pv
from pyro_vble.models import CAE


@pytest.fixture(autouse=True)
def _fresh_state():
    """Every test starts from the same random state and an empty parameter store."""
    torch.manual_seed(0)
    pyro.clear_param_store()
    yield
    assert torch.get_default_dtype() == torch.float32


@pytest.fixture
def cae() -> CAE:
    return CAE(small_network(), alpha=0.025)


@pytest.fixture(scope="session")
def bundled() -> CAE:
    return pv.load_prior("cae-bsd")


@pytest.fixture
def denoising() -> deepinv.physics.Physics:
    return deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the shared images are not on this machine")
    return folder
