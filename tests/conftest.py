"""Fixtures: priors, an operator, and where the shared images are."""

import os
from pathlib import Path

# Tests run in two processes at once: one thread each, or the threads of one wait for those of the other. The variable
# is read when torch is imported, and inherited by the processes that tests start.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"

import deepinv
import pyro
import pytest
import torch
from helpers import small_network

import pyro_vble as pv
from pyro_vble.models import CAE

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # whatever a plugin has imported before


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
