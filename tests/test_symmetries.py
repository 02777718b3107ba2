"""Restoring under a prior that is averaged over flips and quarter turns."""

import json
from functools import partial

import pyro.distributions as dist
import pytest
import torch
from deepinv.physics import Denoising, GaussianNoise
from helpers import small_network
from pyro.infer.autoguide import AutoNormal
from safetensors import safe_open
from safetensors.torch import save_file
from typer.testing import CliRunner

import pyro_vble as pv
import pyro_vble.models.restoration
import pyro_vble.restoration
from pyro_vble._forecast import forecast
from pyro_vble.cli.app import app
from pyro_vble.cli.fit import Fit
from pyro_vble.diagnostics import Calibration, predictive_check, simulation_based_calibration
from pyro_vble.guides import VBLE, MAPz, VBLExz
from pyro_vble.inference import best_rate_scale
from pyro_vble.io.images import write_image
from pyro_vble.models import CAE, convolutional_vae
from pyro_vble.models.turned import SYMMETRIES, UPRIGHT, Turn, TurnedPrior, turn_of
from pyro_vble.physics.problems import deblurring, super_resolution

PHYSICS = Denoising(GaussianNoise(0.1))
QUICK = {"num_steps": 2, "seed": 0, "progress": False, "precision": "float32"}
OBLONG = (3, 40, 70)


@pytest.fixture
def y():
    return torch.rand(1, *OBLONG)


@pytest.fixture
def dihedral(cae, y):
    return pv.restore(y, PHYSICS, cae, symmetries="dihedral", **QUICK)


class TestOneFit:
    """To denoise with a turned prior is to denoise the turned measurement, and to turn the result back."""

    @pytest.mark.parametrize("turn", SYMMETRIES["dihedral"], ids=str)
    @pytest.mark.parametrize("guide", [AutoNormal, MAPz, VBLE])
    def test_of_a_turned_prior_is_that_of_the_turned_problem(self, turn, guide, monkeypatch):
        # Where widths start is looked at with one simulated noise, which is not turned.
        monkeypatch.setattr(pyro_vble.models.restoration, "posterior_std", lambda *_: {})
        prior = CAE(small_network(), alpha=0.025).double()
        y = torch.rand(1, *OBLONG, dtype=torch.float64)
        how = {"num_steps": 4, "seed": 0, "progress": False}
        found = pv.restore(y, PHYSICS, TurnedPrior(prior, turn), guide, **how)
        expected = pv.restore(turn.inverse(y), PHYSICS, prior, guide, **how)
        assert found.precision == "float64"
        assert found.shape == tuple(y.shape)
        torch.testing.assert_close(found.elbo, expected.elbo, rtol=1e-10, atol=0)
        torch.testing.assert_close(found.mmse_z, turn(expected.mmse_z), rtol=0, atol=1e-10)
        torch.testing.assert_close(found.sample(2), turn(expected.sample(2)), rtol=0, atol=1e-10)

    def test_a_fit_can_be_gone_on_with_under_its_own_turn(self, dihedral, y):
        fit = dihedral.fits[3]
        again = pv.restore(y, PHYSICS, fit.model.prior, rate_scale=0.5, **QUICK)
        assert turn_of(again.model.prior) == turn_of(fit.model.prior)
        assert again.model.prior.rate_scale == 0.5


class TestMixture:
    @pytest.mark.parametrize(("name", "count"), [("flip", 2), ("dihedral", 8)])
    def test_has_a_fit_for_every_symmetry(self, cae, y, name, count):
        posterior = pv.restore(y, PHYSICS, cae, symmetries=name, **QUICK)
        assert [turn_of(fit.model.prior) for fit in posterior.fits] == list(SYMMETRIES[name]) == list(posterior.turns)
        assert len(posterior.fits) == count
        assert posterior.mmse_x(2 * count).shape == posterior.std(2 * count).shape == tuple(y.shape)
        assert all(len(fit.elbo) == 2 for fit in posterior.fits)
        alone = pv.restore(y, PHYSICS, cae, **QUICK)
        assert torch.equal(posterior.fits[0].mmse_z, alone.mmse_z)
        assert not torch.equal(posterior.fits[1].mmse_z, alone.mmse_z)
        torch.testing.assert_close(posterior.mmse_z, torch.stack([fit.mmse_z for fit in posterior.fits]).mean(0))

    def test_its_fits_weigh_alike(self, dihedral):
        each = torch.stack([fit.mmse_z for fit in dihedral.fits])
        assert float(each.std(0).mean()) > 0
        with torch.no_grad():
            for k, fit in enumerate(dihedral.fits):
                fit.guide.factors["x_decentered"].loc.fill_(100.0 * k)
        levels = dihedral.sample(16).flatten(1).mean(1).sort().values
        assert bool((levels.diff()[1::2] > 1).all()), "two samples of each of eight levels"

    def test_several_fits_of_every_symmetry(self, cae, y):
        posterior = pv.restore(y, PHYSICS, cae, VBLE, symmetries="flip", num_fits=2, **QUICK)
        flip = Turn(mirrored=True)
        assert [turn_of(fit.model.prior) for fit in posterior.fits] == [UPRIGHT, flip, UPRIGHT, flip]
        assert posterior.turns == (UPRIGHT, flip)

    @pytest.mark.parametrize("guide", [VBLE, VBLExz, MAPz, AutoNormal, partial(VBLExz, free_mean=True)])
    @pytest.mark.parametrize("bands", [1, 2, 3])
    def test_of_any_guide_and_bands_and_batch(self, cae, guide, bands):
        y = torch.rand(2, bands, 40, 70)
        posterior = pv.restore(y, PHYSICS, cae, guide, symmetries="dihedral", **QUICK | {"num_steps": 1})
        assert posterior.mmse_x(8).shape == (2, bands, 40, 70)
        assert bool(posterior.mmse_x(8).isfinite().all())

    @pytest.mark.parametrize(
        "physics", [deblurring(0.03, torch.rand(5, 3)), super_resolution(0.0, OBLONG, 2)], ids=["blur", "x2"]
    )
    def test_of_an_operator_that_is_not_symmetric(self, cae, physics):
        x = torch.rand(1, *OBLONG)
        posterior = pv.restore(physics(x), physics, cae, symmetries="dihedral", **QUICK)
        assert posterior.mmse_x(8).shape == x.shape
        assert predictive_check(posterior, num_samples=8).ratio.shape == (1,)

    def test_the_rate_scale_is_that_of_the_image_as_it_is(self, cae, monkeypatch):
        calls = []

        def once(problem, *args, **kwargs):
            calls.append(problem)
            return best_rate_scale(problem, *args, scales=(1.0, 0.5), **kwargs)

        monkeypatch.setattr(pyro_vble.restoration, "best_rate_scale", once)
        y = torch.rand(2, 3, 64, 64)
        posterior = pv.restore(y, PHYSICS, cae, VBLE, symmetries="flip", rate_scale="auto", **QUICK)
        assert len(calls) == 1
        assert turn_of(calls[0].prior) == UPRIGHT
        assert len({fit.model.prior.rate_scale for fit in posterior.fits}) == 1
        scaled = pv.restore(y, PHYSICS, cae, VBLE, symmetries="flip", rate_scale=0.5, **QUICK)
        assert [fit.model.prior.rate_scale for fit in scaled.fits] == [0.5, 0.5]

    def test_unknown_noise_is_inferred_by_every_fit(self, cae, y):
        priors = {"sigma": dist.HalfNormal(0.2)}
        posterior = pv.restore(y, PHYSICS, cae, VBLE, symmetries="dihedral", physics_priors=priors, **QUICK)
        found = posterior.to_arviz(16).posterior
        assert found["sigma"].shape == (8, 2, 1)
        assert found["image"].shape == (8, 2, 1, *OBLONG)

    def test_interrupted_fits_that_are_complete_remain(self, cae, y):
        fits = []

        def impatient(steps):
            fits.append(steps)
            for step in steps:
                if len(fits) == 4 and step == 1:
                    raise KeyboardInterrupt
                yield step

        with pytest.warns(UserWarning, match="Interrupted after 1 of 4 steps"):
            posterior = pv.restore(
                y, PHYSICS, cae, symmetries="dihedral", **QUICK | {"num_steps": 4, "progress": impatient}
            )
        assert posterior.interrupted
        assert posterior.turns == SYMMETRIES["dihedral"][:3]

    def test_the_prior_of_its_draws_is_the_averaged_one(self, cae):
        """A decoder that is bright at the left only gives prior draws that are bright at either side."""
        half = torch.zeros(3, 64, 64)
        half[..., :32] = 1
        prior = convolutional_vae((3, 64, 64), num_latents=2, channels=(4,))
        prior.decoder = torch.nn.Sequential(torch.nn.Linear(2, half.numel()), torch.nn.Unflatten(1, half.shape))
        with torch.no_grad():
            prior.decoder[0].weight.zero_()
            prior.decoder[0].bias.copy_(half.flatten())
        posterior = pv.restore(half[None], PHYSICS, prior, VBLE, symmetries="flip", **QUICK)
        drawn = posterior.to_arviz(10, include=["prior"]).prior["image"].values
        assert drawn[..., 0].mean() == pytest.approx(0.5)

    def test_latents_have_each_their_own_frame(self, dihedral):
        assert dihedral.fits[0].sample_latents(2)["z"].shape[-2:] == (4, 8)
        assert dihedral.fits[2].sample_latents(2)["z"].shape[-2:] == (8, 4)
        with pytest.raises(ValueError, match=r"one frame .* received fits of 8; use .* posterior\.fits\[k\]"):
            dihedral.sample_latents(2)
        with pytest.raises(ValueError, match="include must be of"):
            dihedral.to_arviz(8, include=["latents"])


class TestFiles:
    def test_saved_and_loaded(self, cae, dihedral, tmp_path):
        dihedral.save(tmp_path / "fit.pvble")
        again = pv.load_posterior(tmp_path / "fit.pvble", prior=cae, physics=PHYSICS)
        assert again.turns == dihedral.turns
        assert torch.equal(again.sample(9), dihedral.sample(9))
        assert torch.equal(again.predictive(8), dihedral.predictive(8))
        assert again.made_with == dihedral.made_with

    def test_of_a_scaled_prior_by_name(self, bundled, tmp_path):
        y = torch.rand(1, 3, 64, 64)
        posterior = pv.restore(y, PHYSICS, "cae-bsd", VBLE, symmetries="flip", rate_scale=0.5, **QUICK)
        posterior.save(tmp_path / "fit.pvble")
        again = pv.load_posterior(tmp_path / "fit.pvble")
        assert torch.equal(again.sample(4), posterior.sample(4))

    @pytest.mark.parametrize("turned", [False, True])
    def test_one_of_the_fits(self, cae, dihedral, tmp_path, turned):
        fit = dihedral.fits[5]
        fit.save(tmp_path / "fit.pvble")
        again = pv.load_posterior(tmp_path / "fit.pvble", prior=fit.model.prior if turned else cae)
        assert turn_of(again.model.prior) == turn_of(fit.model.prior)
        assert torch.equal(again.sample(3), fit.sample(3))

    @pytest.mark.parametrize("turns", [["upright"], ["upright", "askew"], ["upright"] * 3, "flip", [0, 1]])
    def test_turns_that_are_none(self, cae, y, tmp_path, turns):
        path = tmp_path / "fit.pvble"
        pv.restore(y, PHYSICS, cae, symmetries="flip", **QUICK).save(path)
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["pyro_vble"]) | {"turns": turns}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        header.pop("checksum")
        save_file(tensors, path, metadata={"pyro_vble": json.dumps(header)})
        with pytest.raises(ValueError, match=r"fit\.pvble is no posterior that can be loaded: .*turns"):
            pv.load_posterior(path, prior=cae)

    def test_a_calibration_is_for_the_same_average(self, cae):
        truth = torch.rand(1, 3, 64, 64)
        restored = [pv.restore(truth, PHYSICS, cae, VBLE, symmetries=s, **QUICK) for s in (None, "flip", "dihedral")]
        made = [posterior.made_with for posterior in restored]
        assert [text.removeprefix(made[0]) for text in made[1:]] == [
            ", averaged over 2 symmetries",
            ", averaged over 8 symmetries",
        ]
        with pytest.warns(UserWarning, match="calibration on 1 image"):
            calibration = Calibration.fit(restored[1:2], [truth], num_samples=20, border=0)
        assert [calibration.suits(text) for text in made] == [False, True, False]


class TestVAE:
    def test_square(self):
        prior = convolutional_vae((1, 32, 32), num_latents=2, channels=(4,))
        y = torch.rand(2, 1, 32, 32)
        posterior = pv.restore(y, PHYSICS, prior, symmetries="dihedral", rate_scale="auto", **QUICK)
        assert posterior.mmse_x(8).shape == y.shape
        assert len(posterior.fits) == 8

    def test_oblong(self):
        prior = convolutional_vae((1, 32, 16), num_latents=2, channels=(4,))
        y = torch.rand(1, 1, 32, 16)
        assert pv.restore(y, PHYSICS, prior, symmetries="flip", **QUICK).mmse_x(4).shape == y.shape
        with pytest.raises(ValueError, match=r'symmetries must be None or "flip" .* received "dihedral" for 32x16'):
            pv.restore(y, PHYSICS, prior, symmetries="dihedral", progress=lambda _: pytest.fail("a fit has begun"))


class TestRefusals:
    @pytest.mark.parametrize(("value", "error"), [("rotate", ValueError), (8, TypeError), (True, TypeError)])
    def test_of_other_values(self, cae, y, value, error):
        with pytest.raises(error, match=r"symmetries must be one of 'flip', 'dihedral'.*; received"):
            pv.restore(y, PHYSICS, cae, symmetries=value, **QUICK)

    def test_simulation_based_calibration(self, cae):
        with pytest.raises(ValueError, match="received symmetries, which would fit another"):
            simulation_based_calibration(cae, PHYSICS, VBLE, image_shape=(3, 64, 64), symmetries="flip")

    def test_comparison(self, cae, y):
        with pytest.raises(ValueError, match="leave symmetries out"):
            pv.compare_guides(y, PHYSICS, cae, [VBLE], symmetries="flip")

    def test_chains(self, dihedral):
        with pytest.raises(ValueError, match=r"averaged over 8 symmetries; pass one of its fits, posterior\.fits\[k\]"):
            pv.reference_posterior(dihedral)


class TestCommandLine:
    @pytest.fixture
    def image(self, tmp_path):
        write_image(tmp_path / "x.png", torch.rand(1, *OBLONG))
        return tmp_path / "x.png"

    def run(self, image, *options):
        quick = ["--output", image.parent / "out", "--problem", "denoise", "--noise", 0.1, "--steps", 2]
        arguments = ["restore", image, *quick, "--samples", 8, *options]
        return CliRunner().invoke(app, [str(one) for one in arguments], catch_exceptions=False)

    @pytest.mark.parametrize(("name", "count"), [("flip", 2), ("dihedral", 8)])
    def test_restore(self, image, name, count):
        result = self.run(image, "--symmetries", name)
        assert result.exit_code == 0, result.output
        assert json.loads((image.parent / "out" / "metrics.json").read_text())["symmetries"] == name
        posterior = pv.load_posterior(image.parent / "out" / "fit.pvble")
        assert posterior.turns == SYMMETRIES[name]
        assert Fit(symmetries=name).num_fits == count

    def test_a_wrong_name(self, image):
        result = self.run(image, "--symmetries", "rotate")
        assert result.exit_code == 2
        assert "'rotate' is not one of 'flip', 'dihedral'" in result.output

    def test_the_forecast_knows_how_many_fits_there_are(self, cae, monkeypatch):
        monkeypatch.setattr("pyro_vble._forecast._SIDES", (64, 128))

        class Trial:
            def __init__(self, *_):
                self.kept, self.step, self.sample = 10**6, 1.0, 0.0

        monkeypatch.setattr("pyro_vble._forecast._Trial", Trial)
        how = {"steps": 10, "samples": 16, "device": torch.device("cpu")}
        one, eight = (forecast((3, 512, 512), cae, VBLE, fits=fits, **how) for fits in (1, 8))
        assert eight.seconds == 8 * one.seconds
        assert one.needed < eight.needed < 2 * one.needed
