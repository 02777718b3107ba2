"""An operator whose gradient is lost, in whole or in part, is refused; others pass."""

import deepinv
import pyro.distributions as dist
import pytest
import torch
from deepinv.physics import GaussianNoise

import pyro_vble as pv
from pyro_vble.physics import GaussianBlur
from pyro_vble.physics.gradients import check_gradients
from pyro_vble.physics.problems import deblurring, gaussian_kernel, inpainting, super_resolution


class Operator:
    def __init__(self, A):
        self.A, self.noise_model = A, GaussianNoise(0.1)


LOST = {
    "NumPy": lambda x: torch.from_numpy(x.detach().numpy() * 0.5),
    "detach": lambda x: 0.5 * x.detach(),
    "detached, with a gradient of nothing": lambda x: 0.5 * x.detach() + 0 * x,
    "half of the bands": lambda x: torch.cat((x[:, :1].detach(), x[:, 1:]), 1),
    "rounding": lambda x: (4 * x).round() / 4,
    "8 bits": lambda x: (255 * x).round() / 255,
    "no_grad": torch.no_grad()(lambda x: 0.5 * x),
    "a gradient of another": lambda x: 0.5 * x.detach() + 2 * (x - x.detach()),
}
KEPT = {
    "identity": lambda x: x,
    "gain": lambda x: 10 * x,
    "square": lambda x: x**2,
    "saturation in A": lambda x: x.clamp(max=0.6),
    "modulo": lambda x: x % 1.0,
    "flip": lambda x: x.flip(-1),
    "one band": lambda x: x.mean(1, keepdim=True),
    "absolute value": lambda x: (x - 0.5).abs(),
    "exposure": lambda x: 1 - torch.exp(-3 * x),
}


@pytest.mark.parametrize("name", LOST)
def test_lost(name, cae):
    y = torch.rand(1, 3, 32, 32)
    with pytest.raises(ValueError, match=r"physics.A must pass gradients on"):
        pv.restore(y, Operator(LOST[name]), cae, num_steps=1, progress=False)


@pytest.mark.parametrize("name", KEPT)
def test_kept(name):
    check_gradients(Operator(KEPT[name]), torch.rand(2, 3, 16, 16), {})


@pytest.mark.parametrize(
    "physics",
    [
        deblurring(0.1, gaussian_kernel(2.0)),
        super_resolution(0.1, (3, 32, 32), 2),
        inpainting(0.1, (torch.rand(3, 32, 32) > 0.5).float()),
        GaussianBlur(1.5),
        deepinv.physics.Decolorize(),
    ],
    ids=lambda physics: type(physics).__name__,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_deepinvs_operators_pass(physics, dtype):
    check_gradients(physics.to(dtype), torch.rand(1, 3, 32, 32, dtype=dtype), {})


def test_a_parameter_without_a_gradient_is_refused(cae):
    class Blur(GaussianBlur):
        def A(self, x, width=None, **kwargs):
            return super().A(x, None if width is None else torch.tensor([float(w) for w in width]))

    y = torch.rand(1, 3, 32, 32)
    physics = Blur(1.5, noise_model=GaussianNoise(0.1))
    with pytest.raises(ValueError, match=r"needs a gradient through physics.A; received one of 'width'"):
        pv.restore(y, physics, cae, physics_priors={"width": dist.LogNormal(0.0, 0.3)}, num_steps=1, progress=False)


def test_operators_that_return_nan_are_named(cae):
    y = torch.rand(1, 3, 32, 32)
    with pytest.raises(ValueError, match=r"NaN or infinity for images a little beyond \[0, 1\]"):
        pv.restore(y, Operator(lambda x: x**2.2), cae, num_steps=1, progress=False)
    with pytest.raises(ValueError, match=r"NaN or infinity for images in \[0, 1\]"):
        pv.restore(y, Operator(lambda x: x / 0), cae, num_steps=1, progress=False)
