"""Linearised draws: exact where the model is linear and Gaussian, and a kind of samples anywhere."""

import deepinv
import numpy as np
import pyro.distributions as dist
import pytest
import torch
from deepinv.physics import Denoising, GammaNoise, GaussianNoise, LaplaceNoise, PoissonGaussianNoise
from helpers import MatrixPhysics, linear_vae, small_network

import pyro_vble as pv
from pyro_vble import diagnostics
from pyro_vble.guides import VBLE, MAPz, VBLExz
from pyro_vble.inference.linearisation import Linearisation
from pyro_vble.models import CAE, RestorationModel, convolutional_vae
from pyro_vble.models.freezing import frozen
from pyro_vble.physics import noise_distribution
from pyro_vble.physics.problems import deblurring, gaussian_kernel, inpainting, super_resolution
from pyro_vble.samples import LinearisedPosterior, Mixture, Posterior

IMAGE, PIXELS = (1, 3, 4), 12
EXACT = {"recentre": True, "tolerance": 1e-10, "max_iterations": 500}
DRAWS = 4000


class Linear:
    """x = W z + c [+ s e], y = A x + w, about a centre that nothing was fitted to."""

    def __init__(self, guide, latents=5, values=9, rank=None, noise=None, missing=0, images=1):
        generator = torch.Generator().manual_seed(latents + values)

        def normal(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.W, self.c, self.s = normal(PIXELS, latents), 2 + 0.1 * normal(PIXELS), 0.4
        self.A = normal(values, rank or PIXELS) @ normal(rank or PIXELS, PIXELS) / PIXELS
        self.A = self.A if rank else normal(values, PIXELS).abs() / PIXELS
        noise = noise or GaussianNoise(0.25)
        self.y = (self.c + normal(images, PIXELS)) @ self.A.T + 0.25 * normal(images, values)
        self.y[:, :missing] = torch.nan
        self.latent_image = guide.latent_image
        physics = MatrixPhysics(self.A, noise)
        prior = linear_vae(self.W, self.c, self.s, IMAGE)
        model = RestorationModel(prior, physics, latent_image=self.latent_image, image_shape=IMAGE)
        made = guide(model, self.y, free_mean=True) if self.latent_image else guide(model, self.y)
        with torch.no_grad():
            for factor in made.factors.values():
                factor.loc.copy_(0.3 * normal(*factor.loc.shape))
        self.posterior = Posterior(model, made, self.y, precision="float64", seed=0)
        self.centre = torch.cat([v.flatten(1) for v in made.median().values()], 1)

    @property
    def decoder(self):
        """From all latents to the image."""
        own = self.s * torch.eye(PIXELS, dtype=torch.float64)
        return torch.cat((self.W, own), 1) if self.latent_image else self.W

    def information(self, image, formula):
        signal = self.A @ (self.c + self.decoder @ self.centre[image])
        return torch.where(self.y[image].isnan(), 0.0, formula(signal))

    def exact(self, image, formula=lambda signal: torch.full_like(signal, 0.25**-2)):
        """Mean and covariance of the image."""
        J, F = self.A @ self.decoder, self.information(image, formula)
        precision = torch.eye(J.shape[1], dtype=torch.float64) + J.T @ (F[:, None] * J)
        residual = torch.nan_to_num(self.y[image]) - self.A @ self.c
        mean = self.c + self.decoder @ torch.linalg.solve(precision, J.T @ (F * residual))
        return mean, self.decoder @ torch.linalg.solve(precision, self.decoder.T)


def assert_covariance(draws, expected):
    """Every entry within five standard errors."""
    n = len(draws)
    found = torch.cov(draws.T)
    variances = expected.diagonal()
    error = ((variances[:, None] * variances + expected**2) / n).sqrt()
    assert bool(((found - expected).abs() < 5 * error).all())


SETTINGS = {
    "tall decoder": {},
    "wide decoder": {"latents": 20},
    "rank-deficient operator": {"values": 15, "rank": 3},
    "more values than pixels": {"values": 20},
    "missing values": {"missing": 4},
    "noise by value": {"noise": GaussianNoise(torch.full((1, 9), 0.25))},
}


@pytest.mark.parametrize("guide", [VBLE, VBLExz])
@pytest.mark.parametrize("name", SETTINGS)
def test_draws_are_exact_whatever_the_centre(guide, name):
    problem = Linear(guide, **SETTINGS[name])
    draws = problem.posterior.linearised(**EXACT).sample(DRAWS, seed=1).flatten(2)
    mean, covariance = problem.exact(0)
    error = (covariance.diagonal() / DRAWS).sqrt()
    assert bool(((draws[:, 0].mean(0) - mean).abs() < 5 * error).all())
    assert_covariance(draws[:, 0], covariance)


def test_draws_of_a_batch_are_exact():
    problem = Linear(VBLExz, missing=2, images=2)
    draws = problem.posterior.linearised(**EXACT).sample(DRAWS // 10, seed=1).flatten(2)
    for image in range(2):
        assert_covariance(draws[:, image], problem.exact(image)[1])


def test_about_the_centre_itself():
    problem = Linear(VBLE)
    draws = problem.posterior.linearised(**EXACT | {"recentre": False}).sample(DRAWS, seed=1).flatten(2)
    covariance = problem.exact(0)[1]
    error = (covariance.diagonal() / DRAWS).sqrt()
    centre = problem.c + problem.decoder @ problem.centre[0]
    assert bool(((draws[:, 0].mean(0) - centre).abs() < 5 * error).all())
    assert_covariance(draws[:, 0], covariance)


NOISES = {
    "laplace": (LaplaceNoise(0.2), lambda s: torch.full_like(s, 0.2**-2)),
    "poisson-gaussian": (
        PoissonGaussianNoise(gain=0.2, sigma=0.1),
        lambda s: 1 / (0.2 * s + 0.01) + 0.5 * (0.2 / (0.2 * s + 0.01)) ** 2,
    ),
    "gamma": (GammaNoise(4.0), lambda s: 4 / s**2),
}


@pytest.mark.parametrize("guide", [VBLE, VBLExz])
@pytest.mark.parametrize("name", NOISES)
def test_other_noise_is_told_by_its_information(guide, name):
    noise, formula = NOISES[name]
    problem = Linear(guide, noise=noise)
    problem.y.abs_()  # what gamma noise measures
    draws = problem.posterior.linearised(**EXACT).sample(DRAWS, seed=1).flatten(2)
    assert_covariance(draws[:, 0], problem.exact(0, formula)[1])


def test_one_step_of_gauss_and_newton_from_the_mean_is_none():
    problem = Linear(VBLExz)
    system = Linearisation(problem.posterior.model, problem.y, problem.posterior.centre(), 1, 1e-12)
    assert float(system.right_hand_side(system.residuals())["z"].abs().max()) > 0.1
    J, F = problem.A @ problem.decoder, 0.25**-2
    precision = torch.eye(J.shape[1], dtype=torch.float64) + F * J.T @ J
    mean = torch.linalg.solve(precision, F * J.T @ (problem.y - problem.A @ problem.c).T).T
    z, e = mean.split((5, PIXELS), 1)
    at = {"z": z, "x_decentered": e.reshape(1, *IMAGE)}
    system = Linearisation(problem.posterior.model, problem.y, at, 1, 1e-12)
    residuals = system.residuals()
    gradient = system.right_hand_side(residuals)
    step = system.completed({"z": torch.zeros_like(gradient["z"])}, residuals)
    for value in (gradient["z"], step["x_decentered"]):
        torch.testing.assert_close(value, torch.zeros_like(value), rtol=0, atol=1e-9)


@pytest.mark.parametrize("latent_image", [False, True])
@pytest.mark.parametrize("architecture", ["MeanScaleHyperprior", "ScaleHyperprior"])
def test_products_of_a_compressive_autoencoder_are_those_of_difference_quotients(architecture, latent_image):
    """Λ v = P v + Σ Jᵀ W J v, where J v is a difference quotient in double precision, and nothing of it for e."""
    prior, shape = frozen(CAE(small_network(architecture).double(), alpha=0.025)), (3, 20, 24)
    physics = deblurring(0.1, gaussian_kernel(1.0).double())
    model = RestorationModel(prior, physics, latent_image=latent_image)
    y = torch.rand(1, *shape, dtype=torch.float64)
    at = {name: start.loc for name, start in model.start(y).items()}
    std = prior.decode_std(at["z"], shape).detach()

    def predicted(latents):
        x = prior.decode_mean(latents["z"], shape)
        if latent_image:
            x = x + std * latents["x_decentered"]
        mean, variance = prior.latent_moments(latents, shape)["z"]
        return physics.A(x), latents["z"] - mean, variance.log() / 2

    linear = Linearisation(model, y, at, 1, 1e-12)
    v, step = {name: torch.randn_like(value) for name, value in at.items() if name != "x_decentered"}, 1e-5
    found = linear.product({name: value[None] for name, value in v.items()})
    none = {name: torch.zeros_like(value) for name, value in linear.residuals().items()}
    completed = linear.completed({name: value[None] for name, value in v.items()}, none)
    v = {name: value[0] for name, value in completed.items()}
    ends = [predicted({name: at[name] + side * step * v[name] for name in at}) for side in (1, -1)]
    weights = (0.1**-2, 1 / prior.latent_variance(at, shape)["z"], 2.0)
    weighted = [w * (a - b) / (2 * step) for w, a, b in zip(weights, *ends, strict=True)]
    inputs = {name: value.clone().requires_grad_() for name, value in at.items()}
    expected = torch.autograd.grad(predicted(inputs), list(inputs.values()), weighted)
    own = {"h": 1 / prior.p_h(shape).variance, "z": 0.0, "x_decentered": 1.0}
    for name, value in zip(at, expected, strict=True):
        whole = value + own[name] * v[name]
        torch.testing.assert_close(whole, found[name][0] if name in found else 0 * whole, rtol=1e-4, atol=1e-4)


def test_products_of_a_batch_are_those_of_its_images(bundled):
    physics = super_resolution(0.0, (3, 64, 64), 2)
    model, y = RestorationModel(bundled, physics, latent_image=True), torch.rand(3, 3, 32, 32)
    at = {name: start.loc for name, start in model.start(y).items()}
    v = {name: torch.randn(2, *value.shape) for name, value in at.items() if name != "x_decentered"}
    together = Linearisation(model, y, at, 2).product(v)
    for image in range(3):
        one = slice(image, image + 1)
        alone = Linearisation(model, y[one], {n: value[one] for n, value in at.items()}, 2)
        for name, value in alone.product({n: value[:, one] for n, value in v.items()}).items():
            torch.testing.assert_close(together[name][:, one], value, rtol=1e-3, atol=1e-3 * float(value.abs().max()))


PRIORS = {
    "hyperprior": lambda: CAE(small_network(), alpha=0.025),
    "scales": lambda: CAE(small_network("ScaleHyperprior"), alpha=0.025),
    "context": lambda: CAE(small_network("JointAutoregressiveHierarchicalPriors"), alpha=0.025),
    "attention": lambda: CAE(small_network("Cheng2020Attention"), alpha=0.025),
    "rate scales": lambda: CAE(small_network(), alpha=0.025, rate_scale=(0.5, 1.0)),
    "VAE": lambda: convolutional_vae((3, 64, 64), num_latents=4, channels=(4, 4)),
}


@pytest.mark.parametrize(("name", "guide"), [*((name, VBLExz) for name in PRIORS), ("scales", VBLE), ("VAE", MAPz)])
def test_any_prior(name, guide):
    prior, y = PRIORS[name](), torch.rand(2, 3, 64, 64)
    posterior = pv.restore(y, Denoising(GaussianNoise(0.1)), prior, guide, num_steps=2, seed=0, progress=False)
    linearised = posterior.linearised(max_iterations=500)
    assert linearised.sample(3).isfinite().all()
    assert float(linearised.residual) <= 0.03
    assert 0 < linearised.iterations < 500


@pytest.mark.parametrize("bands", [1, 5])
def test_other_bands(cae, bands):
    mask = (torch.rand(1, 64, 64) > 0.3).float()
    y = torch.rand(2, bands, 64, 64)
    posterior = pv.restore(y, inpainting(0.1, mask), cae, VBLExz, num_steps=2, seed=0, progress=False)
    assert posterior.linearised(max_iterations=500).std(3).shape == (2, bands, 64, 64)


def test_a_guide_that_has_no_median(cae, denoising):
    from pyro.infer.autoguide import AutoNormal

    posterior = pv.restore(torch.rand(1, 3, 64, 64), denoising, cae, AutoNormal, num_steps=2, seed=0, progress=False)
    posterior.guide.median = None
    assert posterior.linearised().sample(2).isfinite().all()


@pytest.fixture
def posterior(cae):
    y, physics = torch.rand(2, 3, 64, 64), Denoising(GaussianNoise(0.1))
    return pv.restore(y, physics, cae, VBLExz, num_steps=3, seed=0, progress=False, precision="float32")


class TestSamples:
    """What samples promise."""

    def test_seeds(self, posterior):
        linearised = posterior.linearised()
        assert torch.equal(linearised.sample(3), posterior.linearised().sample(3))
        assert torch.equal(linearised.sample(3, seed=5), posterior.linearised(seed=5).sample(3))
        assert not torch.equal(linearised.sample(3, seed=1), linearised.sample(3, seed=2))
        before = torch.get_rng_state()
        linearised.sample(2, seed=3)
        assert torch.equal(torch.get_rng_state(), before)

    def test_statistics(self, posterior):
        linearised = posterior.linearised(7)
        x = linearised.sample(7)
        torch.testing.assert_close(linearised.mmse_x(), x.mean(0), rtol=0, atol=1e-5)
        torch.testing.assert_close(linearised.std(), x.std(0), rtol=1e-4, atol=1e-5)
        expected = torch.from_numpy(np.quantile(x.numpy(), 0.5, axis=0, method="weibull")).to(x)
        torch.testing.assert_close(linearised.quantile(0.5), expected, rtol=0, atol=1e-5)
        low, high = linearised.interval(0.5)
        assert bool((low <= high).all())
        assert linearised.error_quantile(0.9).shape == posterior.shape
        assert linearised.predictive(3).shape == (3, 2, 3, 64, 64)
        assert float((linearised.predictive(4) - linearised.sample(4)).std()) == pytest.approx(0.1, rel=0.03)

    def test_draws_are_solved_once_for_all_statistics(self, posterior, monkeypatch):
        linearised, solved = posterior.linearised(5), []
        original = LinearisedPosterior._solved
        monkeypatch.setattr(LinearisedPosterior, "_solved", lambda *a: (solved.append(a), original(*a))[1])
        linearised.std(), linearised.quantile(0.1), linearised.interval(0.9), linearised.predictive(5)
        assert sum(a[-1] for a in solved) == 5
        with torch.no_grad():
            posterior.guide.factors["z"].loc.add_(1.0)
        linearised.std()
        assert sum(a[-1] for a in solved) == 10, "those of an older guide are not those of this one"

    def test_memory_does_not_grow_with_their_number(self, posterior, monkeypatch):
        monkeypatch.setattr("pyro_vble.samples.posterior._PIXELS_AT_ONCE", {"cpu": 2 * 2 * 64 * 64})
        monkeypatch.setattr("pyro_vble.samples.kept._KEEP_VALUES", 0)
        sizes, built = [], []
        original = Linearisation.__init__
        monkeypatch.setattr(Linearisation, "__init__", lambda self, *a: (built.append(a), original(self, *a))[1])
        linearised = posterior.linearised()
        for n in (3, 9):
            sizes.append([len(chunk) for chunk in linearised.chunks(n)])
        assert sizes == [[2, 1], [2, 2, 2, 2, 1]]
        assert len(built) == 2, "one system for all chunks"

    def test_chunks_of_any_size_have_the_exact_moments(self, monkeypatch):
        problem = Linear(VBLExz)
        monkeypatch.setattr("pyro_vble.samples.posterior._PIXELS_AT_ONCE", {"cpu": 700 * PIXELS})
        draws = problem.posterior.linearised(**EXACT).sample(DRAWS, seed=1).flatten(2)
        assert_covariance(draws[:, 0], problem.exact(0)[1])

    def test_diagnostics(self, posterior):
        linearised, truth = posterior.linearised(12), torch.rand(posterior.shape)
        for name in ("coverage_curve", "pit_histogram", "error_by_std", "z_score_map", "crps", "error_quantile"):
            assert getattr(diagnostics, name)(linearised, truth, num_samples=12) is not None
        assert diagnostics.interval_score(linearised, truth, 0.5, num_samples=12).isfinite().all()

    def test_calibration_is_told_from_the_guides(self, posterior):
        truths = [torch.rand(posterior.shape)] * 2
        made = diagnostics.Calibration.fit([posterior.linearised()] * 2, truths, num_samples=6)
        calibrated = posterior.linearised().calibrated(made)
        low, high = calibrated.interval(0.5, 6)
        assert bool((high > low).all())
        with pytest.warns(UserWarning, match="was made with linearised at VBLExz"):
            posterior.calibrated(made)

    def test_arviz_and_zarr(self, posterior, tmp_path):
        linearised = posterior.linearised(4)
        idata = linearised.to_arviz(include=linearised.groups)
        assert idata.posterior["z"].shape[:3] == (1, 4, 2)
        assert {"h", "x_decentered", "image"} <= set(idata.posterior)
        assert idata.posterior_predictive["y"].shape == (1, 4, 2, 3, 64, 64)
        np.testing.assert_allclose(idata.posterior["image"][0], linearised.sample(4), atol=1e-6)
        linearised.to_zarr(tmp_path / "draws.zarr", include=["posterior"])
        assert pv.open_zarr(tmp_path / "draws.zarr")["posterior"]["image"].shape == (1, 4, 2, 3, 64, 64)

    def test_of_a_mixture(self, posterior):
        with torch.no_grad():
            other = pv.fit(
                posterior.model, VBLExz(posterior.model, posterior.y), posterior.y, num_steps=1, seed=1, progress=False
            )
            other.guide.factors["x_decentered"].loc.add_(5.0)
        mixture = Mixture([posterior, other]).linearised(6, recentre=False)
        x = mixture.sample(6)
        levels = x[:, 0].flatten(1).mean(1).sort().values
        assert float(levels.diff()[2]) > 10 * float(levels.diff()[[0, 1, 3, 4]].max()), "three draws of each"
        assert len(mixture.to_arviz(6, include=["posterior"]).posterior.chain) == 2
        assert "Mixture(2 fits" in repr(mixture)


class TestRefusals:
    def test_too_few_iterations_are_told(self, posterior):
        linearised = posterior.linearised(max_iterations=1, tolerance=1e-6)
        with pytest.warns(UserWarning, match="after 1 iterations, where 1e-06 was asked for.*raise max_iterations"):
            linearised.sample(2)
        assert linearised.iterations == 1
        assert linearised.residual > 1e-6

    @pytest.mark.parametrize("options", [{"n": 0}, {"tolerance": 0.0}, {"max_iterations": 0}, {"recentre": 2}])
    def test_arguments(self, posterior, options):
        (name,) = options
        with pytest.raises((ValueError, TypeError), match=f"{name} must be .*; received"):
            posterior.linearised(**options)

    def test_no_operator(self, posterior, cae, tmp_path):
        posterior.save(tmp_path / "fit.pvble")
        loaded = pv.load_posterior(tmp_path / "fit.pvble", prior=cae)
        with pytest.raises(ValueError, match="Linearised draws need the forward operator"):
            loaded.linearised()

    def test_unknown_parameters(self, cae):
        y, priors = torch.rand(1, 3, 64, 64), {"sigma": dist.HalfNormal(0.1)}
        posterior = pv.restore(
            y, Denoising(GaussianNoise(0.1)), cae, VBLE, physics_priors=priors, num_steps=2, progress=False
        )
        with pytest.raises(ValueError, match="received a posterior that infers sigma; restore again"):
            posterior.linearised()

    def test_a_prior_without_moments(self, cae, denoising, monkeypatch):
        posterior = pv.restore(torch.rand(1, 3, 64, 64), denoising, cae, VBLE, num_steps=2, progress=False)
        monkeypatch.setattr(CAE, "latent_moments", lambda self, latents, shape: {})
        with pytest.raises(ValueError, match="received CAE, which does not of h, z; define latent_moments"):
            posterior.linearised().sample()

    def test_noise_that_tells_nothing(self, cae):
        class Flat(deepinv.physics.NoiseModel):
            pass

        @noise_distribution.register
        def _(noise_model: Flat, signal):
            return dist.Uniform(signal - 1, signal + 1, validate_args=False)

        model = RestorationModel(cae, Denoising(Flat()))
        y = torch.rand(1, 3, 64, 64)
        with pytest.raises(ValueError, match=r"received Denoising \+ Flat\(\), whose Fisher information is zero"):
            Posterior(model, VBLE(model, y), y).linearised().sample()


class TestOfEachImage:
    """Operators and noise that hold one value an image of the batch."""

    @pytest.mark.parametrize(
        "physics",
        [
            deepinv.physics.Inpainting((1, 16, 16), mask=(torch.rand(2, 1, 16, 16) < 0.7).float()),
            deepinv.physics.Denoising(deepinv.physics.GaussianNoise(torch.tensor([0.05, 0.2]))),
        ],
        ids=["masks", "levels"],
    )
    def test_measurements_of_draws(self, physics):
        if isinstance(physics, deepinv.physics.Inpainting):
            physics.noise_model = deepinv.physics.GaussianNoise(0.1)
        prior = linear_vae(torch.randn(256, 4).double(), torch.zeros(256).double(), 0.1, (1, 16, 16))
        y = physics(torch.rand(2, 1, 16, 16)).double()
        posterior = pv.restore(y, physics, prior, VBLE, num_steps=2, seed=0, progress=False)
        drawn = posterior.linearised(3)
        assert drawn.predictive(3).shape == (3, 2, 1, 16, 16)
        assert "posterior_predictive" in drawn.to_arviz(3).groups()


def test_latents_of_turned_fits_are_none_of_one_frame(cae):
    physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))
    posterior = pv.restore(
        torch.rand(1, 3, 64, 64), physics, cae, symmetries="flip", num_steps=1, seed=0, progress=False
    )
    assert "latents" not in posterior.linearised(2).groups
    assert posterior.linearised(2).groups <= posterior.groups


def test_results_are_where_those_of_the_guide_are(cae):
    physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))
    posterior = pv.restore(torch.rand(1, 3, 64, 64), physics, cae, num_steps=1, seed=0, progress=False)
    posterior.output_device = torch.device("meta")
    assert posterior.linearised(2).output_device == posterior.output_device
    assert pv.samples.Mixture([posterior]).output_device == posterior.output_device
