import warnings
from functools import partial

import numpy as np
import pyro
import pytest
import torch
from deepinv.physics import Denoising, GaussianNoise, ZeroNoise
from helpers import MatrixPhysics, linear_vae
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from pyro.optim import Adam

import pyro_vble as pv
from pyro_vble.distributions import CentredUniform
from pyro_vble.guides import VBLE, MAPz, VBLExz
from pyro_vble.inference import FitSettings, FitSVI, ScheduledAdam, tempered
from pyro_vble.models import RestorationModel
from pyro_vble.physics import operator_on
from pyro_vble.physics.problems import deblurring, gaussian_kernel

PHYSICS = Denoising(GaussianNoise(0.1))
QUIET = {"progress": False, "seed": 0}


def pair(prior, y, guide_class=VBLE, physics=PHYSICS):
    model = RestorationModel(prior, physics, latent_image=guide_class.latent_image)
    return model, guide_class(model, y)


class TestPlainPyro:
    @pytest.mark.parametrize("guide_class", [VBLE, VBLExz, MAPz])
    @pytest.mark.parametrize("elbo", ["trace", "mean_field"])
    def test_svi_by_hand_gives_the_same_numbers(self, cae, guide_class, elbo):
        y = torch.rand(2, 3, 64, 64)
        posterior = pv.fit(
            *pair(cae, y, guide_class),
            y,
            num_steps=8,
            lr=0.1,
            schedule="constant",
            elbo=elbo,
            precision="float32",
            **QUIET,
        )
        model, guide = pair(cae, y, guide_class)
        loss = {"trace": Trace_ELBO, "mean_field": TraceMeanField_ELBO}[elbo]()
        svi = SVI(model, guide, Adam({"lr": 0.1}), loss)
        torch.manual_seed(0)
        by_hand = [-svi.step(y) for _ in range(8)]
        np.testing.assert_allclose(posterior.elbo.numpy(), by_hand, rtol=1e-6)
        for site, median in guide.median().items():
            torch.testing.assert_close(posterior.guide.median()[site], median)

    def test_restore_is_fit_is_by_hand(self, cae):
        y = torch.rand(1, 3, 64, 64)
        first = pv.restore(y, PHYSICS, cae, VBLE, num_steps=5, **QUIET)
        second = pv.fit(*pair(cae, y), y, num_steps=5, **QUIET)
        assert torch.equal(first.elbo, second.elbo)
        assert torch.equal(first.mmse_x(5), second.mmse_x(5))

    def test_an_autoguide_fits_too(self, cae):
        from pyro.infer.autoguide import AutoNormal

        y = torch.rand(1, 3, 64, 64)
        posterior = pv.restore(y, PHYSICS, cae, guide=lambda model, y: AutoNormal(model), num_steps=5, **QUIET)
        assert posterior.sample(3).shape == (3, 1, 3, 64, 64)
        assert posterior.elbo.isfinite().all()


class TestBatches:
    @pytest.mark.parametrize("guide_class", [VBLE, VBLExz])
    def test_three_images_in_a_batch_are_three_single_fits(self, cae, guide_class, monkeypatch):
        """Same noise for each image, alone and in the batch: the same fit, image by image."""
        y = torch.rand(3, 3, 64, 64)
        noise: dict[tuple, list[torch.Tensor]] = {}
        counter: dict[tuple, int] = {}

        image: int | None = None

        def shared(draw, shape):
            key = (draw.__name__, *shape[1:])
            bank, index = noise.setdefault(key, []), counter.get(key, 0)
            counter[key] = index + 1
            if index == len(bank):
                bank.append(draw((3, *shape[1:])))
            return bank[index] if image is None else bank[index][image : image + 1]

        monkeypatch.setattr(
            CentredUniform,
            "rsample",
            lambda self, shape=(): self.loc + self.width * (shared(torch.rand, self._extended_shape(shape)) - 0.5),
        )
        monkeypatch.setattr(
            pyro.distributions.Normal,
            "rsample",
            lambda self, shape=(): self.loc + self.scale * shared(torch.randn, self._extended_shape(shape)),
        )
        options = {"num_steps": 15, "precision": "float32", "tolerance": None, "progress": False}
        batch = pv.fit(*pair(cae, y, guide_class), y, **options)
        losses = []
        for image in range(3):
            counter.clear()
            one = y[image : image + 1]
            single = pv.fit(*pair(cae, one, guide_class), one, **options)
            losses.append(single.elbo)
            for site, median in single.guide.median().items():
                torch.testing.assert_close(batch.guide.median()[site][image : image + 1], median, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(batch.elbo, sum(losses), rtol=1e-5, atol=0)

    def test_two_sizes_in_a_row(self, cae):
        for shape in ((1, 3, 64, 64), (2, 1, 123, 77), (1, 4, 70, 50)):
            posterior = pv.restore(torch.rand(shape), PHYSICS, cae, num_steps=2, **QUIET)
            assert posterior.shape == shape
            assert posterior.mmse_x(3).shape == shape


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (1, 3, 123, 77), (1, 3, 481, 321), (1, 1, 123, 77), (1, 4, 64, 64)])
@pytest.mark.parametrize("guide", [VBLE, VBLExz])
def test_sizes_and_bands(bundled, shape, guide):
    posterior = pv.restore(torch.rand(shape), PHYSICS, bundled, guide=guide, num_steps=3, **QUIET)
    assert posterior.mmse_x(2).shape == posterior.mmse_z.shape == shape
    assert posterior.elbo.isfinite().all()


class TestPrecision:
    def test_float32_and_float64_agree(self, bundled):
        y = torch.rand(1, 3, 64, 64)
        fits = {
            p: pv.restore(y, PHYSICS, bundled, guide=MAPz, num_steps=20, precision=p, **QUIET)
            for p in ("float32", "float64")
        }
        assert fits["float64"].mmse_z.dtype == torch.float64
        torch.testing.assert_close(fits["float32"].mmse_z.double(), fits["float64"].mmse_z, rtol=0, atol=5e-3)
        torch.testing.assert_close(fits["float32"].elbo, fits["float64"].elbo, rtol=1e-4, atol=0)

    @pytest.mark.slow
    def test_bfloat16_changes_the_image_little(self, bundled):
        from skimage import data

        x = torch.from_numpy(data.cat()[50:178, 150:278].copy()).permute(2, 0, 1)[None].float() / 255
        physics = deblurring(0.03, gaussian_kernel(1.0))
        y = physics(x)
        psnr = {
            p: pv.metrics.psnr(pv.restore(y, physics, bundled, precision=p, **QUIET).mmse_x(50), x)
            for p in ("float32", "bfloat16")
        }
        # Two fits by different roundings are two draws of the optimiser's noise, some hundredths of a dB apart.
        assert psnr["bfloat16"] == pytest.approx(psnr["float32"], abs=0.1)

    def test_noise_finer_than_bfloat16_gets_float32(self, cae):
        y = torch.rand(1, 3, 64, 64)
        quiet, loud = (
            pv.restore(y, Denoising(GaussianNoise(s)), cae, num_steps=1, **QUIET).precision for s in (0.001, 0.1)
        )
        assert quiet == "float32"
        assert loud in ("float32", "bfloat16")
        named = pv.restore(y, Denoising(GaussianNoise(0.001)), cae, num_steps=1, precision="bfloat16", **QUIET)
        assert named.precision == "bfloat16"

    def test_a_float64_prior_is_taken_at_its_word(self):
        prior = linear_vae(torch.randn(4, 2, dtype=torch.float64), torch.zeros(4), 0.1, (1, 2, 2))
        posterior = pv.restore(torch.rand(1, 1, 2, 2), PHYSICS, prior, num_steps=2, **QUIET)
        assert posterior.precision == "float64"

    def test_operators_in_the_fourier_domain_keep_their_filters(self):
        import deepinv

        physics = deepinv.physics.BlurFFT((3, 32, 32), filter=torch.rand(1, 1, 5, 4))
        x = torch.rand(1, 3, 32, 32)
        for dtype in (torch.float32, torch.float64):
            torch.testing.assert_close(
                operator_on(physics, torch.device("cpu"), dtype).A(x.to(dtype)).float(), physics.A(x)
            )

    def test_operators_that_are_no_modules_move_with_their_tensors_and_noise(self):
        own = MatrixPhysics(torch.rand(5, 4), GaussianNoise(0.1))
        own.index, own.label = torch.arange(3), "mine"
        moved = operator_on(own, torch.device("meta"), torch.float64)
        assert (moved.matrix.device.type, moved.matrix.dtype) == ("meta", torch.float64)
        assert (moved.noise_model.sigma.device.type, moved.noise_model.sigma.dtype) == ("meta", torch.float64)
        assert (moved.index.device.type, moved.index.dtype, moved.label) == ("meta", torch.int64, "mine")
        assert (own.matrix.device.type, own.noise_model.sigma.device.type) == ("cpu", "cpu")


class TestDeterminism:
    @pytest.mark.parametrize("guide", [VBLE, VBLExz, partial(VBLExz, free_mean=True)])
    def test_the_same_seed_gives_the_same_bits(self, cae, guide):
        y = torch.rand(1, 3, 64, 64)
        runs = [pv.restore(y, PHYSICS, cae, guide=guide, num_steps=5, progress=False, seed=3) for _ in range(2)]
        assert torch.equal(runs[0].elbo, runs[1].elbo)
        assert torch.equal(runs[0].sample(3), runs[1].sample(3))
        other = pv.restore(y, PHYSICS, cae, guide=guide, num_steps=5, progress=False, seed=4)
        assert not torch.equal(runs[0].elbo, other.elbo)

    def test_the_global_generator_is_left_alone(self, cae):
        y = torch.rand(1, 3, 64, 64)
        state = torch.random.get_rng_state()
        pv.restore(y, PHYSICS, cae, num_steps=2, **QUIET).mmse_x(3)
        assert torch.equal(torch.random.get_rng_state(), state)


class TestTempering:
    def test_only_latent_sites_are_scaled(self, cae):
        y = torch.rand(1, 3, 64, 64)
        model, guide = pair(cae, y)
        # Conditioned sites count as observed, so the latents are replayed.
        trace = poutine.trace(guide).get_trace(y)
        plain = poutine.trace(poutine.replay(model, trace=trace)).get_trace(y)
        scaled = poutine.trace(poutine.replay(tempered(model, 0.3), trace=trace)).get_trace(y)
        for t in (plain, scaled):
            t.compute_log_prob()
        for site, factor in (("y", 1.0), ("z", 0.3), ("h", 0.3)):
            ratio = scaled.nodes[site]["log_prob_sum"] / plain.nodes[site]["log_prob_sum"]
            assert float(ratio) == pytest.approx(factor, rel=1e-5)

    def test_zero_weight_runs_under_validation(self, cae):
        y = torch.rand(1, 3, 64, 64)
        posterior = pv.restore(y, PHYSICS, cae, guide=MAPz, kl_weight=0.0, num_steps=3, **QUIET)
        assert posterior.elbo.isfinite().all()


class TestStopping:
    @pytest.fixture
    def settled(self):
        prior = linear_vae(torch.randn(16, 2, dtype=torch.float64), torch.zeros(16), 0.5, (1, 4, 4))
        y = torch.rand(1, 1, 4, 4, dtype=torch.float64)
        return partial(pv.restore, y, PHYSICS, prior, lr=0.05, num_particles=16, **QUIET)

    def test_a_settled_fit_stops_early(self, settled):
        steps = len(settled(tolerance=0.05, num_steps=2000, schedule="constant").elbo)
        assert 40 <= steps < 2000
        assert steps % FitSettings().window == 0

    def test_none_never_stops(self, settled):
        assert len(settled(tolerance=None, num_steps=300, schedule="constant").elbo) == 300

    def test_noise_is_not_taken_for_a_plateau(self, settled):
        assert len(settled(tolerance=1e-6, num_steps=300, schedule="constant").elbo) == 300

    @pytest.mark.parametrize("schedule", ["linear", "cosine"])
    def test_a_falling_rate_is_not_cut_while_high(self, settled, schedule):
        """Whenever centres come to rest, four looks at the soonest, the last part goes on until the rate is low."""
        settings = FitSettings(num_steps=300, schedule=schedule)
        steps = len(settled(tolerance=10.0, num_steps=300, schedule=schedule).elbo)
        low = next(step for step in range(300) if settings.rate(step) <= settings.lr / 10)
        assert 4 * settings.look_every + low - settings.tail <= steps < 300

    def test_an_interrupt_returns_the_posterior_so_far(self, cae):
        def impatient(steps):
            for step in steps:
                if step == 4:
                    raise KeyboardInterrupt
                yield step

        y = torch.rand(1, 3, 64, 64)
        with pytest.warns(UserWarning, match="Interrupted after 4 of 90 steps"):
            posterior = pv.restore(y, PHYSICS, cae, progress=impatient, seed=0)
        assert len(posterior.elbo) == 4
        assert posterior.mmse_x(2).isfinite().all()

    def test_an_interrupt_ends_all_fits_and_keeps_those_that_are_complete(self, cae):
        fits = []

        def impatient(steps):
            fits.append(steps)
            for step in steps:
                if len(fits) == 3 and step == 1:
                    raise KeyboardInterrupt
                yield step

        y = torch.rand(1, 3, 64, 64)
        with pytest.warns(UserWarning, match="Interrupted after 1 of 4 steps"):
            posterior = pv.restore(y, PHYSICS, cae, num_steps=4, num_fits=5, progress=impatient, seed=0)
        assert len(fits) == 3
        assert [len(fit.elbo) for fit in posterior.fits] == [4, 4]
        assert posterior.interrupted
        assert not posterior.fits[0].interrupted


class FailingModel(RestorationModel):
    """A likelihood that is NaN at chosen calls."""

    def __init__(self, *args, bad, **kwargs):
        super().__init__(*args, **kwargs)
        self.bad, self.calls = bad, 0

    def forward(self, y):
        self.calls += 1
        x = super().forward(y)
        if self.bad(self.calls - 1):
            pyro.factor("failure", torch.tensor(torch.nan) * x.sum((-1, -2, -3)).sum())
        return x


class TestRollback:
    @pytest.mark.parametrize("read_every", [1, 10])
    def test_a_bad_step_rolls_back_and_the_fit_goes_on(self, cae, monkeypatch, read_every):
        """Also where the host looks at ten losses at a time, as on a GPU: the steps in between are no numbers."""
        monkeypatch.setattr(FitSVI, "read_every", read_every)
        y = torch.rand(1, 3, 64, 64)
        model = FailingModel(cae, PHYSICS, bad=lambda call: call in (7, 15))
        posterior = pv.fit(model, VBLE(model, y), y, num_steps=30, tolerance=None, **QUIET)
        assert len(posterior.elbo) == (28 if read_every == 1 else 22)
        assert posterior.elbo.isfinite().all()
        assert all(p.isfinite().all() for p in posterior.guide.parameters())
        assert posterior.elbo[-5:].mean() > posterior.elbo[0]

    @pytest.mark.parametrize("step", [9, 10, 28, 29])
    def test_a_bad_gradient_is_noticed_a_step_later_even_when_it_was_the_last(self, cae, step):
        """A finite loss with a NaN gradient spoils the guide; the state saved just after it must not be kept."""

        class BadGradient(RestorationModel):
            calls = 0

            def forward(self, y):
                x = super().forward(y)
                if BadGradient.calls == step:
                    pyro.factor(
                        "bad gradient", (x.sum() - x.sum().detach()) * torch.nan_to_num(torch.tensor(torch.inf)) ** 2
                    )
                BadGradient.calls += 1
                return x

        y = torch.rand(1, 3, 64, 64)
        model = BadGradient(cae, PHYSICS)
        posterior = pv.fit(model, VBLE(model, y), y, num_steps=30, tolerance=None, **QUIET)
        assert all(p.isfinite().all() for p in posterior.guide.parameters())
        assert posterior.elbo.isfinite().all()

    def test_an_autoguide_rolls_back_too(self, cae):
        from pyro.infer.autoguide import AutoNormal

        y = torch.rand(1, 3, 64, 64)
        steps = []

        class Once:
            noise_model = GaussianNoise(0.1)

            def A(self, x):
                if x.requires_grad and not x.is_leaf:  # decoded in a step, and no probe
                    steps.append(None)
                return x * torch.nan if len(steps) == 7 else x

        posterior = pv.restore(y, Once(), cae, guide=lambda model, y: AutoNormal(model), num_steps=15, **QUIET)
        assert len(posterior.elbo) == 14
        assert posterior.mmse_z.isfinite().all()

    @pytest.mark.cuda
    @pytest.mark.parametrize("guide", [VBLE, VBLExz])
    def test_captured_steps_roll_back(self, bundled, guide):
        class Once:
            """No number at one of its calls, which a graph counts as well."""

            noise_model = GaussianNoise(0.1)
            calls = None

            def A(self, x):
                self.calls = torch.zeros((), device=x.device) if self.calls is None else self.calls.add_(1)
                return x * torch.where(self.calls == 40, torch.nan, 1.0)

        y = torch.rand(1, 3, 64, 64)
        how = {"num_steps": 80, "tolerance": None, "device": "cuda", **QUIET}
        posterior = pv.restore(y, Once(), bundled, guide, **how)
        assert 60 <= len(posterior.elbo) < 80
        assert posterior.elbo.isfinite().all()
        assert all(p.isfinite().all() for p in posterior.guide.parameters())

    def test_the_rate_halves_with_every_rollback(self, cae, monkeypatch):
        rates = []
        set_rate = lambda self, rate: (rates.append(rate), ScheduledAdam.rate.fset(self, rate))  # noqa: E731
        monkeypatch.setattr(
            "pyro_vble.inference.adam.ScheduledAdam",
            type("Watched", (ScheduledAdam,), {"rate": property(ScheduledAdam.rate.fget, set_rate)}),
        )
        y = torch.rand(1, 3, 64, 64)
        model = FailingModel(cae, PHYSICS, bad=lambda call: call in (2, 4))
        pv.fit(model, VBLE(model, y), y, num_steps=7, lr=0.4, schedule="constant", **QUIET)
        assert rates == [0.4, 0.4, 0.4, 0.2, 0.2, 0.1, 0.1]

    def test_five_bad_steps_raise_with_the_last_good_state(self, cae):
        y = torch.rand(1, 3, 64, 64)
        model = FailingModel(cae, PHYSICS, bad=lambda call: call >= 3)
        guide = VBLE(model, y)
        start = guide.loc["z"].clone()
        with pytest.raises(pv.FitDivergedError, match=r"must be finite; it was nan 5 times") as caught:
            pv.fit(model, guide, y, num_steps=50, **QUIET)
        assert len(caught.value.posterior.elbo) == 3
        # The last state known to be good is the one the fit started from: it is saved every tenth step.
        assert torch.equal(caught.value.posterior.guide.loc["z"], start)
        assert caught.value.posterior.mmse_z.isfinite().all()

    @pytest.mark.parametrize(("steps", "read_every"), [(3, 1), (40, 10)])
    def test_no_finite_loss_at_all_raises_however_few_are_read(self, cae, monkeypatch, steps, read_every):
        monkeypatch.setattr(FitSVI, "read_every", read_every)
        monkeypatch.setattr(FitSVI, "step", lambda self, y: torch.tensor(torch.nan))
        y = torch.rand(1, 3, 64, 64)
        model = RestorationModel(cae, PHYSICS)
        with pytest.raises(pv.FitDivergedError, match=r"it was nan at every step, at halved"):
            pv.fit(model, VBLE(model, y), y, num_steps=steps, **QUIET)


class TestGuides:
    def test_a_callable_may_hide_that_its_guide_has_a_latent_image(self, cae):
        y = torch.rand(1, 3, 64, 64)
        posterior = pv.restore(y, PHYSICS, cae, guide=lambda m, y: VBLExz(m, y), num_steps=2, **QUIET)
        assert posterior.guide.b.shape == (1, 3, 64, 64)

    def test_names_and_built_guides_are_refused(self, cae):
        y = torch.rand(1, 3, 64, 64)
        with pytest.raises(TypeError, match="received 'vble'"):
            pv.restore(y, PHYSICS, cae, guide="vble")
        with pytest.raises(TypeError, match="already built"):
            pv.restore(y, PHYSICS, cae, guide=pair(cae, y)[1])


class TestErrors:
    def test_types(self, cae):
        y = torch.rand(1, 3, 64, 64)
        with pytest.raises(TypeError, match="lr must be a positive, finite number; received 'fast'"):
            pv.restore(y, PHYSICS, cae, lr="fast", progress=False)
        with pytest.raises(TypeError, match="seed must be a whole number"):
            pv.restore(y, PHYSICS, cae, seed="a", progress=False)
        with pytest.raises(TypeError, match=r"wrap a CompressAI network as CAE"):
            pv.restore(y, PHYSICS, cae.network, progress=False)
        with pytest.raises(TypeError, match=r"one data type; received y in torch.float64"):
            VBLE(RestorationModel(cae, PHYSICS), y.double())
        with pytest.raises(ValueError, match=r"computes in torch.float64; received a measurement in torch.float32"):
            pv.fit(*pair(cae, y), y, precision="float64")

    def test_complex_measurements(self, cae):
        with pytest.raises(TypeError, match=r"received torch.complex64 tensor; give real and imaginary part"):
            pv.restore(torch.rand(1, 3, 64, 64).to(torch.complex64), PHYSICS, cae)

    def test_operators_that_measure_complex_numbers(self, cae):
        physics = Denoising(GaussianNoise(0.1))
        physics.A = lambda x, **_: torch.fft.fft2(x)
        with pytest.raises(ValueError, match=r"torch.complex64 for torch.float32; give real and imaginary part"):
            pv.restore(torch.rand(1, 3, 64, 64), physics, cae, **QUIET)

    def test_zeros_under_speckle(self, cae):
        from deepinv.physics import GammaNoise

        y = torch.rand(1, 3, 64, 64).add(0.1)
        y[..., :2, :] = 0
        with pytest.raises(ValueError, match=r"a measurement is positive; received zeros in 384 values; mark .* NaN"):
            pv.restore(y, Denoising(GammaNoise(10.0)), cae, progress=False)

    def test_negative_counts(self, cae):
        from deepinv.physics import PoissonNoise

        with pytest.raises(ValueError, match="Under PoissonNoise a measurement is not negative; received values down"):
            pv.restore(torch.rand(1, 3, 64, 64) - 0.5, Denoising(PoissonNoise(0.1)), cae, progress=False)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"num_steps": 0}, "num_steps must be a whole number of at least 1; received 0"),
            ({"lr": -1.0}, "lr must be a positive, finite number; received -1.0"),
            ({"kl_weight": -0.1}, "kl_weight must be a finite number that is not negative"),
            ({"schedule": "step"}, "schedule must be one of 'linear', 'cosine', 'constant'; received 'step'"),
            ({"elbo": "renyi"}, "elbo must be one of"),
            ({"tolerance": -1.0}, "tolerance must be a finite number that is not negative"),
            ({"precision": "float16"}, "precision must be one of"),
            ({"device": "abacus"}, "device must be"),
        ],
    )
    def test_settings(self, cae, options, message):
        with pytest.raises(ValueError, match=message):
            pv.restore(torch.rand(1, 3, 64, 64), PHYSICS, cae, progress=False, **options)

    @pytest.mark.parametrize(
        ("y", "error", "message"),
        [
            (torch.full((1, 3, 64, 64), torch.nan), ValueError, "at least one observed value; received only NaN"),
            (255 * torch.rand(1, 3, 64, 64), ValueError, r"scale \[0, 1\]; received a measurement up to 25\d"),
            (torch.randint(0, 255, (1, 3, 64, 64)), TypeError, "floating-point.*received torch.int64 tensor"),
            ("photo.png", TypeError, "received str"),
            (torch.rand(7), ValueError, r"batch of measurements \(B, C, H', W'\)"),
            (torch.rand(0, 3, 64, 64), ValueError, "none of them empty"),
        ],
    )
    def test_measurements(self, cae, y, error, message):
        with pytest.raises(error, match=message):
            pv.restore(y, PHYSICS, cae, progress=False)

    @pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
    def test_a_gpu_that_is_not_there(self, cae):
        with pytest.raises(ValueError, match="needs a CUDA GPU"):
            pv.restore(torch.rand(1, 3, 64, 64), PHYSICS, cae, device="cuda")

    def test_an_unobserved_image_of_a_batch_is_named(self, cae):
        y = torch.rand(3, 3, 64, 64)
        y[1] = torch.nan
        with pytest.raises(ValueError, match=r"in 1 of 3 images \(first: 1\)"):
            pv.restore(y, PHYSICS, cae, progress=False)

    def test_an_unknown_prior(self):
        with pytest.raises(ValueError, match="cae-bsd"):
            pv.restore(torch.rand(1, 3, 64, 64), PHYSICS, "no-such-prior", progress=False)


def test_numpy_arrays_and_noise_free_measurements(cae):
    y = np.random.default_rng(0).random((1, 3, 64, 64))
    posterior = pv.restore(y, Denoising(ZeroNoise()), cae, num_steps=3, **QUIET)
    assert posterior.mmse_x(2).shape == (1, 3, 64, 64)


def test_neither_prior_nor_physics_is_changed(cae):
    physics = deblurring(0.1, gaussian_kernel(1.0))
    before = {k: v.clone() for k, v in (*cae.state_dict().items(), *physics.state_dict().items())}
    pv.restore(torch.rand(1, 3, 64, 64), physics, cae, num_steps=2, precision="float64", **QUIET)
    for name, value in (*cae.state_dict().items(), *physics.state_dict().items()):
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name])
    assert all(p.requires_grad for p in cae.network.parameters())


def test_validation_is_left_as_it_was(cae):
    import pyro.poutine.runtime

    was = pyro.settings.get("validate_poutine")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pv.restore(torch.rand(1, 3, 64, 64), PHYSICS, cae, num_steps=2, **QUIET)
    assert pyro.settings.get("validate_poutine") == was
    assert not pyro.settings.get("module_local_params")


def test_no_gradient_is_left_for_another_fit_to_add_to(cae):
    y = torch.rand(1, 3, 64, 64)
    model = RestorationModel(cae, PHYSICS)
    guide = VBLE(model, y)
    posterior = pv.fit(model, guide, y, num_steps=3, precision="float32", **QUIET)
    assert all(p.grad is None for p in posterior.guide.parameters())


@pytest.mark.cuda
@pytest.mark.parametrize("guide", [VBLE, VBLExz])
def test_cuda_agrees_with_cpu(bundled, guide):
    def restored(device, seed):
        options = QUIET | {"seed": seed, "precision": "float32", "device": device}
        posterior = pv.restore(y, PHYSICS, bundled, guide=guide, **options)
        return posterior.mmse_z, posterior.mmse_x(100)

    y = torch.rand(1, 3, 64, 64)
    here, other, there = restored("cpu", 0), restored("cpu", 1), restored("cuda", 0)
    assert there[0].device.type == "cpu"
    for one, another, on_cuda in zip(here, other, there, strict=True):  # as near as another seed
        assert pv.metrics.psnr(on_cuda, one) > pv.metrics.psnr(another, one) - 1
