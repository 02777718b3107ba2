"""What the caller's process is in, and how arrays lie in memory, changes nothing and is left as it was."""

import numpy as np
import pytest
import torch
from deepinv.physics import Blur, Denoising, GaussianNoise

import pyro_vble as pv
from pyro_vble.guides import VBLE
from pyro_vble.models import RestorationModel
from pyro_vble.physics.problems import gaussian_kernel
from pyro_vble.seeding import seeded

PHYSICS = Denoising(GaussianNoise(0.1))
QUICK = {"num_steps": 3, "seed": 0, "progress": False, "precision": "float32"}


@pytest.fixture
def y():
    return torch.rand(1, 3, 64, 64)


def test_a_gpu_that_wakes_later_has_the_callers_seed(monkeypatch):
    """What is seeded before CUDA is used waits for it."""
    waiting = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", waiting.append)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    torch.manual_seed(5)
    with seeded(0):
        pass
    assert waiting[-1] == 5


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_autograd_modes(cae, y, mode):
    expected = pv.restore(y, PHYSICS, cae, **QUICK).mmse_x(4)
    with mode():
        before = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        posterior = pv.restore(y.clone(), PHYSICS, cae, **QUICK)
        found = posterior.mmse_x(4)
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == before
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    torch.testing.assert_close(posterior.quantile(0.9, 4).clone(), posterior.quantile(0.9, 4))


def test_everything_made_under_inference_mode(y):
    from helpers import small_network

    from pyro_vble.models import CAE

    with torch.inference_mode():
        prior, physics = CAE(small_network(), alpha=0.025), Denoising(GaussianNoise(0.1))
        posterior = pv.restore(y.clone(), physics, prior, **QUICK)
        assert posterior.mmse_x(2).isfinite().all()
    posterior.guide.factors["z"].loc.sum().backward()


def test_what_is_built_again_under_inference_mode(cae, y, tmp_path):
    from pyro_vble.diagnostics import error_budget

    pv.restore(y, PHYSICS, cae, **QUICK).save(tmp_path / "fit.pvble")
    with torch.inference_mode():
        posterior = pv.load_posterior(tmp_path / "fit.pvble", prior=cae, physics=PHYSICS)
        assert posterior.std(3).isfinite().all()
        budget = error_budget(posterior, y.clone().clamp(0, 1), num_restarts=0, num_steps=1, num_samples=4)
        assert torch.is_inference_mode_enabled()
    assert budget is not None
    posterior.guide.factors["z"].loc.sum().backward()


def test_a_measurement_that_belongs_to_a_graph(cae, y):
    expected = pv.restore(y, PHYSICS, cae, **QUICK).mmse_x(4)
    leaf = y.clone().requires_grad_()
    for given in (leaf, leaf * 1.0):
        posterior = pv.restore(given, PHYSICS, cae, **QUICK)
        torch.testing.assert_close(posterior.mmse_x(4), expected)
        assert not posterior.y.requires_grad
    model = RestorationModel(cae, PHYSICS)
    pv.fit(model, VBLE(model, y), leaf * 1.0, **QUICK)
    assert leaf.grad is None


def test_an_operator_computed_from_something_learnable(cae, y):
    width = torch.tensor(1.5, requires_grad=True)
    kernel = gaussian_kernel(1.5)[None, None] * width / 1.5
    physics = Blur(filter=kernel, padding="reflect", noise_model=GaussianNoise(0.1))
    posterior = pv.restore(y, physics, cae, **QUICK)
    assert posterior.mmse_x(2).isfinite().all()
    assert width.grad is None


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a[:, ::-1],
        lambda a: np.rot90(a, 2, (2, 3)),
        lambda a: a.astype(">f4"),
        lambda a: a.astype(">f8"),
        lambda a: np.asfortranarray(a),
        lambda a: a.astype(np.longdouble),
        lambda a: a.astype(np.float16),
        lambda a: np.broadcast_to(a[:, :1], a.shape),
    ],
    ids=["mirrored", "turned", "big-endian", "big-endian double", "Fortran", "long double", "half", "broadcast"],
)
def test_arrays_as_they_come(cae, y, view, recwarn):
    array = y.numpy().copy()
    array.setflags(write=False)
    seen = view(array)
    posterior = pv.restore(seen, PHYSICS, cae, **QUICK)
    torch.testing.assert_close(posterior.y, torch.from_numpy(np.ascontiguousarray(seen, dtype=np.float32)))
    assert not [w for w in recwarn if "not writable" in str(w.message)]


@pytest.mark.parametrize(("shape", "remedy"), [((3, 64, 64), r"y\[None\]"), ((64, 64), r"y\[None, None\]")])
def test_one_image_without_its_batch_dimension(cae, shape, remedy):
    with pytest.raises(ValueError, match=f"batch dimension first: {remedy}"):
        pv.restore(torch.rand(shape), PHYSICS, cae, **QUICK)


def test_bands_last(cae):
    with pytest.raises(ValueError, match=r"Bands come before rows and columns.*y.permute\(0, 3, 1, 2\)"):
        pv.restore(torch.rand(1, 64, 64, 3), PHYSICS, cae, **QUICK)


def test_another_image_shape_than_the_operators(cae, y):
    with pytest.raises(ValueError, match=r"image_shape must be \(C, H, W\) of images whose measurement has the shape"):
        pv.restore(y, PHYSICS, cae, image_shape=(3, 32, 32), **QUICK)
    with pytest.raises(ValueError, match="leave out the batch"):
        pv.restore(y, PHYSICS, cae, image_shape=(1, 3, 64, 64), **QUICK)
    with pytest.raises(ValueError, match="image_shape must be"):
        pv.restore(y, PHYSICS, cae, image_shape=(1, 64, 64), **QUICK)


def test_no_gpu_is_woken_for_a_fit_on_the_cpu(cae, y, monkeypatch):
    asked = []
    original = torch.random.fork_rng

    def fork_rng(devices=None, *args, **kwargs):
        asked.append(devices)
        return original(devices, *args, **kwargs)

    monkeypatch.setattr(torch.random, "fork_rng", fork_rng)
    pv.restore(y, PHYSICS, cae, **QUICK).mmse_x(2)
    assert asked
    assert all(devices == [] for devices in asked)


def test_a_scope_of_a_seed_leaves_the_generator(y):
    state = torch.get_rng_state()
    with seeded(5):
        torch.rand(3)
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(ValueError, match="64 bits"):
        pv.restore(y, PHYSICS, "cae-bsd", seed=2**70)


def test_fit_chooses_the_precision_that_restore_does(cae, y, monkeypatch):
    monkeypatch.setattr("pyro_vble.inference.precision._bfloat16_is_fast", lambda device: True)
    for sigma, expected in ((1e-3, "float32"), (0.1, "bfloat16")):
        physics = Denoising(GaussianNoise(sigma))
        model = RestorationModel(cae, physics)
        options = {"num_steps": 1, "seed": 0, "progress": False}
        assert pv.fit(model, VBLE(model, y), y, **options).precision == expected
        assert pv.restore(y, physics, cae, **options).precision == expected
