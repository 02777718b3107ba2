"""Muon: directions are orthogonal, sizes those of Adam, and a bad step changes nothing."""

import pytest
import torch

from pyro_vble.training.muon import Muon, orthogonalised


class TestOrthogonalised:
    @pytest.mark.parametrize("shape", [(12, 40), (40, 12), (16, 16), (3, 12, 40)])
    def test_singular_vectors_stay_and_values_come_near_one(self, shape):
        matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        u, _, vt = torch.linalg.svd(matrices, full_matrices=False)
        inner = u.mT @ orthogonalised(matrices) @ vt.mT
        values = torch.diagonal(inner, dim1=-2, dim2=-1)
        torch.testing.assert_close(inner, torch.diag_embed(values), atol=1e-9, rtol=0)
        # The quintic's own bounds on what it does to values that it has brought close.
        assert values.min() > 0.6
        assert values.max() < 1.25

    def test_zero_stays_zero(self):
        assert not orthogonalised(torch.zeros(3, 4)).any()


class TestMuon:
    @staticmethod
    def layers():
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 5), torch.nn.Conv2d(8, 4, 3))

    @staticmethod
    def gradients(layers, x):
        layers.zero_grad()
        layers(x).square().mean().backward()

    def test_the_first_step_is_the_orthogonalised_gradient(self):
        layers, x = self.layers(), torch.randn(2, 3, 16, 16)
        self.gradients(layers, x)
        weight, bias = layers[0].weight, layers[0].bias
        before, gradient, of_bias = weight.detach().clone(), weight.grad.clone(), bias.grad.clone()
        bias_before = bias.detach().clone()
        Muon(layers.parameters(), lr=0.01).step()
        direction = orthogonalised(gradient.reshape(8, -1)).reshape(weight.shape)
        torch.testing.assert_close(before - weight, 0.01 * 0.2 * 75**0.5 * direction, atol=1e-6, rtol=1e-4)
        # Adam's first step: the sign.
        torch.testing.assert_close(bias_before - bias, 0.01 * of_bias.sign(), atol=1e-5, rtol=1e-3)

    def test_other_parameters_are_adams(self):
        ours, theirs = (torch.nn.Parameter(torch.ones(5)) for _ in range(2))
        target = torch.linspace(-1, 1, 5)
        optimisers = [Muon([ours], lr=0.05), torch.optim.Adam([theirs], lr=0.05)]
        for _ in range(30):
            for p, optimiser in zip((ours, theirs), optimisers, strict=True):
                p.grad = 2 * (p.detach() - target)
                optimiser.step()
        torch.testing.assert_close(ours, theirs)

    def test_a_rate_may_be_a_tensor(self):
        weights = []
        for lr in (0.01, torch.tensor(0.01)):
            layers, x = self.layers(), torch.ones(1, 3, 16, 16)
            optimiser = Muon(layers.parameters(), lr=lr)
            for _ in range(3):
                self.gradients(layers, x)
                optimiser.step()
            weights.append(layers[0].weight.detach())
        torch.testing.assert_close(*weights)

    @pytest.mark.parametrize("good_before", [0, 1, 3])
    def test_a_bad_step_changes_neither_weights_nor_moments(self, good_before):
        layers, x = self.layers(), torch.randn(2, 3, 16, 16)
        optimiser = Muon(layers.parameters(), lr=0.01)
        for _ in range(good_before):
            self.gradients(layers, x)
            optimiser.step()
        weights = [p.detach().clone() for p in layers.parameters()]
        moments = [v.clone() for state in optimiser.state.values() for v in state.values()]
        for p in layers.parameters():
            p.grad = torch.full_like(p, torch.nan)
        optimiser.found_inf = torch.tensor(1.0)
        optimiser.step()
        after = [v for state in optimiser.state.values() for v in state.values()]
        moments = moments or [torch.zeros_like(v) for v in after]
        for old, new in zip(weights + moments, [*layers.parameters(), *after], strict=True):
            torch.testing.assert_close(new.detach(), old, atol=0, rtol=0)

    def test_a_state_goes_where_its_parameters_are(self):
        """Counts of steps too, which torch leaves where a checkpoint was read."""
        layers, x = self.layers(), torch.ones(1, 3, 16, 16)
        optimiser = Muon(layers.parameters(), lr=0.01)
        self.gradients(layers, x)
        optimiser.step()
        elsewhere = Muon([p.detach().to("meta") for p in layers.parameters()], lr=0.01)
        elsewhere.load_state_dict(optimiser.state_dict())
        assert {v.device.type for state in elsewhere.state.values() for v in state.values()} == {"meta"}
