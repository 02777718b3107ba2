"""Divisive normalisation in one node: the same function and gradients."""

import pytest
import torch
from compressai.layers import GDN
from helpers import small_network

from pyro_vble.models.gdn import FrozenGDN, FusedGDN, fuse_gdn


def layer(inverse: bool, channels: int = 5) -> GDN:
    found = GDN(channels, inverse=inverse)
    with torch.no_grad():
        found.gamma.copy_(torch.rand(channels, channels))
    return found


@pytest.mark.parametrize("inverse", [False, True])
class TestFunction:
    def test_of_fixed_weights(self, inverse):
        theirs = layer(inverse).double().requires_grad_(False)
        ours = FrozenGDN(theirs)
        x = torch.randn(2, 5, 4, 3, dtype=torch.float64, requires_grad=True)
        torch.testing.assert_close(ours(x), theirs(x))
        assert torch.autograd.gradcheck(ours, x)

    @pytest.mark.parametrize("of_x", [True, False])
    def test_of_weights_in_training(self, inverse, of_x):
        theirs = layer(inverse).double()
        ours = FusedGDN(theirs)
        x = torch.randn(2, 5, 4, 3, dtype=torch.float64, requires_grad=of_x)
        inputs = [theirs.gamma, theirs.beta, *([x] if of_x else [])]
        gradients = [torch.autograd.grad((module(x) ** 3).sum(), inputs) for module in (theirs, ours)]
        torch.testing.assert_close(*gradients)

    def test_under_autocast_it_is_as_good_as_the_layer(self, inverse):
        theirs = layer(inverse, 16)
        x = torch.randn(1, 16, 8, 8)

        def found(module):
            out = module(x.bfloat16() if torch.is_autocast_enabled("cpu") else x)
            return [out.detach().float(), *torch.autograd.grad(out.float().square().sum(), [theirs.gamma, theirs.beta])]

        exact = found(theirs)
        with torch.autocast("cpu", torch.bfloat16):
            outputs = [found(module) for module in (theirs, FusedGDN(theirs))]
        for one, other, right in zip(*outputs, exact, strict=True):
            assert float((other - right).norm()) < 1.5 * float((one - right).norm())


def test_a_network_keeps_the_names_and_order_of_its_weights():
    network = small_network()
    before = {name: p.clone() for name, p in network.named_parameters()}
    keys, x = list(network.state_dict()), torch.rand(1, 3, 64, 64)
    expected = network.g_s(network.g_a(x))
    fuse_gdn(network)
    assert sum(isinstance(module, FusedGDN) for module in network.modules()) == 6
    assert list(network.state_dict()) == keys
    assert list(dict(network.named_parameters())) == list(before)
    torch.testing.assert_close(network.g_s(network.g_a(x)), expected, rtol=1e-4, atol=1e-5)
