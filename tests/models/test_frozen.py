"""Frozen networks: other layers, the same function."""

import pytest
import torch
from helpers import ARCHITECTURES, small_network
from torch import nn

from pyro_vble.models.freezing import SubpixelConvTranspose2d, frozen
from pyro_vble.models.gdn import FrozenGDN, fuse_gdn


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("bias", [True, False])
def test_subpixel_convolution_and_its_gradient(channels, bias):
    layer = nn.ConvTranspose2d(6, channels, 5, 2, 2, 1, bias=bias).double()
    x = torch.randn(2, 6, 5, 7, dtype=torch.float64, requires_grad=True)
    ours = SubpixelConvTranspose2d(layer)
    torch.testing.assert_close(ours(x), layer(x))
    ours_grad, theirs = (torch.autograd.grad(m(x).square().sum(), x)[0] for m in (ours, layer))
    torch.testing.assert_close(ours_grad, theirs)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_networks_keep_their_function_and_the_names_of_their_weights(architecture):
    network = small_network(architecture)
    copied = frozen(network)
    z = torch.randn(2, 12 if "Cheng" not in architecture else 8, 3, 4)
    torch.testing.assert_close(copied.g_s(z), network.g_s(z), rtol=1e-4, atol=1e-4)
    x = torch.rand(1, 3, 64, 128)
    torch.testing.assert_close(copied.g_a(x), network.g_a(x), rtol=1e-4, atol=1e-4)
    assert copied.state_dict().keys() == network.state_dict().keys()
    assert not any(p.requires_grad for p in copied.parameters())
    assert all(p.requires_grad for p in network.parameters())


def test_layers_in_training_are_exchanged_too():
    network = small_network()
    fuse_gdn(network)
    assert sum(isinstance(m, FrozenGDN) for m in frozen(network).modules()) == 6


def test_layers_are_exchanged_once():
    once = frozen(small_network())
    assert any(isinstance(m, FrozenGDN) for m in once.modules())
    assert sum(isinstance(m, SubpixelConvTranspose2d) for m in once.modules()) == 1
    z = torch.randn(1, 12, 2, 2)
    torch.testing.assert_close(frozen(once).g_s(z), once.g_s(z))


def test_nothing_is_shared_with_the_original():
    network = small_network("JointAutoregressiveHierarchicalPriors")
    copied = frozen(network)
    pointers = [
        {v.untyped_storage().data_ptr() for v in (*m.parameters(), *m.buffers()) if v.numel()}
        for m in (network, copied)
    ]
    assert not pointers[0] & pointers[1]


def test_a_context_model_keeps_its_memory_from_call_to_call():
    """What a CUDA graph has captured it reads where it lay."""
    network = small_network("JointAutoregressiveHierarchicalPriors")
    with torch.no_grad():
        network.context_prediction.weight.fill_(1.0)  # beyond the mask, too
    context = frozen(network).context_prediction
    before, z = context.weight.data_ptr(), torch.randn(1, 12, 5, 6)
    torch.testing.assert_close(context(z), network.context_prediction(z))
    assert context.weight.data_ptr() == before


def test_other_transposed_convolutions_stay():
    kept = nn.Sequential(nn.ConvTranspose2d(4, 3, 4, 2, 1), nn.ConvTranspose2d(3, 8, 5, 2, 2, 1))
    assert [type(m) for m in frozen(kept)] == [nn.ConvTranspose2d] * 2


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("assign", [False, True])
def test_loading_other_weights_leaves_nothing_of_the_old(architecture, assign):
    """What layers derive from their weights must follow them."""
    other = small_network(architecture)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1 * torch.rand(parameter.shape))
    stale = frozen(small_network(architecture))
    # CompressAI's own load_state_dict knows no assign: a module around it is what passes it on.
    nn.ModuleList([stale]).load_state_dict(nn.ModuleList([other]).state_dict(), assign=assign)
    fresh = frozen(other)
    z = torch.randn(2, 12 if "Cheng" not in architecture else 8, 3, 4)
    x = torch.rand(1, 3, 64, 128)
    tolerance = (
        {"rtol": 1e-4, "atol": 1e-5} if assign else {"rtol": 0, "atol": 0}
    )  # assigned, weights keep their layout
    torch.testing.assert_close(stale.g_s(z), fresh.g_s(z), **tolerance)
    torch.testing.assert_close(stale.g_a(x), fresh.g_a(x), **tolerance)
    if hasattr(stale, "context_prediction"):
        torch.testing.assert_close(stale.context_prediction(z), fresh.context_prediction(z), **tolerance)


def test_loading_keeps_the_memory_that_a_captured_step_reads():
    network = frozen(small_network())
    derived = [b for name, b in network.named_buffers() if name.rsplit(".", 1)[-1] in ("_gamma", "_beta", "_phases")]
    before = [value.data_ptr() for value in derived]
    network.load_state_dict(small_network().state_dict())
    assert len(before) == 13
    assert [value.data_ptr() for value in derived] == before


def test_a_copy_of_a_frozen_network_follows_its_own_weights():
    other = small_network()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1)
    once = frozen(small_network())
    twice, z = frozen(once), torch.randn(1, 12, 2, 2)
    before = once.g_s(z)
    twice.load_state_dict(other.state_dict())
    assert torch.equal(twice.g_s(z), frozen(other).g_s(z))
    assert torch.equal(once.g_s(z), before)
