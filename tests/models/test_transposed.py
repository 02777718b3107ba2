"""Transposed convolutions whose bias has its gradient from a product of matrices: the same function and gradients."""

import pytest
import torch
from helpers import small_network
from torch import nn

from pyro_vble.models.transposed import TransposedConvolution, apart_biases


@pytest.mark.parametrize("of_x", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
def test_same_values_and_gradients(stride, of_x):
    theirs = nn.ConvTranspose2d(4, 3, 5, stride=stride, padding=2, output_padding=stride - 1).double()
    ours = TransposedConvolution(theirs)
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64, requires_grad=of_x)
    torch.testing.assert_close(ours(x), theirs(x))
    inputs = [theirs.weight, theirs.bias, *([x] if of_x else [])]
    torch.testing.assert_close(*([*torch.autograd.grad((m(x) ** 3).sum(), inputs)] for m in (theirs, ours)))


def test_gradients_of_the_input_alone():
    layer = nn.ConvTranspose2d(4, 3, 5, stride=2).double().requires_grad_(False)
    x = torch.randn(1, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(TransposedConvolution(layer), x)


def test_under_autocast_it_is_as_good_as_the_layer():
    theirs = nn.ConvTranspose2d(16, 8, 5, stride=2, padding=2, output_padding=1)
    x = torch.randn(2, 16, 8, 8).to(memory_format=torch.channels_last)

    def found(module):
        out = module(x)
        return [out.detach().float(), *torch.autograd.grad(out.float().square().sum(), [theirs.weight, theirs.bias])]

    exact = found(theirs)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = [found(module) for module in (theirs, TransposedConvolution(theirs))]
    for one, other, right in zip(*outputs, exact, strict=True):
        assert other.dtype == right.dtype
        assert float((other - right).norm()) < 1.5 * float((one - right).norm())


def test_a_network_keeps_the_names_and_order_of_its_weights():
    network = small_network()
    keys, parameters, z = list(network.state_dict()), list(dict(network.named_parameters())), torch.randn(1, 12, 4, 4)
    expected = network.g_s(z)
    apart_biases(network)
    assert sum(isinstance(module, TransposedConvolution) for module in network.modules()) == 6  # g_s and h_s
    assert list(network.state_dict()) == keys
    assert list(dict(network.named_parameters())) == parameters
    torch.testing.assert_close(network.g_s(z), expected)
