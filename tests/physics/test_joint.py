"""Several measurements of one image are one, whose likelihood is the product of theirs."""

import copy
import math

import deepinv
import pyro.distributions as dist
import pytest
import torch
from deepinv.physics import (
    Denoising,
    Downsampling,
    GaussianNoise,
    LaplaceNoise,
    PoissonGaussianNoise,
    PoissonNoise,
    StackedLinearPhysics,
    StackedPhysics,
)
from helpers import MatrixPhysics

import pyro_vble as pv
from pyro_vble.models import RestorationModel
from pyro_vble.physics import (
    GaussianBlur,
    Jointly,
    SpectralResponse,
    consistent_image,
    describe,
    fisher_information,
    image_shape_of,
    initial_image,
    is_divisible,
    joined,
    jointly,
    likelihood,
    noise_level,
    observed_mask,
    operator_on,
    pansharpening,
    part_of,
    spectral_weights,
    validate_measurement,
)
from pyro_vble.physics.problems import inpainting

SHAPE = (3, 32, 32)
MASK = (torch.rand(SHAPE, generator=torch.Generator().manual_seed(0)) > 0.5).float()


def sensed(physics):
    physics.sensor_model = lambda x: (x.clamp(0, 0.9) * 255).round() / 255
    return physics


def coarse(noise):
    return Downsampling(img_size=SHAPE, filter="bicubic", factor=2, padding="reflect", noise_model=noise)


PAIRS = {
    "exposures": lambda: [Denoising(GaussianNoise(0.1)), Denoising(GaussianNoise(0.02))],
    "pan and colour": lambda: pansharpening(SHAPE, 4).physics_list,
    "holes": lambda: [inpainting(0.1, MASK), inpainting(0.05, 1 - MASK)],
    "other noise": lambda: [Denoising(LaplaceNoise(0.1)), coarse(PoissonGaussianNoise(gain=0.01, sigma=0.02))],
    "a sensor": lambda: [sensed(Denoising(GaussianNoise(0.05))), GaussianBlur(1.0, noise_model=GaussianNoise(0.1))],
    "counts": lambda: [Denoising(PoissonNoise(0.02, normalize=False)), coarse(GaussianNoise(0.05))],
    "a user's own": lambda: [
        MatrixPhysics(torch.eye(3 * 32 * 32)[:1000], GaussianNoise(0.1)),
        coarse(GaussianNoise(0.1)),
    ],
}


@pytest.fixture(params=PAIRS)
def operators(request):
    return list(PAIRS[request.param]())


@pytest.fixture
def physics(operators):
    return jointly(operators, SHAPE)


def images(count=2):
    return 0.2 + 0.6 * torch.rand(count, *SHAPE)


class TestLikelihood:
    def test_its_logarithm_is_the_sum_of_those_of_the_parts(self, operators, physics):
        x = images()
        y = physics(x)
        signal = physics.A(x)
        whole = likelihood(physics, signal, event_dim=1)
        parts = [
            likelihood(one, one.A(x), event_dim=part.dim() - 1).log_prob(part)
            for one, part in zip(operators, physics.split(y), strict=True)
        ]
        assert whole.batch_shape == y.shape
        torch.testing.assert_close(whole.log_prob(y), torch.cat([part.flatten(1) for part in parts], 1))
        torch.testing.assert_close(whole.log_prob(y).sum(1), sum(part.flatten(1).sum(1) for part in parts))

    def test_moments_and_draws_are_those_of_the_parts(self, operators, physics):
        x = images(1)
        whole = likelihood(physics, physics.A(x), event_dim=1)
        for moment in ("mean", "variance"):
            parts = [getattr(likelihood(one, one.A(x)), moment) for one in operators]
            torch.testing.assert_close(
                getattr(whole, moment), torch.cat([part.flatten(1) for part in parts], 1), rtol=1e-4, atol=1e-6
            )
        drawn = whole.expand((400, 1, whole.batch_shape[-1])).sample()
        error = 6 * (whole.variance / 400).sqrt()
        assert bool(((drawn.mean(0) - whole.mean).abs() < error + 1 / 255).all())

    def test_particles_go_before_the_batch(self, physics):
        x = torch.stack([images(), images()])
        signal = torch.stack([physics.A(one) for one in x])
        p_y = likelihood(physics, signal, event_dim=1)
        y = physics(x[0])
        torch.testing.assert_close(p_y.log_prob(y)[1], likelihood(physics, signal[1], event_dim=1).log_prob(y))

    def test_the_information_is_that_of_the_parts(self, operators, physics):
        x = images(1)
        signal = physics.A(x).requires_grad_()
        found = fisher_information(likelihood(physics, signal), signal)
        expected = []
        for one in operators:
            own = one.A(x).requires_grad_()
            expected.append(fisher_information(likelihood(one, own), own).flatten(1))
        torch.testing.assert_close(found, torch.cat(expected, 1), rtol=1e-3, atol=1e-3)

    def test_a_level_of_each_image_is_that_of_its_image(self):
        levels = torch.tensor([0.1, 0.3])
        physics = jointly([Denoising(GaussianNoise(levels)), coarse(GaussianNoise(0.05))], SHAPE)
        p_y = likelihood(physics, physics.A(images()), event_dim=1)
        fine, small = physics.split(p_y.variance.sqrt())
        torch.testing.assert_close(fine, levels.reshape(-1, 1, 1, 1).expand_as(fine))
        torch.testing.assert_close(small, torch.full_like(small, 0.05))


class TestOperator:
    def test_it_measures_what_its_parts_measure(self, operators, physics):
        x = images()
        for one, part in zip(operators, physics.split(physics.A(x)), strict=True):
            torch.testing.assert_close(part, one.A(x))
        torch.testing.assert_close(physics.join(physics.split(physics.A(x))), physics.A(x))

    def test_the_image_s_shape_is_found(self, physics):
        assert image_shape_of(physics, physics(images())) == SHAPE

    def test_adjoint(self, physics):
        if not isinstance(physics, deepinv.physics.LinearPhysics):
            pytest.skip("not all of it is linear to deepinv")
        x, v = images().double(), torch.randn(2, physics(images()).shape[1], dtype=torch.float64)
        physics = operator_on(physics, torch.device("cpu"), torch.float64)
        torch.testing.assert_close((physics.A(x) * v).sum(), (x * physics.A_adjoint(v)).sum())

    def test_copies_share_nothing(self, physics):
        before = {name: value.clone() for name, value in physics.state_dict().items()}
        twin = operator_on(physics, torch.device("cpu"), torch.float64)
        assert twin.A(images().double()).dtype == torch.float64
        assert all(torch.equal(value, before[name]) for name, value in physics.state_dict().items())
        assert twin.noise_model.operators[0] is twin.physics_list[0]

    def test_missing_values_are_those_of_the_parts(self, operators, physics):
        y = physics(images())
        spoilt = physics.split(y.clone())
        spoilt[0].flatten()[:5] = torch.nan
        found = physics.split(observed_mask(physics, physics.join(spoilt)))
        for one, part, mask in zip(operators, spoilt, found, strict=True):
            assert torch.equal(mask, observed_mask(one, part))

    def test_images_of_a_batch_are_cut_out(self, physics):
        x = images(2)
        y = physics(x)
        if is_divisible(physics, y, SHAPE):
            torch.testing.assert_close(part_of(physics, slice(1, 2), 2).A(x[1:]), physics.A(x)[1:])

    def test_it_is_described_by_its_parts(self, operators, physics):
        assert describe(physics) == " and ".join(map(describe, operators))


class TestFirstGuess:
    def test_it_is_an_image_near_the_truth(self, physics):
        t = torch.linspace(0, 3, 32)
        x = torch.stack([0.5 + 0.4 * torch.sin(t[:, None] * k + t) for k in (1, 2, 3)]).expand(2, -1, -1, -1)
        y = physics(x)
        for make in (initial_image, consistent_image):
            guess = make(physics, y, SHAPE)
            assert guess.shape == x.shape
            assert float((guess - x).square().mean()) < float((x - 0.5).square().mean())

    def test_the_order_of_the_parts_does_not_matter(self, operators):
        forth, back = jointly(operators, SHAPE), jointly(operators[::-1], SHAPE)
        y = forth(images())
        turned = back.join(forth.split(y)[::-1])
        torch.testing.assert_close(consistent_image(forth, y, SHAPE), consistent_image(back, turned, SHAPE))

    def test_what_one_measurement_misses_another_gives(self):
        x = images()
        physics = jointly([Denoising(GaussianNoise(0.01)), Denoising(GaussianNoise(0.01))], SHAPE)
        first, second = physics.split(physics(x))
        first[0], second[1] = torch.nan, torch.nan
        guess = consistent_image(physics, physics.join([first, second]), SHAPE)
        assert float((guess - x).std()) < 0.02

    def test_colour_is_kept_and_detail_found(self):
        """Starting from both is nearer than from either."""
        t = torch.arange(64.0)
        detail = 0.1 * torch.sin(2 * math.pi * t / 5)[:, None] * torch.sin(2 * math.pi * t / 7)
        x = (torch.tensor([0.3, 0.5, 0.7])[:, None, None] + detail)[None]
        physics = pansharpening((3, 64, 64), 4, pan_noise=0.005, ms_noise=0.005)
        y = physics(x)
        pan, ms = physics.split(y)
        error = float((consistent_image(physics, y, (3, 64, 64)) - x).square().mean())
        for one, part in zip(physics.physics_list, (pan, ms), strict=True):
            assert error < 0.5 * float((consistent_image(one, part, (3, 64, 64)) - x).square().mean())


class TestChecks:
    def test_the_noise_level_is_that_of_the_least_noisy(self):
        physics = jointly(PAIRS["exposures"](), SHAPE)
        assert noise_level(physics, physics(images()), SHAPE) == pytest.approx(0.02)

    def test_each_part_is_on_the_scale(self):
        physics = jointly(PAIRS["exposures"](), SHAPE)
        first, second = physics.split(physics(images()))
        with pytest.raises(ValueError, match=r"Measurement 2 of 2: The image must be on the scale \[0, 1\]"):
            validate_measurement(physics, physics.join([first, 255 * second]), SHAPE)

    def test_nothing_observed(self):
        physics = jointly(PAIRS["exposures"](), SHAPE)
        y = physics(images())
        first, second = physics.split(y)
        validate_measurement(physics, physics.join([torch.full_like(first, torch.nan), second]), SHAPE)
        y[1] = torch.nan
        with pytest.raises(ValueError, match="at least one observed value"):
            validate_measurement(physics, y, SHAPE)

    def test_joining(self):
        first, second = images(), images(1)
        with pytest.raises(ValueError, match="received 2 measurements and 1 operators"):
            joined([first, first], [Denoising()])
        with pytest.raises(ValueError, match="received batches of 2, 1"):
            joined([first, second], [Denoising(), Denoising()])
        with pytest.raises(TypeError, match="floating-point tensor"):
            joined([first, (255 * first).byte()], [Denoising(), Denoising()])
        with pytest.raises(TypeError, match="method A"):
            joined([first, first], [Denoising(), abs])
        with pytest.raises(TypeError, match="list of operators"):
            joined([first, first], Denoising())
        with pytest.raises(ValueError, match="images of one shape"):
            joined([first, first[..., ::2, ::2]], [Denoising(), Denoising()])

    def test_an_operator_without_an_adjoint_is_no_reason_to_take_its_measurement_for_the_image(self):
        """A band of its own has the shape of an image of one band."""

        class Grey(deepinv.physics.Physics):
            def A(self, x, **kwargs):
                return x.mean(1, keepdim=True)

        x = images()
        for order in (1, -1):
            parts = [x.mean(1, keepdim=True), x][::order]
            _, physics = joined(parts, [Grey(noise_model=GaussianNoise(0.1)), Denoising(GaussianNoise(0.1))][::order])
            assert physics.img_size == SHAPE


class TestRestoration:
    def test_lists_are_joined(self, cae):
        operators = PAIRS["pan and colour"]()
        physics = jointly(operators, SHAPE)
        y = physics(images())
        parts = physics.split(y)
        options = {"num_steps": 3, "seed": 0, "progress": False}
        whole = pv.restore(y, physics, cae, **options)
        stacked = StackedLinearPhysics(list(operators))
        for several, given in (
            (parts, list(operators)),
            (tuple(parts), tuple(operators)),
            (deepinv.utils.TensorList(parts), stacked),
            (parts, physics),
        ):
            assert torch.equal(pv.restore(several, given, cae, **options).elbo, whole.elbo)

    def test_the_order_of_the_parts_does_not_matter(self, cae):
        operators = PAIRS["pan and colour"]()
        parts = jointly(operators, SHAPE)
        parts = parts.split(parts(images(1)))
        options = {"num_steps": 5, "seed": 0, "progress": False, "precision": "float64"}
        forth = pv.restore([p.double() for p in parts], list(operators), cae, **options)
        back = pv.restore([p.double() for p in parts[::-1]], list(operators)[::-1], cae, **options)
        # Widths start from one simulated measurement, whose random numbers fall elsewhere.
        torch.testing.assert_close(forth.elbo, back.elbo, rtol=0.02, atol=0)

    def test_it_restores(self, operators, cae):
        physics = jointly(operators, SHAPE)
        y = physics(images())
        spoilt = y.clone()
        spoilt[:, :3] = torch.nan
        posterior = pv.restore(
            physics.split(spoilt), operators, cae, num_steps=3, seed=0, progress=False, precision="float32"
        )
        assert posterior.elbo.isfinite().all()
        assert posterior.predictive(2).shape == (2, *y.shape)
        assert [part.shape[1:] for part in posterior.physics.split(posterior.predictive(2))] == [
            part.shape for part in physics.split(y)
        ]
        log_likelihood = next(posterior.draws(1)).log_likelihood
        assert bool((log_likelihood[0][spoilt.isnan()] == 0).all())

    def test_saved_loaded_and_exported(self, cae, tmp_path):
        operators = list(PAIRS["pan and colour"]())
        physics = jointly(operators, SHAPE)
        posterior = pv.restore(physics(images()), physics, cae, num_steps=2, seed=0, progress=False)
        posterior.save(tmp_path / "fit.pvble")
        for given in (operators, physics, StackedPhysics(operators)):
            again = pv.load_posterior(tmp_path / "fit.pvble", prior=cae, physics=given)
            torch.testing.assert_close(again.predictive(3), posterior.predictive(3))
        idata = posterior.to_arviz(4)
        assert idata.observed_data["y"].shape == posterior.y.shape
        assert str(idata.constant_data["operator"].values) == describe(physics)

    def test_linearised_draws_see_both(self, cae):
        physics = jointly(PAIRS["pan and colour"](), SHAPE)
        posterior = pv.restore(physics(images(1)), physics, cae, num_steps=3, seed=0, progress=False)
        draws = posterior.linearised(4)
        assert draws.std().isfinite().all()
        assert draws.residual <= draws.tolerance

    def test_parameters_of_one_part_are_inferred(self, cae):
        physics = jointly(
            [GaussianBlur(1.0, radius=6, noise_model=GaussianNoise(0.1)), Denoising(GaussianNoise(0.02))], SHAPE
        )
        priors = {"width": dist.LogNormal(0.0, 0.3), "sigma_1": dist.HalfNormal(0.1)}
        y = physics(images())
        parameters = RestorationModel(cae, physics, physics_priors=priors).initial_parameters(y)
        assert [float(value[0]) for value in parameters.values()] == pytest.approx([1.0, 0.02])
        given = {"sigma_1": torch.tensor([0.3, 0.4]), "width": torch.ones(2)}
        first, second = physics.split(likelihood(physics, physics.A(images()), given, event_dim=1).variance.sqrt())
        torch.testing.assert_close(first, torch.full_like(first, 0.1))
        torch.testing.assert_close(second[:, 0, 0, 0], given["sigma_1"])
        posterior = pv.restore(y, physics, cae, physics_priors=priors, num_steps=3, seed=0, progress=False)
        assert set(posterior.parameters) == {"width", "sigma_1"}
        with pytest.raises(ValueError, match="sigma_2"):
            pv.restore(y, physics, cae, physics_priors={"sigma_2": dist.HalfNormal(0.1)}, num_steps=1, progress=False)


class TestPansharpening:
    @pytest.mark.parametrize("ratio", [2, 3, 4])
    def test_the_coarse_pixels_cover_blocks_of_fine_ones(self, ratio):
        """Of a ramp a blur leaves the value at its centre, which is a block's."""
        side = 24 * ratio
        ramp = torch.arange(float(side)).expand(1, 3, side, side) / side
        pan, ms = (
            part * side
            for part in pansharpening((3, side, side), ratio).split(pansharpening((3, side, side), ratio).A(ramp))
        )
        inner = slice(8, 16)
        torch.testing.assert_close(ms[0, 0, 12, inner], ratio * torch.arange(8.0, 16.0) + (ratio - 1) / 2)
        torch.testing.assert_close(pan[0, 0, side // 2, inner], torch.arange(8.0, 16.0), rtol=1e-4, atol=1e-3)

    @pytest.mark.parametrize("transfer", [0.05, 0.15, 0.3, 0.7])
    def test_transfers_at_nyquist_are_those_that_were_asked_for(self, transfer):
        physics = pansharpening((3, 64, 64), 4, pan_mtf=transfer, ms_mtf=transfer)
        t = torch.arange(64.0)
        fine, slow = torch.cos(math.pi * t), torch.cos(math.pi * (t - 1.5) / 4)
        pan, _ = physics.split(physics.A(fine.expand(1, 3, 64, 64)))
        _, ms = physics.split(physics.A(slow.expand(1, 3, 64, 64)))
        assert float(pan[0, 0, 32, 32].abs()) == pytest.approx(transfer, abs=1e-3)
        assert float(ms[0, 0, 8, 8].abs()) == pytest.approx(transfer, abs=1e-3)

    def test_weights(self):
        physics = pansharpening((4, 16, 16), 2, weights=[0.1, 0.2, 0.3, 0.4])
        x = torch.arange(4.0)[None, :, None, None].expand(1, 4, 16, 16)
        pan, _ = physics.split(physics.A(x))
        torch.testing.assert_close(pan, torch.full_like(pan, 2.0))
        with pytest.raises(ValueError, match="one number a band"):
            pansharpening((4, 16, 16), 2, weights=[0.5, 0.5])
        with pytest.raises(ValueError, match="must divide"):
            pansharpening((4, 18, 16), 4)

    def test_weights_are_found(self):
        x = deepinv.physics.functional.conv2d(torch.rand(2, 3, 96, 96), torch.ones(1, 1, 5, 5) / 25, padding="reflect")
        physics = pansharpening((3, 96, 96), 4, weights=[0.5, 0.3, 0.2], pan_noise=1e-3, ms_noise=1e-3)
        pan, ms = physics.split(physics(x))
        pan[0, 0, :5, :7] = torch.nan
        ms[1, 2, 3] = torch.nan
        weights, left = spectral_weights(pan, ms)
        assert weights == pytest.approx((0.5, 0.3, 0.2), abs=0.01)
        assert left < 0.02
        with pytest.raises(ValueError, match="crop them to the same ground"):
            spectral_weights(pan[..., :-1, :], ms)
        with pytest.raises(ValueError, match="ten pixels a band"):
            spectral_weights(pan.fill_(torch.nan), ms)

    def test_spectral_response(self):
        response = SpectralResponse([[1.0, 0.0, 0.0], [0.2, 0.3, 0.5]])
        x, v = torch.rand(2, 3, 8, 8), torch.rand(2, 2, 8, 8)
        torch.testing.assert_close(response.A(x)[:, 0], x[:, 0])
        torch.testing.assert_close((response.A(x) * v).sum(), (x * response.A_adjoint(v)).sum())
        for wrong, kind in (("abc", TypeError), ([[1.0], [1.0, 2.0]], ValueError), ([float("nan")], ValueError)):
            with pytest.raises(kind, match="weights must be"):
                SpectralResponse(wrong)

    def test_four_bands_go_band_by_band(self, cae):
        physics = pansharpening((4, 64, 64), 4)
        x = torch.rand(1, 4, 64, 64)
        posterior = pv.restore(physics.split(physics(x)), physics, cae, num_steps=3, seed=0, progress=False)
        assert posterior.shape == (1, 4, 64, 64)
        assert posterior.elbo.isfinite().all()


def test_deep_copies_keep_operator_and_noise_together():
    physics = jointly(PAIRS["exposures"](), SHAPE)
    twin = copy.deepcopy(physics)
    assert isinstance(twin, Jointly)
    assert twin.noise_model.operators[1] is twin.physics_list[1] is not physics.physics_list[1]
