import pytest
import torch

from pyro_vble.inference.conjugate_gradient import ChannelPreconditioner, conjugate_gradient

SIZE = 30


@pytest.fixture
def matrices():
    """Four systems of conditions 2 to 30."""
    found = []
    for power in (0.3, 0.6, 1, 1.5):
        q, _ = torch.linalg.qr(torch.randn(SIZE, SIZE, dtype=torch.float64))
        found.append(q @ torch.diag(torch.logspace(-power, 0, SIZE, dtype=torch.float64)) @ q.T)
    return torch.stack(found)


def solve(matrices, b, tolerance=1e-9, most=500):
    product = lambda v: {"v": torch.einsum("sij,sj->si", matrices, torch.cat(list(v.values()), 1))}  # noqa: E731

    def parted(v):
        whole = product(v)["v"]
        return {"a": whole[:, :10], "b": whole[:, 10:]}

    parts = {"a": b[:, :10], "b": b[:, 10:]}
    found = conjugate_gradient(parted, parts, dict, systems=1, tolerance=tolerance, max_iterations=most)
    return torch.cat((found.x["a"], found.x["b"]), 1), found


def test_solutions(matrices):
    b = torch.randn(4, SIZE, dtype=torch.float64)
    x, found = solve(matrices, b)
    torch.testing.assert_close(x, torch.linalg.solve(matrices, b), rtol=1e-5, atol=1e-5)
    assert float(found.residual.max()) <= 1e-9


def test_a_system_does_not_depend_on_the_others(matrices):
    b = torch.randn(4, SIZE, dtype=torch.float64)
    together, found = solve(matrices, b, 1e-3)
    alone = [solve(matrices[k : k + 1], b[k : k + 1], 1e-3) for k in range(4)]
    torch.testing.assert_close(together, torch.cat([x for x, _ in alone]))
    assert found.iterations == max(one.iterations for _, one in alone)
    assert alone[0][1].iterations < alone[3][1].iterations


def test_no_right_hand_side_and_too_few_iterations(matrices):
    x, found = solve(matrices, torch.zeros(4, SIZE, dtype=torch.float64))
    assert found.iterations == 0
    assert not x.any()
    assert not found.residual.any()
    _, stopped = solve(matrices, torch.randn(4, SIZE, dtype=torch.float64), most=2)
    assert stopped.iterations == 2
    assert float(stopped.residual.max()) > 1e-9


@pytest.mark.parametrize(("error", "most"), [(0.01, 500), (5.0, 500), (0.01, 2), (0.01, 1)])
def test_a_rough_product_makes_the_same_solutions(matrices, error, most):
    b = torch.randn(4, SIZE, dtype=torch.float64)
    product = lambda v: {"v": torch.einsum("sij,sj->si", matrices, v["v"])}  # noqa: E731
    rough = lambda v: {"v": (1 + error) * product(v)["v"]}  # noqa: E731
    found = conjugate_gradient(product, {"v": b}, dict, systems=1, tolerance=1e-9, max_iterations=most, rough=rough)
    left = (b - product(found.x)["v"]).norm(dim=1) / b.norm(dim=1)
    assert found.iterations <= most
    assert most < 500 or float(found.residual.max()) <= 1e-9
    torch.testing.assert_close(found.residual, left, rtol=1e-3, atol=1e-12)


def test_residuals_are_relative_to_what_was_eliminated_too(matrices):
    b = {"v": torch.randn(4, SIZE, dtype=torch.float64)}
    how = {"systems": 1, "tolerance": 0.01, "max_iterations": 500}
    product = lambda v: {"v": torch.einsum("sij,sj->si", matrices, v["v"])}  # noqa: E731
    alone = conjugate_gradient(product, b, dict, **how)
    together = conjugate_gradient(product, b, dict, **how, eliminated=99 * float(b["v"].square().sum(1).max()))
    assert float(together.residual.max()) <= 0.01
    assert together.iterations < alone.iterations


def test_channels_that_go_together_take_fewer_iterations():
    channels, places = 32, 8
    root = torch.randn(channels, channels, dtype=torch.float64) / channels**0.5
    matrix = root @ root.T + 0.05 * torch.eye(channels, dtype=torch.float64)
    scale = torch.rand(channels, places, places, dtype=torch.float64) + 0.5
    product = lambda v: {"z": scale * torch.einsum("cd,nbdhw->nbchw", matrix, scale * v["z"])}  # noqa: E731
    noise = torch.randn(20, 1, channels, places, places, dtype=torch.float64)
    drawn = {"z": scale * torch.einsum("cd,nbdhw->nbchw", torch.linalg.cholesky(matrix), noise)}
    good = ChannelPreconditioner(drawn, {"z": torch.zeros(1, channels, places, places, dtype=torch.float64)})
    how = {"systems": 2, "tolerance": 1e-6, "max_iterations": 500}
    b = {"z": torch.randn(1, 1, channels, places, places, dtype=torch.float64)}
    with_it = conjugate_gradient(product, b, good, **how)
    without = conjugate_gradient(product, b, dict, **how)
    torch.testing.assert_close(with_it.x["z"], without.x["z"], rtol=1e-3, atol=1e-3)
    assert with_it.iterations < without.iterations / 2
