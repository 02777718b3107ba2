"""Steps of Pyro's SVI as a fit takes them: the same losses, without a word to the host, and a way back."""

import unittest.mock
import warnings
from functools import partial

import deepinv
import pyro
import pyro.distributions as dist
import pytest
import torch
from helpers import small_network
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoIAFNormal, AutoNormal
from pyro.nn import PyroModule, PyroParam
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from pyro_vble.guides import VBLE, MAPz, VBLExz
from pyro_vble.guides.building import wants_latent_image
from pyro_vble.guides.parameters import local_parameters, parameter_scope
from pyro_vble.inference import (
    DeviceELBO,
    DeviceTraceELBO,
    FitSettings,
    FitSVI,
    Pace,
    ScheduledAdam,
    StickingTheLandingELBO,
    tempered,
)
from pyro_vble.inference.captured import CapturedSVI
from pyro_vble.inference.elbo import elbo_for
from pyro_vble.models import CAE, RestorationModel, convolutional_vae
from pyro_vble.models.turned import Turn, TurnedPrior
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
    options = {"latent_image": wants_latent_image(guide_class), "physics_priors": priors}
    y = Y if prior is None else torch.rand(2, *prior.image_shape)
    model = RestorationModel(prior or CAE(small_network(), alpha=0.025), physics, **options)
    guide = guide_class(model, y.clamp_min(0.1))
    there = NoHost()
    for module in (model, guide, physics):
        there.take(module)
    y = there.on_device(y)
    programs = tempered(model, kl_weight), tempered(guide, kl_weight)
    settings = FitSettings(num_particles=num_particles, elbo=elbo)
    loss = elbo_for(guide, settings, reparameterised=True, on_cuda=True)
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
    @pytest.mark.parametrize("elbo", ["trace", "mean_field", "stl"])
    def test_guides(self, guide_class, elbo):
        step_without_host(guide_class, elbo=elbo)

    def test_correlated_channels(self):
        step_without_host(partial(VBLExz, family="correlated"))

    def test_tempered_and_with_particles(self):
        step_without_host(VBLExz, kl_weight=0.7, num_particles=3)

    def test_semi_blind(self):
        step_without_host(VBLExz, priors={"sigma": dist.HalfNormal(0.1), "width": dist.LogNormal(0.0, 0.5)})

    @pytest.mark.parametrize("guide_class", [VBLE, VBLExz])
    def test_a_vae_of_one_standard_deviation(self, guide_class):
        step_without_host(guide_class, "none", prior=convolutional_vae((1, 28, 28), decoder_std=0.1))

    def test_a_turned_prior(self):
        prior = TurnedPrior(convolutional_vae((1, 28, 28), decoder_std=0.1), Turn(mirrored=True, quarters=1))
        step_without_host(VBLExz, "none", prior=prior)

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


class TestStickingTheLanding:
    def problem(self):
        """A Gaussian guide at, or off, the exact posterior N(1/2, 1/2) of z ~ N(0, 1), y = 1 ~ N(z, 1)."""

        def model(y):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("y", dist.Normal(z, 1.0).to_event(1), obs=y)

        guide = PyroModule()
        guide.loc = torch.nn.Parameter(torch.full((3,), 0.5))
        guide.scale = PyroParam(torch.full((3,), 0.5**0.5), dist.constraints.positive)
        return model, guide

    def gradient(self, kind, model, guide, seed, **options):
        torch.manual_seed(seed)
        loss = kind(**options).differentiable_loss(model, guide, torch.ones(3))
        return loss.detach(), torch.cat(torch.autograd.grad(loss, list(guide.parameters())))

    @pytest.fixture
    def module_guide(self):
        model, holder = self.problem()

        class Guide(PyroModule):
            def __init__(self):
                super().__init__()
                self.loc = holder.loc
                self.scale = PyroParam(torch.full((3,), 0.5**0.5), dist.constraints.positive)

            def forward(self, y):
                pyro.sample("z", dist.Normal(self.loc, self.scale).to_event(1))

        with local_parameters():
            yield model, Guide()

    def test_at_the_posterior_its_gradient_is_zero_whatever_the_draw(self, module_guide):
        for seed in range(3):
            _, quiet = self.gradient(StickingTheLandingELBO, *module_guide, seed)
            _, noisy = self.gradient(Trace_ELBO, *module_guide, seed)
            torch.testing.assert_close(quiet, torch.zeros(6), atol=1e-6, rtol=0)
            assert float(noisy.abs().max()) > 0.01

    @pytest.mark.parametrize("options", [{}, {"num_particles": 4, "vectorize_particles": True, "max_plate_nesting": 0}])
    def test_off_it_the_loss_is_the_same_and_the_gradient_the_same_in_the_mean(self, module_guide, options):
        model, guide = module_guide
        with torch.no_grad():
            guide.loc.add_(0.4)
        found = {kind: [] for kind in (StickingTheLandingELBO, Trace_ELBO)}
        for seed in range(400):
            losses = []
            for kind, gradients in found.items():
                loss, gradient = self.gradient(kind, model, guide, seed, **options)
                losses.append(float(loss))
                gradients.append(gradient)
            assert losses[0] == pytest.approx(losses[1], rel=1e-5)
        mean, expected = (torch.stack(gradients).mean(0) for gradients in found.values())
        error = (torch.stack(found[Trace_ELBO]).var(0) + torch.stack(found[StickingTheLandingELBO]).var(0)).sqrt() / 20
        assert bool(((mean - expected).abs() < 5 * error).all())

    def test_functions_with_parameters_of_pyros_store(self):
        model, _ = self.problem()

        def guide(y):
            loc = pyro.param("loc", torch.full((3,), 0.5))
            pyro.sample("z", dist.Normal(loc, 0.5**0.5).to_event(1))

        guide(None)
        loss = StickingTheLandingELBO().differentiable_loss(model, guide, torch.ones(3))
        (gradient,) = torch.autograd.grad(loss, [pyro.get_param_store()["loc"]])
        torch.testing.assert_close(gradient, torch.zeros(3), atol=1e-6, rtol=0)

    @pytest.mark.parametrize("num_particles", [1, 3])
    @pytest.mark.parametrize("kl_weight", [1.0, 0.5])
    def test_weights_and_particles_do_not_hide_the_guide(self, kl_weight, num_particles):
        """The score is left out, and its noise: two guides that differ in their scales alone have equal gradients."""
        model, _ = self.problem()
        guide = AutoNormal(model, init_loc_fn=lambda site: torch.full((3,), 0.5), init_scale=0.5**0.5)
        guide(torch.ones(3))
        programs = tempered(model, kl_weight), tempered(guide, kl_weight)
        settings = FitSettings(elbo="stl", num_particles=num_particles)
        loss = elbo_for(guide, settings, reparameterised=True, on_cuda=False)
        detached, trace = [], poutine.trace

        def look(*args, **kwargs):
            detached.append(not any(p.requires_grad for m in guide.modules() for p in m._parameters.values()))
            return trace(*args, **kwargs)

        with unittest.mock.patch("pyro_vble.inference.elbo.poutine.trace", look):
            loss.differentiable_loss(*programs, torch.ones(3))
        assert detached[-1], "parameters of the guide have a gradient where its density is computed"

    def test_a_flow_is_refused(self, cae, denoising):
        import pyro_vble as pv

        with pytest.raises(ValueError, match=r"elbo='stl' needs densities .* choose elbo='trace'"):
            pv.restore(Y[:1], denoising, cae, AutoIAFNormal, elbo="stl", num_steps=2, progress=False)


class Loss(Trace_ELBO):
    """An ELBO of a function in place of programs."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def differentiable_loss(self, model, guide, *args, **kwargs):
        return self.function()


def quadratic(kind=FitSVI, device="cpu", loss=None):
    """Steps towards the minimum of a square, and what moves."""
    guide = torch.nn.Module()
    guide.p = p = torch.nn.Parameter(torch.full((4,), 3.0, device=device))
    loss = loss or (lambda p: ((p - 1.0) ** 2).sum())
    svi = kind(None, guide, ScheduledAdam((0.9, 0.99), lambda p: Pace(), first=0.1), Loss(lambda: loss(p)), of=guide)
    svi.optim.rate = 0.1
    return p, svi


class TestState:
    def test_parameters_and_moments_go_back_in_place(self):
        p, svi = quadratic()
        for _ in range(3):
            svi.step()
        saved, storage = svi.saved(), p.data_ptr()
        on, back = [[float(svi.step()) for _ in range(5)] for _ in range(2) if not svi.restore(saved)]
        assert on == back
        assert p.data_ptr() == storage

    def test_before_the_first_step_there_are_no_moments(self):
        _, svi = quadratic()
        saved = svi.saved()
        on, back = [[float(svi.step()) for _ in range(5)] for _ in range(2) if not svi.restore(saved)]
        assert on == back

    def test_what_a_guide_makes_later_is_optimised_too(self):
        def guide(y):
            pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(3.0)), 1.0))

        model = lambda y: pyro.sample("z", dist.Normal(0.0, 1.0))  # noqa: E731
        svi = FitSVI(model, guide, ScheduledAdam((0.9, 0.99), lambda p: Pace(), first=0.1), Trace_ELBO(), of=guide)
        svi.optim.rate = 0.1
        svi.step(None)
        assert float(pyro.param("loc")) == pytest.approx(2.9, abs=1e-5)

    def test_an_interrupted_step_leaves_no_gradient_to_the_next_fit(self):
        p, svi = quadratic()
        svi.gradient()
        assert p.grad is not None
        svi.release()
        assert p.grad is None


@pytest.mark.cuda
class TestCapture:
    def test_a_captured_step_is_an_eager_step(self):
        ends = []
        for kind in (FitSVI, CapturedSVI):
            p, svi = quadratic(kind, "cuda")
            losses = []
            for k in range(12):
                svi.optim.rate = 0.1 / (k + 1)
                losses.append(svi.step())
            ends.append((p.detach().clone(), torch.stack(losses)))
        torch.testing.assert_close(ends[0], ends[1])

    def test_a_second_fit_of_the_same_parameters_starts_without_gradients(self):
        ends = []
        for kind in (FitSVI, CapturedSVI):
            p, svi = quadratic(kind, "cuda")
            for _ in range(2):
                for _ in range(5):
                    svi.step()
                svi.release()
                _, again = quadratic(kind, "cuda")
                svi = kind(None, svi._guide_itself, again.optim, svi.elbo, of=svi._guide_itself)
            ends.append(p.detach().clone())
        torch.testing.assert_close(*ends)

    def test_replays_draw_anew(self):
        _, svi = quadratic(CapturedSVI, "cuda", lambda p: (p * torch.randn_like(p)).sum())
        svi.optim.rate = 0.0
        losses = torch.stack([svi.step() for _ in range(10)])
        assert len(losses.unique()) == 10

    def test_what_cannot_be_captured_goes_on_with_one_warning(self):
        square = lambda p: ((p - 1.0) ** 2).sum()  # noqa: E731
        p, svi = quadratic(CapturedSVI, "cuda", lambda p: square(p) * float(square(p).detach() > -1))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(20):
                svi.step()
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
