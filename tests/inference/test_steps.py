"""Steps of a fit: the same as Pyro's, and without a word to the host."""

import warnings

import deepinv
import pyro
import pyro.distributions as dist
import pytest
import torch
from helpers import small_network
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from pyro_vble.guides import VBLE, MAPz, VBLExz
from pyro_vble.guides._parameters import parameter_scope
from pyro_vble.inference import FitSettings, tempered
from pyro_vble.inference.elbo import DeviceELBO, DeviceTraceELBO
from pyro_vble.inference.snapshot import Snapshot
from pyro_vble.inference.steps import CapturedSteps, EagerSteps, _elbo
from pyro_vble.models import CAE, RestorationModel, convolutional_vae
from pyro_vble.physics import GaussianBlur
from pyro_vble.physics.problems import deblurring, gaussian_kernel, inpainting

Y = torch.rand(2, 3, 64, 64)


class NoHost(FakeTensorMode):
    """A GPU without values or hardware, which refuses to read one back or to exchange tensors with the host."""

    watching = False

    def __init__(self):
        super().__init__(allow_non_fake_inputs=True)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        # A number of the host may be an operand: it travels with the launch. To copy one takes a wait.
        copies = "copy" in func.name()
        before = {a.device.type for a in args if isinstance(a, torch.Tensor) and (a.dim() or copies)}
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if self.watching and isinstance(out, torch.Tensor) and len(before | {out.device.type}) > 1:
            raise RuntimeError(f"{func} exchanged a tensor between {before} and {out.device.type}")
        return out

    def take(self, module):
        """Put a module there."""
        for part in module.modules():
            for tensors in (part._parameters, part._buffers):
                for name, value in tensors.items():
                    if value is not None:
                        tensors[name] = self.on_device(value)

    def on_device(self, value):
        plain = value.detach()
        with self:
            moved = self.from_tensor(plain).to("cuda")
            return torch.nn.Parameter(moved, value.requires_grad) if isinstance(value, torch.nn.Parameter) else moved


OPERATORS = {
    "blur": lambda: deblurring(0.03, gaussian_kernel(1.0)),
    "mask": lambda: inpainting(0.03, (torch.rand(3, 64, 64) > 0.5).float()),
    "poisson-gaussian": lambda: deepinv.physics.Denoising(deepinv.physics.PoissonGaussianNoise(0.01, 0.02)),
    "poisson": lambda: deepinv.physics.Denoising(deepinv.physics.PoissonNoise(0.02)),
    "gamma": lambda: deepinv.physics.Denoising(deepinv.physics.GammaNoise(10.0)),
    "none": lambda: deepinv.physics.Denoising(deepinv.physics.ZeroNoise()),
}


def step_without_host(
    guide_class,
    operator="blur",
    kl_weight=1.0,
    num_particles=1,
    elbo="auto",
    priors=None,
    spoil=lambda loss: loss,
    prior=None,
):
    """What of a step is ours to capture, guide, model and ELBO: autograd's own kernels need no host."""
    physics = GaussianBlur(1.0, noise_model=deepinv.physics.GaussianNoise(0.03)) if priors else OPERATORS[operator]()
    options = {"latent_image": guide_class.latent_image, "physics_priors": priors}
    y = Y if prior is None else torch.rand(2, *prior.image_shape)
    model = RestorationModel(prior or CAE(small_network(), alpha=0.025), physics, **options)
    guide = guide_class(model, y.clamp_min(0.1))
    there = NoHost()
    for module in (model, guide, physics):
        there.take(module)
    y = there.on_device(y)
    programs = tempered(model, kl_weight), tempered(guide, kl_weight)
    loss = _elbo(FitSettings(num_particles=num_particles, elbo=elbo), guide, True)
    with there, parameter_scope(guide), pyro.validation_enabled(False):
        loss.differentiable_loss(*programs, y)  # what is made once, at the first step
        there.watching = True
        value = spoil(loss.differentiable_loss(*programs, y))
    assert value.is_cuda
    assert value.requires_grad


class TestNoHost:
    @pytest.mark.parametrize("operator", OPERATORS)
    def test_noise_models(self, operator):
        step_without_host(VBLE, operator)

    @pytest.mark.parametrize("guide_class", [VBLE, VBLExz, MAPz])
    @pytest.mark.parametrize("elbo", ["trace", "mean_field"])
    def test_guides(self, guide_class, elbo):
        step_without_host(guide_class, elbo=elbo)

    def test_tempered_and_with_particles(self):
        step_without_host(VBLExz, kl_weight=0.7, num_particles=3)

    def test_semi_blind(self):
        step_without_host(VBLExz, priors={"sigma": dist.HalfNormal(0.1), "width": dist.LogNormal(0.0, 0.5)})

    @pytest.mark.parametrize("guide_class", [VBLE, VBLExz])
    def test_a_vae_of_one_standard_deviation(self, guide_class):
        step_without_host(guide_class, "none", prior=convolutional_vae((1, 28, 28), decoder_std=0.1))

    def test_the_watch_sees_a_value_read_back(self):
        with pytest.raises(DataDependentOutputException):
            step_without_host(VBLE, spoil=lambda loss: loss * float(loss.detach()))

    def test_the_watch_sees_a_tensor_from_the_host(self):
        with pytest.raises(RuntimeError, match="exchanged"):
            step_without_host(VBLE, spoil=lambda loss: (loss * torch.ones(3).to("cuda")).sum())


class TestLoss:
    @pytest.mark.parametrize("particles", [1, 3])
    @pytest.mark.parametrize(("ours", "theirs"), [(DeviceELBO, "TraceMeanField_ELBO"), (DeviceTraceELBO, "Trace_ELBO")])
    def test_is_pyros(self, cae, denoising, ours, theirs, particles):
        model = RestorationModel(cae, denoising, latent_image=True)
        guide = VBLExz(model, Y)
        losses, gradients = [], []
        for kind in (ours, getattr(pyro.infer, theirs)):
            torch.manual_seed(3)
            loss = kind(num_particles=particles, vectorize_particles=True, max_plate_nesting=1)
            loss = loss.differentiable_loss(model, guide, Y)
            losses.append(float(loss.detach()))
            gradients.append(torch.autograd.grad(loss, list(guide.parameters())))
        assert losses[0] == pytest.approx(losses[1], rel=1e-6)
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(one, other)


def quadratic(device="cpu"):
    p = torch.nn.Parameter(torch.full((4,), 3.0, device=device))
    guide = torch.nn.Module()
    guide.p = p
    return p, guide, lambda: ((p - 1.0) ** 2).sum()


class TestSnapshot:
    def test_takes_parameters_and_moments_back_in_place(self):
        p, guide, loss = quadratic()
        steps = EagerSteps(loss, guide, (0.9, 0.99))
        for _ in range(3):
            steps.step(0.1)
        snapshot, storage = Snapshot(steps), p.data_ptr()
        on, back = [[float(steps.step(0.1)) for _ in range(5)] for _ in range(2) if not snapshot.restore()]
        assert on == back
        assert p.data_ptr() == storage

    def test_what_a_guide_adds_later_is_optimised_too(self):
        p, _, loss = quadratic()
        steps = EagerSteps(loss, lambda y: None, (0.9, 0.99))
        assert steps.parameters == []
        steps._take_in([p])
        steps.step(0.1)
        torch.testing.assert_close(p.detach(), torch.full((4,), 2.9))


@pytest.mark.cuda
class TestCapture:
    def test_a_captured_step_is_an_eager_step(self):
        ends = []
        for kind in (EagerSteps, CapturedSteps):
            p, guide, loss = quadratic("cuda")
            steps = kind(loss, guide, (0.9, 0.99))
            losses = torch.stack([steps.step(0.1 / (k + 1)) for k in range(12)])
            ends.append((p.detach().clone(), losses))
        torch.testing.assert_close(ends[0], ends[1])

    def test_a_second_fit_of_the_same_parameters_starts_without_gradients(self):
        ends = []
        for kind in (EagerSteps, CapturedSteps):
            p, guide, loss = quadratic("cuda")
            for _ in range(2):
                steps = kind(loss, guide, (0.9, 0.99))
                for _ in range(5):
                    steps.step(0.1)
                steps.release()
            ends.append(p.detach().clone())
        torch.testing.assert_close(*ends)

    def test_replays_draw_anew(self):
        p, guide, _ = quadratic("cuda")
        steps = CapturedSteps(lambda: (p * torch.randn_like(p)).sum(), guide, (0.9, 0.99))
        losses = torch.stack([steps.step(0.0) for _ in range(10)])
        assert len(losses.unique()) == 10

    def test_what_cannot_be_captured_goes_on_with_one_warning(self):
        p, guide, loss = quadratic("cuda")
        steps = CapturedSteps(lambda: loss() * float(loss().detach() > -1), guide, (0.9, 0.99))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(20):
                steps.step(0.1)
        assert len([w for w in caught if "CUDA graph" in str(w.message)]) == 1
        assert float((p - 1).abs().max()) < 1.5
        assert torch.rand(3, device="cuda").isfinite().all()  # the generator answers

    @pytest.mark.parametrize("guide_class", [VBLE, VBLExz])
    def test_a_restoration_is_captured(self, bundled, guide_class):
        import pyro_vble as pv

        physics = deblurring(0.03, gaussian_kernel(1.0))
        options = {"seed": 0, "progress": False, "num_steps": 40, "precision": "float32"}
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            ours = pv.restore(Y, physics, bundled, guide_class, device="cuda", **options)
        theirs = pv.restore(Y, physics, bundled, guide_class, device="cpu", **options)
        assert float(ours.elbo[-5:].mean()) == pytest.approx(float(theirs.elbo[-5:].mean()), rel=0.01)
