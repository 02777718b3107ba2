"""What guides of every kind must keep in restore: ours, Pyro's automatic ones, modules and functions of the user's."""

import threading
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from deepinv.physics import Denoising, GaussianNoise
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoIAFNormal,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
    AutoStructured,
    init_to_value,
)
from pyro.nn import PyroModule, PyroParam
from pyro.optim import ClippedAdam

import pyro_vble as pv
from pyro_vble.guides import VBLE, MAPz, VBLExz
from pyro_vble.models import RestorationModel
from pyro_vble.samples.kept import KeptSamples

PHYSICS = Denoising(GaussianNoise(0.1))
QUICK = {"num_steps": 6, "seed": 0, "progress": False, "precision": "float32"}


def forget(posterior):
    """Let a posterior draw its samples anew."""
    posterior._kept, posterior._kept_moments = KeptSamples(), None


def sampled(start, loc, scale, y):
    with pyro.plate("image", len(y), dim=-1):
        for site, value in start.items():
            pyro.sample(site, dist.Normal(loc(site, value), scale(site, value)).to_event(value.dim() - 1))


def function_guide(model, y):
    """As tutorials of Pyro have it."""
    start = model.initial_latents(y)

    def guide(y):
        loc = lambda site, value: pyro.param(f"{site}_loc", value.clone())  # noqa: E731
        scale = lambda site, value: pyro.param(  # noqa: E731
            f"{site}_scale", torch.full_like(value, 0.1), constraint=dist.constraints.positive
        )
        sampled(start, loc, scale, y)

    return guide


class ModuleGuide(PyroModule):
    """A module with Pyro's parameters, which also knows how to start elsewhere."""

    def __init__(self, model, y):
        super().__init__()
        self.start = model.initial_latents(y)
        for site, value in self.start.items():
            setattr(self, f"loc_{site}", PyroParam(value.clone()))
            setattr(self, f"scale_{site}", PyroParam(torch.full_like(value, 0.1), dist.constraints.positive))

    def scatter_(self, y):
        for site in self.start:
            getattr(self, f"loc_{site}_unconstrained").add_(torch.randn(()))

    def forward(self, y):
        get = lambda kind: lambda site, value: getattr(self, f"{kind}_{site}")  # noqa: E731
        sampled(self.start, get("loc"), get("scale"), y)


class PlainModuleGuide(torch.nn.Module):
    """A module with torch's own parameters."""

    def __init__(self, model, y):
        super().__init__()
        self.start = model.initial_latents(y)
        self.loc = torch.nn.ParameterDict({site: value.clone() for site, value in self.start.items()})

    def forward(self, y):
        sampled(self.start, lambda site, value: self.loc[site], lambda site, value: 0.1, y)


class AnyGuide:
    """Subclasses say which guide; the tests are shared."""

    guide = None
    scatters = True
    #: Whether a file can name it so that it is found again.
    named = True
    by_image = True
    moves = True

    @pytest.fixture
    def ys(self):
        return [torch.rand(1, 3, 64, 64), 0.2 * torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 128)]

    def restore(self, cae, y, **options):
        return pv.restore(y, PHYSICS, cae, type(self).__dict__["guide"].__func__, **(QUICK | options))

    def test_later_fits_do_not_touch_earlier_ones(self, cae, ys):
        pyro.param("h_loc", torch.tensor(7.0))  # somebody's own, of the same name
        posteriors = [self.restore(cae, y) for y in ys]
        samples = [posterior.sample(3, seed=1) for posterior in posteriors]
        again = [self.restore(cae, y).sample(3, seed=1) for y in reversed(ys)]
        for posterior, first, second in zip(posteriors, samples, reversed(again), strict=True):
            forget(posterior)
            torch.testing.assert_close(posterior.sample(3, seed=1), first, rtol=0, atol=0)
            torch.testing.assert_close(second, first, rtol=0, atol=0)
        assert dict(pyro.get_param_store().named_parameters()).keys() == {"h_loc"}
        assert float(pyro.param("h_loc")) == 7.0

    def test_it_starts_at_the_models_latents_and_learns(self, cae, ys):
        posterior = self.restore(cae, ys[0], num_steps=12)
        assert posterior.elbo.isfinite().all()
        start = cae.decode_mean(posterior.model.initial_latents(ys[0])["z"], (3, 64, 64))
        # Random weights decode next to nothing; all the same it is the start's neighbourhood and not the prior's.
        assert float((posterior.mmse_z - start).abs().max()) < 0.5
        if self.moves:
            assert float(posterior.elbo[-3:].mean()) > float(posterior.elbo[:3].mean())

    def test_what_posteriors_offer(self, cae, ys):
        posterior = self.restore(cae, ys[0])
        assert posterior.mmse_z.shape == posterior.std(4).shape == (1, 3, 64, 64)
        assert set(posterior.sample_latents(2)) - {"x_decentered"} == {"h", "z"}
        draws = next(posterior.draws(2))
        assert draws.log_weights.shape == (2, 1)
        idata = posterior.to_arviz(4)
        assert idata.posterior["image"].shape == (1, 4, 1, 3, 64, 64)
        assert posterior.predictive(2).shape == (2, 1, 3, 64, 64)

    def test_a_batch(self, cae):
        y = torch.rand(2, 3, 64, 64)
        posterior = self.restore(cae, y)
        assert posterior.sample(3).shape == (3, 2, 3, 64, 64)
        if self.by_image:
            assert next(posterior.draws(2)).log_weights.shape == (2, 2)
        else:
            with pytest.raises(ValueError, match="one density for all"):
                next(posterior.draws(2))

    def test_independent_fits_differ_or_are_refused(self, cae, ys):
        if not self.scatters:
            with pytest.raises(ValueError, match=r"give it a method scatter_\(y\)"):
                self.restore(cae, ys[0], num_fits=2)
            return
        posterior = self.restore(cae, ys[0], num_fits=3, num_steps=1, lr=1e-6)
        z = [fit.sample_latents(64, seed=0)["z"].mean(0) for fit in posterior.fits]
        apart = [float((z[0] - other).abs().mean()) for other in z[1:]] + [float((z[1] - z[2]).abs().mean())]
        noise = float(posterior.fits[0].sample_latents(64, seed=1)["z"].std(0).mean()) / 8
        assert min(apart) > 2 * noise

    @pytest.mark.parametrize("with_operator", [True, False])
    def test_saving(self, cae, ys, tmp_path, with_operator):
        posterior, path = self.restore(cae, ys[0]), tmp_path / "fit.pvble"
        posterior.save(path)
        how = {"prior": cae, "physics": PHYSICS if with_operator else None}
        if self.named:
            again = pv.load_posterior(path, **how)
        else:
            with pytest.raises(ValueError, match=r"was fitted with the guide .* pass guide=\.\.\."):
                pv.load_posterior(path, **how)
            again = pv.load_posterior(path, guide=type(self).__dict__["guide"].__func__, **how)
        torch.testing.assert_close(again.sample(3, seed=1), posterior.sample(3, seed=1), rtol=0, atol=0)
        torch.testing.assert_close(again.mmse_z, posterior.mmse_z, rtol=0, atol=0)
        again.save(path)

    def test_rate_scales_compete(self, cae, ys):
        posterior = self.restore(cae, ys[0], rate_scale="auto", num_steps=2)
        assert 0 < posterior.model.prior.rate_scale <= 1


class TestVBLE(AnyGuide):
    guide = staticmethod(VBLE)


class TestVBLExz(AnyGuide):
    guide = staticmethod(partial(VBLExz, free_mean=True))


class TestCorrelated(AnyGuide):
    guide = staticmethod(partial(VBLExz, family="correlated", free_mean=True))


class TestMAPz(AnyGuide):
    guide = staticmethod(MAPz)


class TestFunction(AnyGuide):
    guide = staticmethod(function_guide)
    named = False
    scatters = False


class TestModule(AnyGuide):
    guide = staticmethod(ModuleGuide)


class TestPlainModule(AnyGuide):
    guide = staticmethod(PlainModuleGuide)
    scatters = False


class TestAutoNormal(AnyGuide):
    guide = staticmethod(AutoNormal)


class TestAutoNormalByACallable(AnyGuide):
    guide = staticmethod(lambda model, y: AutoNormal(model))


class TestAutoDelta(AnyGuide):
    guide = staticmethod(AutoDelta)


class TestAutoDiagonalNormal(AnyGuide):
    guide = staticmethod(AutoDiagonalNormal)
    by_image = False


class TestAutoMultivariateNormal(AnyGuide):
    guide = staticmethod(AutoMultivariateNormal)
    by_image = False


class TestAutoLowRank(AnyGuide):
    guide = staticmethod(partial(AutoLowRankMultivariateNormal, rank=3))
    by_image = False


class TestAutoStructured(AnyGuide):
    guide = staticmethod(AutoStructured)
    by_image = False


@pytest.mark.slow
class TestAutoIAFNormal(AnyGuide):
    guide = staticmethod(partial(AutoIAFNormal, hidden_dim=[420]))
    by_image = False
    moves = False


def test_a_normalising_flow_starts_about_the_models_latents(cae, tmp_path):
    y = torch.rand(1, 3, 64, 64)
    posterior = pv.restore(y, PHYSICS, cae, partial(AutoIAFNormal, hidden_dim=[210]), **(QUICK | {"num_steps": 1}))
    start = posterior.model.initial_latents(y)["z"]
    z = posterior.sample_latents(32)["z"]
    assert float((z.mean(0) - start).abs().mean()) < 0.5
    assert posterior.mmse_z.shape == (1, 3, 64, 64)
    posterior.save(tmp_path / "fit.pvble")
    again = pv.load_posterior(tmp_path / "fit.pvble", prior=cae)  # without the operator, which tells where it started
    assert torch.equal(again.sample(2, seed=1), posterior.sample(2, seed=1))


def test_a_start_of_ones_own_is_kept(cae):
    y = torch.rand(1, 3, 64, 64)
    model = RestorationModel(cae, PHYSICS)
    values = {site: torch.full_like(value, 0.25) for site, value in model.initial_latents(y).items()}
    guide = partial(AutoDelta, init_loc_fn=init_to_value(values=values))
    posterior = pv.restore(y, PHYSICS, cae, guide, **(QUICK | {"num_steps": 1, "lr": 1e-6}))
    torch.testing.assert_close(posterior.sample_latents(1)["z"], values["z"][None], atol=1e-4, rtol=0)


def test_automatic_guides_in_plain_pyro_are_left_as_they_are(cae):
    """Only restore gives them a start."""
    y = torch.rand(1, 3, 64, 64)
    model = RestorationModel(cae, PHYSICS)
    guide = AutoNormal(model)
    svi = SVI(model, guide, ClippedAdam({"lr": 0.01}), Trace_ELBO())
    svi.step(y)
    assert len(pyro.get_param_store()) > 0


def test_fit_gives_a_function_a_store_of_its_own(cae):
    y = torch.rand(1, 3, 64, 64)
    model = RestorationModel(cae, PHYSICS)
    guide = function_guide(model, y)
    options = {"num_steps": 4, "seed": 0, "progress": False, "precision": "float32"}
    first = pv.fit(model, guide, y, **options)
    before = first.mmse_x(4)
    second = pv.fit(model, guide, 0.1 * y, **options)
    forget(first)
    assert torch.equal(first.mmse_x(4), before)
    assert not torch.allclose(second.mmse_x(4), before)
    assert len(pyro.get_param_store()) == 0


def test_what_is_no_guide_is_refused(cae):
    with pytest.raises(TypeError, match=r"must make a guide, which is called with y; .* returned int"):
        pv.restore(torch.rand(1, 3, 64, 64), PHYSICS, cae, lambda model, y: 3, **QUICK)


class TestThreads:
    """Threads wait for each other and get the bits of their seeds."""

    @pytest.mark.parametrize("guide", [VBLE, AutoNormal, function_guide])
    def test_fits(self, cae, guide):
        y = torch.rand(1, 3, 64, 64)
        run = lambda seed: pv.restore(y, PHYSICS, cae, guide, **(QUICK | {"seed": seed})).mmse_x(4)  # noqa: E731
        alone = [run(seed) for seed in range(4)]
        state = torch.get_rng_state()
        found, errors = in_threads(run, range(4))
        assert errors == []
        assert all(torch.equal(found[seed], alone[seed]) for seed in range(4))
        assert torch.equal(torch.get_rng_state(), state)

    def test_samples_of_one_posterior(self, cae, monkeypatch):
        monkeypatch.setattr("pyro_vble.samples.posterior._PIXELS_AT_ONCE", {"cpu": 2 * 64 * 64})
        posterior = pv.restore(torch.rand(1, 3, 64, 64), PHYSICS, cae, VBLExz, **QUICK)
        run = lambda seed: (posterior.mmse_x(8, seed=seed), posterior.quantile(0.9, 8, seed=seed))  # noqa: E731
        alone = [run(seed) for seed in range(4)]
        found, errors = in_threads(run, [*range(4), *range(4)])
        assert errors == []
        assert all(torch.equal(a, b) for seed in range(4) for a, b in zip(found[seed], alone[seed], strict=True))


def in_threads(run, seeds):
    found, errors = {}, []

    def work(seed):
        try:
            found[seed] = run(seed)
        except Exception as error:
            errors.append(repr(error))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in seeds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found, errors
