"""The pieces of a step and of a sample, one by one: ``pytest -n 0 benchmarks/micro.py`` (pytest-benchmark).

Pairs stand side by side: the layer of the network as it was trained and as it is run, a draw's ELBO with and without
its gradient. Compare within one run; ``--benchmark-json FILE`` writes them.
"""

import pyro
import pytest
import torch

from benchmarks.against_loop import bundled
from benchmarks.measuring import photograph
from benchmarks.scaling import Problem
from pyro_vble import Posterior, keep_freed_memory
from pyro_vble._streaming import Moments, streamed_quantiles
from pyro_vble.benchmark.measuring import synchronize
from pyro_vble.distributions._numerics import log_ndtr_difference
from pyro_vble.guides import VBLE, MAPz, VBLExz
from pyro_vble.inference.precision import network_precision
from pyro_vble.models.batching import batched
from pyro_vble.models.freezing import frozen
from pyro_vble.physics.problems import deblurring, gaussian_kernel

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
GUIDES = {"VBLE": VBLE, "VBLExz": VBLExz, "MAPz": MAPz}


@pytest.fixture(autouse=True)
def _as_in_a_fit():
    keep_freed_memory()
    with pyro.validation_enabled(False):
        yield


@pytest.fixture(params=["as trained", "frozen"])
def decoder(request):
    network = bundled().network.to(DEVICE)
    return (frozen(network) if request.param == "frozen" else network.requires_grad_(False)).g_s


def _timed(benchmark, work):
    def synchronised():
        work()
        synchronize(DEVICE)

    benchmark.pedantic(synchronised, rounds=10, warmup_rounds=2)


@pytest.mark.parametrize("batch", [1, 4, 16])
def test_decode(benchmark, decoder, batch):
    z = torch.randn(batch, 128, 16, 16, device=DEVICE)
    with torch.no_grad():
        _timed(benchmark, lambda: batched(decoder, z))


def test_decode_and_gradient(benchmark, decoder):
    z = torch.randn(1, 128, 16, 16, device=DEVICE, requires_grad=True)
    _timed(benchmark, lambda: batched(decoder, z).sum().backward())


def test_blur_and_gradient(benchmark):
    physics = deblurring(0.03, gaussian_kernel(1.0)).to(DEVICE)
    x = photograph(device=DEVICE).requires_grad_()
    _timed(benchmark, lambda: physics.A(x).sum().backward())


def test_density_of_the_latents_and_gradient(benchmark):
    upper = -torch.rand(128, 16, 16, device=DEVICE).requires_grad_()
    _timed(benchmark, lambda: log_ndtr_difference(upper - 1, upper).sum().backward())


@pytest.mark.parametrize("part", ["loss", "loss and gradient", "step"])
@pytest.mark.parametrize("guide", GUIDES)
def test_step(benchmark, guide, part):
    problem = Problem(bundled(), DEVICE, guide=GUIDES[guide])
    for _ in range(4):
        problem.step()
    svi, y = problem.svi, problem.y
    loss = lambda: svi.elbo.differentiable_loss(svi.model, svi.guide, y)  # noqa: E731
    works = {"loss": loss, "loss and gradient": lambda: svi.gradient(y), "step": problem.step}
    with network_precision(problem.precision, DEVICE):
        _timed(benchmark, works[part])


@pytest.mark.parametrize("guide", ["VBLE", "VBLExz"])
def test_twenty_samples(benchmark, guide):
    problem = Problem(bundled(), DEVICE, guide=GUIDES[guide])
    posterior = Posterior(problem.model, problem.guide, problem.y, precision=problem.precision)
    _timed(benchmark, lambda: posterior.mmse_x(20))


@pytest.mark.parametrize("statistic", ["moments", "exact quantiles", "histogram"])
def test_statistics_of_samples(benchmark, statistic):
    samples = torch.rand(100, 1, 3, 256, 256, device=DEVICE)
    levels = torch.tensor([0.05, 0.95])

    def moments():
        accumulated = Moments()
        for chunk in samples.split(4):
            accumulated.update(chunk)

    count = 100 if statistic == "exact quantiles" else 1000
    quantiles = lambda: streamed_quantiles(lambda: iter(samples.split(4)), levels, count)  # noqa: E731
    _timed(benchmark, moments if statistic == "moments" else quantiles)
