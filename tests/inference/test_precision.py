"""Scopes of precision leave nothing behind, and hold no weight that has moved on."""

import pytest
import torch

from pyro_vble._precision import exact_convolutions
from pyro_vble.inference.precision import network_precision

CUDA = torch.device("cuda")  # the flags are there without one


class TestExactConvolutions:
    @pytest.fixture
    def convolutions(self):
        """The setting of cuDNN's convolutions, afterwards as it was."""
        conv = torch.backends.cudnn.conv
        before = conv.fp32_precision
        yield conv
        conv.fp32_precision = before

    @pytest.mark.parametrize("chosen", ["tf32", "ieee", "none"])
    def test_tf32_is_off_within_and_the_callers_choice_back_after(self, convolutions, chosen):
        convolutions.fp32_precision = chosen
        with exact_convolutions(CUDA):
            with network_precision("float32", CUDA):
                assert convolutions.fp32_precision == "ieee"
            assert convolutions.fp32_precision == "ieee"
        assert convolutions.fp32_precision == chosen

    def test_nothing_is_touched_for_a_cpu(self, convolutions):
        convolutions.fp32_precision = "tf32"
        with exact_convolutions(torch.device("cpu")):
            assert convolutions.fp32_precision == "tf32"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_weight_that_has_moved_is_seen_within_the_scope(precision):
    """A guide with layers of its own trains within one scope, whose autocast must not keep its first weights."""
    layer, x = torch.nn.Linear(3, 3, bias=False), torch.ones(1, 3)
    with network_precision(precision, torch.device("cpu")):
        before = layer(x).detach().float()
        with torch.no_grad():
            layer.weight.mul_(2)
        torch.testing.assert_close(layer(x).detach().float(), 2 * before)
