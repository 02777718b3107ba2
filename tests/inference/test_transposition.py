"""Products with Jacobians of convolutions are those of PyTorch's own gradients."""

import pytest
import torch
from torch.nn import functional as F

from pyro_vble.inference.transposition import TransposableLayers
from pyro_vble.models.gdn import divisive_normalisation

CALLS = {
    "conv2d": lambda x: F.conv2d(x, WEIGHT, BIAS, padding=1),
    "strided": lambda x: F.conv2d(x, WEIGHT, None, 2, (1, 0)),
    "dilated": lambda x: F.conv2d(x, WEIGHT, dilation=2),
    "grouped": lambda x: F.conv2d(x, GROUPED, groups=4),
    "valid": lambda x: F.conv2d(x, WEIGHT, padding="valid"),
    "same": lambda x: F.conv2d(x, WEIGHT, padding="same"),
    "transposed": lambda x: F.conv_transpose2d(x, WEIGHT.transpose(0, 1), BIAS, stride=2, padding=1, output_padding=1),
    "transposed, in order": lambda x: F.conv_transpose2d(x, GROUPED, None, 2, 1, 1, 4),
    "conv1d": lambda x: F.conv1d(x.flatten(2), WEIGHT[..., 0]),
    "normalised": lambda x: divisive_normalisation(x.reshape(-1, 4), GAMMA, BETA, False),
    "normalised, inversely": lambda x: divisive_normalisation(x.reshape(-1, 4), GAMMA, BETA, True),
}
WEIGHT, GROUPED, BIAS = torch.randn(6, 4, 3, 3).double(), torch.randn(4, 1, 3, 3).double(), torch.randn(6).double()
GAMMA, BETA = torch.rand(4, 4).double(), torch.rand(4).double()


def products(call, x, v):
    """The output, Jᵀu and J v at u = its square."""
    x = x.clone().requires_grad_()
    y = call(x) ** 2
    probe = torch.zeros_like(y).requires_grad_()
    (gradient,) = torch.autograd.grad(y, x, probe, create_graph=True)
    (forward,) = torch.autograd.grad(gradient, probe, v, retain_graph=True)
    return y.detach(), torch.autograd.grad(y, x, y.detach())[0], forward


@pytest.mark.parametrize("name", CALLS)
def test_products(name):
    x, v = torch.randn(2, 2, 4, 9, 8, dtype=torch.float64)
    expected = products(CALLS[name], x, v)
    with TransposableLayers():
        found = products(CALLS[name], x, v)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("inverse", [False, True])
def test_copies_share_what_is_kept(inverse):
    x, v = torch.randn(2, 6, 4, dtype=torch.float64)
    x, call = x[:3].repeat(2, 1), lambda x: divisive_normalisation(x, GAMMA, BETA, inverse)
    expected = products(call, x, v)
    with TransposableLayers(copies=2):
        found = products(call, x, v)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_a_weight_that_learns_keeps_its_gradient():
    layer = torch.nn.Conv2d(4, 6, 3).double()
    with TransposableLayers():
        layer(torch.randn(1, 4, 5, 5, dtype=torch.float64, requires_grad=True)).sum().backward()
    assert layer.weight.grad is not None
