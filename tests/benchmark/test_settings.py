"""The file of settings, and the measurements that follow from it."""

import pytest
import torch

from pyro_vble.benchmark import load_benchmark
from pyro_vble.benchmark.problems import measured
from pyro_vble.benchmark.published import published_tables


@pytest.mark.parametrize("name", ["bsd", "satellite"])
@pytest.mark.parametrize("quick", [False, True])
def test_what_comes_with_the_package_is_whole(name, quick):
    benchmark = load_benchmark(name, quick=quick)
    assert benchmark.reference in benchmark.methods
    for table in published_tables(name):
        assert set(table.problems) <= set(benchmark.problems)
        assert {row.method for row in table.rows} <= set(benchmark.methods)


def test_the_published_problems_have_the_published_noise():
    problems = load_benchmark("bsd").problems
    noise = {name: one.noise_255 for name, one in problems.items()}
    assert noise["gaussian-1-noise-2.55"] == 2.55
    assert noise["gaussian-3-noise-7.65"] == 7.65
    assert noise["x2"] == noise["x4"] == 0
    assert all(one.published is not None for one in problems.values())


def test_problems_are_chosen_by_how_they_begin():
    benchmark = load_benchmark("bsd").of(["vble", "dpir"], ["gaussian-1"])
    assert list(benchmark.problems) == ["gaussian-1-noise-2.55", "gaussian-1-noise-7.65"]
    assert list(benchmark.methods) == ["dpir", "vble"]
    assert list(load_benchmark("satellite").of(None, ["ir"]).problems) == ["ir"]


@pytest.mark.parametrize(
    ("asked", "kind"),
    [({"methods": ["magic"]}, "method"), ({"problems": ["fog"]}, "problem"), ({"methods": ["vbl"]}, "method")],
)
def test_what_is_unknown_is_refused(asked, kind):
    with pytest.raises(ValueError, match=rf"A {kind} must be one of .*; received"):
        load_benchmark("bsd").of(**asked)


def test_a_file_of_ones_own_is_checked(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("seed: 0\nsamples: 1\n")
    with pytest.raises(ValueError, match=r"mine\.yaml cannot be followed: .*benchmarks"):
        load_benchmark("bsd", settings=path)


@pytest.mark.parametrize("name", list(load_benchmark("bsd").problems))
def test_measurements_follow_from_their_seed_alone(name):
    problem = load_benchmark("bsd").problems[name]
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(2)
    y, physics = measured(problem, x, 5)
    torch.manual_seed(3)
    again, _ = measured(problem, x, 5)
    assert torch.equal(y, again)
    other, _ = measured(problem, x, 6)
    noisy = problem.noise_255 > 0
    assert torch.equal(y, other) != noisy
    residual = (y - physics.A(x))[physics.A(x) != 0]
    expected = problem.noise_255 / 255
    # The standard deviation of n normal numbers is known to 1 / sqrt(2 n).
    assert abs(float(residual.std()) - expected) <= 5 * expected / (2 * residual.numel()) ** 0.5 + 1e-6


def test_a_sensor_measures_on_its_own_grid():
    problems = load_benchmark("satellite").problems
    x = torch.rand(1, 3, 64, 64)
    assert measured(problems["ir"], x, 0)[0].shape == (1, 3, 64, 64)
    assert measured(problems["ir-x2"], x, 0)[0].shape == (1, 3, 32, 32)
