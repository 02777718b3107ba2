"""Scopes of precision leave nothing behind, and hold no weight that has moved on."""

import threading

import pytest
import torch

from pyro_vble._precision import exact_convolutions
from pyro_vble.inference.precision import network_precision

CUDA = torch.device("cuda")  # the flags are there without one


class TestExactConvolutions:
    def test_tf32_is_off_within_and_back_after(self):
        assert torch.backends.cudnn.allow_tf32
        with exact_convolutions(CUDA):
            with network_precision("float32", CUDA):
                assert not torch.backends.cudnn.allow_tf32
            assert not torch.backends.cudnn.allow_tf32
        assert torch.backends.cudnn.allow_tf32

    def test_scopes_that_overlap_in_two_threads(self):
        entered, leave = threading.Event(), threading.Event()

        def other():
            with exact_convolutions(CUDA):
                entered.set()
                leave.wait(10)

        thread = threading.Thread(target=other)
        with exact_convolutions(CUDA):
            thread.start()
            entered.wait(10)
        assert not torch.backends.cudnn.allow_tf32
        leave.set()
        thread.join()
        assert torch.backends.cudnn.allow_tf32

    def test_a_callers_own_choice_stands(self):
        try:
            torch.backends.cudnn.allow_tf32 = False
            with exact_convolutions(CUDA):
                assert not torch.backends.cudnn.allow_tf32
            assert not torch.backends.cudnn.allow_tf32
        finally:
            torch.backends.cudnn.allow_tf32 = True

    def test_nothing_is_touched_for_a_cpu(self):
        with exact_convolutions(torch.device("cpu")):
            assert torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_weight_that_has_moved_is_seen_within_the_scope(precision):
    """A guide with layers of its own trains within one scope, whose autocast must not keep its first weights."""
    layer, x = torch.nn.Linear(3, 3, bias=False), torch.ones(1, 3)
    with network_precision(precision, torch.device("cpu")):
        before = layer(x).detach().float()
        with torch.no_grad():
            layer.weight.mul_(2)
        torch.testing.assert_close(layer(x).detach().float(), 2 * before)
