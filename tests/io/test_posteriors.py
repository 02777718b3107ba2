import json
import math
import sys
from functools import partial

import pyro.distributions as dist
import pytest
import torch
from deepinv.physics import Denoising, GaussianNoise
from helpers import small_network
from pyro.infer.autoguide import AutoLowRankMultivariateNormal
from safetensors import safe_open
from safetensors.torch import save_file
from torch.distributions.transforms import ExpTransform

import pyro_vble as pv
from pyro_vble.guides import VBLE, MAPz, VBLExz
from pyro_vble.guides.reference import maker_of
from pyro_vble.io.posterior_files import posterior_checksum, read_posterior_file
from pyro_vble.models import CAE

PHYSICS = Denoising(GaussianNoise(0.1))


@pytest.mark.parametrize("guide", [VBLE, VBLExz, partial(VBLE, family="correlated"), MAPz])
def test_round_trip_of_a_bundled_prior(tmp_path, guide):
    posterior = pv.restore(
        torch.rand(2, 3, 70, 64), PHYSICS, "cae-bsd", guide=guide, rate_scale=0.5, num_steps=3, seed=0, progress=False
    )
    posterior.save(tmp_path / "deep" / "fit.pvble")
    again = pv.load_posterior(tmp_path / "deep" / "fit.pvble", physics=PHYSICS)
    assert torch.equal(again.mmse_x(4), posterior.mmse_x(4))
    assert torch.equal(again.mmse_z, posterior.mmse_z)
    assert torch.equal(again.elbo, posterior.elbo)
    assert torch.equal(again.predictive(2), posterior.predictive(2))
    assert again.model.prior.rate_scale == 0.5
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["fit.pvble"]


def test_round_trip_of_a_vae_with_one_standard_deviation(tmp_path):
    from pyro_vble.io.prior_files import save_prior
    from pyro_vble.models import convolutional_vae

    save_prior(
        convolutional_vae((1, 28, 28), num_latents=4, channels=(8,), decoder_std=0.2), tmp_path / "p.safetensors"
    )
    prior = pv.load_prior(tmp_path / "p.safetensors")
    posterior = pv.restore(torch.rand(1, 1, 28, 28), PHYSICS, prior, num_steps=2, seed=0, progress=False)
    posterior.save(tmp_path / "fit.pvble")
    assert torch.equal(pv.load_posterior(tmp_path / "fit.pvble").mmse_x(3), posterior.mmse_x(3))


def test_a_prior_of_ones_own_is_asked_for_and_checked(cae, tmp_path):
    path = tmp_path / "fit.pvble"
    posterior = pv.restore(torch.rand(1, 3, 64, 64), PHYSICS, cae, num_steps=2, seed=0, progress=False)
    posterior.save(path)
    assert torch.equal(pv.load_posterior(path, prior=cae).mmse_x(3), posterior.mmse_x(3))
    with pytest.raises(ValueError, match="pass prior="):
        pv.load_posterior(path)
    other = small_network()
    with torch.no_grad():
        next(other.g_s.parameters()).add_(0.1)
    with pytest.raises(ValueError, match="must be the one that the posterior was fitted with"):
        pv.load_posterior(path, prior=CAE(other, 0.025))


def test_settings_of_the_prior_are_part_of_it(tmp_path):
    path = tmp_path / "fit.pvble"
    prior = pv.load_prior("cae-bsd", alpha=0.1)
    posterior = pv.restore(torch.rand(1, 3, 64, 64), PHYSICS, prior, guide=VBLExz, num_steps=2, seed=0, progress=False)
    posterior.save(path)
    assert torch.equal(pv.load_posterior(path).std(4), posterior.std(4))
    with pytest.raises(ValueError, match=r"'alpha': 0.1.*received .*'alpha': 0.025"):
        pv.load_posterior(path, prior=pv.load_prior("cae-bsd"))


def test_the_operator_is_brought_to_the_posteriors_precision(tmp_path):
    from pyro_vble.physics.problems import deblurring, gaussian_kernel

    physics = deblurring(0.1, gaussian_kernel(1.0))
    posterior = pv.restore(
        torch.rand(1, 3, 64, 64), physics, "cae-bsd", num_steps=2, seed=0, progress=False, precision="float64"
    )
    posterior.save(tmp_path / "fit.pvble")
    again = pv.load_posterior(tmp_path / "fit.pvble", physics=physics, device="auto")
    assert again.predictive(2).dtype == torch.float64
    assert physics.filter.dtype == torch.float32


def test_without_operator_predictions_say_what_is_missing(cae, tmp_path):
    posterior = pv.restore(torch.rand(1, 3, 64, 64), PHYSICS, cae, num_steps=2, seed=0, progress=False)
    posterior.save(tmp_path / "fit.pvble")
    with pytest.raises(ValueError, match=r"pass\s+physics="):
        pv.load_posterior(tmp_path / "fit.pvble", prior=cae).predictive(1)


def test_damaged_and_foreign_files(cae, tmp_path):
    path = tmp_path / "fit.pvble"
    pv.restore(torch.rand(1, 3, 64, 64), PHYSICS, cae, num_steps=2, seed=0, progress=False).save(path)
    truncated = tmp_path / "truncated.pvble"
    truncated.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="may be truncated"):
        pv.load_posterior(truncated)
    from safetensors.torch import save_file

    save_file({"a": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"Posterior\.save"):
        pv.load_posterior(tmp_path / "other.safetensors")
    with pytest.raises(FileNotFoundError, match=r"none\.pvble"):
        pv.load_posterior(tmp_path / "none.pvble")


class Mine(VBLE):
    """A guide of the user's own."""

    def __init__(self, model, y, *, scale=1.0):
        super().__init__(model, y)
        self.register_buffer("scale", torch.full((len(y),), scale))


def test_a_guide_of_ones_own_is_named_by_module_and_class(cae, tmp_path):
    y, path = torch.rand(1, 3, 64, 64), tmp_path / "fit.pvble"
    posterior = pv.restore(y, PHYSICS, cae, guide=partial(Mine, scale=2.0), num_steps=2, progress=False)
    posterior.save(path)
    again = pv.load_posterior(path, prior=cae)
    assert type(again.guide) is Mine
    assert torch.equal(again.mmse_z, posterior.mmse_z)
    assert read_posterior_file(path)[0].guide.model_dump() == {
        "module": Mine.__module__,
        "name": "Mine",
        "options": {"scale": 2.0},
    }


def test_a_file_imports_no_module_and_calls_nothing_but_guide_classes(cae, tmp_path, monkeypatch):
    path = tmp_path / "fit.pvble"
    pv.restore(torch.rand(1, 3, 64, 64), PHYSICS, cae, guide=Mine, num_steps=2, progress=False).save(path)
    monkeypatch.delitem(sys.modules, Mine.__module__)
    with pytest.raises(ValueError, match=r"'Mine' of the module .* not imported; import it, or pass guide=\.\.\."):
        pv.load_posterior(path, prior=cae)
    assert torch.is_tensor(pv.load_posterior(path, prior=cae, guide=Mine).mmse_z)
    for module, name in (("os", "system"), ("torch.nn", "Linear"), ("pyro_vble.guides", "Factor")):
        with pytest.raises((LookupError, TypeError)):
            maker_of(module, name, {})(None, None)


def test_what_does_not_come_back_is_refused_before_it_is_lost(cae, tmp_path):
    y = torch.rand(1, 3, 64, 64)
    guide = lambda model, y: AutoLowRankMultivariateNormal(model, rank=3)  # noqa: E731
    posterior = pv.restore(y, PHYSICS, cae, guide=guide, num_steps=2, progress=False)
    with pytest.raises(TypeError, match=r"made again by its class and options .* save guide\.state_dict\(\) yourself"):
        posterior.save(tmp_path / "fit.pvble")
    assert list(tmp_path.iterdir()) == []
    named = pv.restore(
        y, PHYSICS, cae, guide=partial(AutoLowRankMultivariateNormal, rank=3), num_steps=2, progress=False
    )
    named.save(tmp_path / "fit.pvble")
    assert torch.equal(pv.load_posterior(tmp_path / "fit.pvble", prior=cae).sample(2, seed=1), named.sample(2, seed=1))


def test_a_guide_without_parameters_says_what_else_to_do(cae, tmp_path):
    posterior = pv.restore(torch.rand(1, 3, 64, 64), PHYSICS, cae, num_steps=2, progress=False)
    posterior.guide = posterior.maker = lambda y: None
    with pytest.raises(TypeError, match=r"received <lambda>.* save guide\.state_dict\(\) yourself, or .* cloudpickle"):
        posterior.save(tmp_path / "fit.pvble")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A small posterior's file, its prior, its header and its tensors."""
    prior = CAE(small_network(), alpha=0.025)
    physics_priors = {"sigma": dist.HalfNormal(0.2)}
    posterior = pv.restore(
        torch.rand(1, 3, 40, 64),
        PHYSICS,
        prior,
        guide=VBLExz,
        num_fits=2,
        num_steps=2,
        seed=0,
        progress=False,
        physics_priors=physics_priors,
    )
    path = tmp_path_factory.mktemp("saved") / "fit.pvble"
    posterior.save(path)
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["pyro_vble"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    return path, prior, header, tensors


def write(path, header, tensors):
    save_file(tensors, path, metadata={"pyro_vble": json.dumps(header)})


def named(name, options=None, module="pyro_vble.guides"):
    return {"module": module, "name": name, "options": {} if options is None else options}


def without_checksum(header):
    """As files were before there was one, or as somebody would write them who wants to be believed."""
    return {key: value for key, value in header.items() if key not in ("checksum", "interrupted")}


class TestFilesOfOthers:
    @pytest.mark.parametrize("guide", [VBLE, VBLExz, partial(VBLE, family="gaussian"), MAPz])
    def test_files_of_the_format_before_are_read(self, cae, tmp_path, guide):
        """There a guide was a class of this library, its widths those of its family."""
        posterior = pv.restore(torch.rand(1, 3, 64, 64), PHYSICS, cae, guide=guide, num_steps=2, seed=0, progress=False)
        posterior.save(tmp_path / "new.pvble")
        with safe_open(tmp_path / "new.pvble", "pt") as file:
            header = json.loads(file.metadata()["pyro_vble"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        for name in [name for name in tensors if name.endswith("free_std_unconstrained")]:
            value = tensors.pop(name)
            uniform = header["guide"]["options"]["family"] == "uniform" and "x_decentered" not in name
            tensors[name.replace("free_std", "free_width")] = value + (0.5 * math.log(12) if uniform else 0.0)
        told = {
            "format": "pyro-vble posterior 2",
            "guide": header["guide"]["name"],
            "options": header["guide"]["options"],
        }
        header = {k: v for k, v in header.items() if k not in ("checksum", "latent_image")} | told
        header["checksum"] = posterior_checksum(header, tensors)
        write(tmp_path / "old.pvble", header, tensors)
        again = pv.load_posterior(tmp_path / "old.pvble", prior=cae)
        torch.testing.assert_close(again.sample(3, seed=1), posterior.sample(3, seed=1), rtol=1e-5, atol=1e-5)

    def test_files_without_a_checksum_are_read(self, saved, tmp_path):
        path, prior, header, tensors = saved
        write(tmp_path / "old.pvble", without_checksum(header), tensors)
        again = pv.load_posterior(tmp_path / "old.pvble", prior=prior)
        assert torch.equal(again.mmse_x(4), pv.load_posterior(path, prior=prior).mmse_x(4))

    @pytest.mark.parametrize(
        "change",
        [
            {"image_shape": [3, 33, 64]},
            {"precision": "float64"},
            {"seed": 1},
            {"prior_settings": {}},
            {"guide": {"module": "pyro_vble.guides", "name": "VBLE", "options": {}}},
        ],
    )
    def test_a_changed_header_is_noticed(self, saved, tmp_path, change):
        _, prior, header, tensors = saved
        write(tmp_path / "changed.pvble", header | change, tensors)
        with pytest.raises(ValueError, match=r"changed.pvble .*checksum is another"):
            pv.load_posterior(tmp_path / "changed.pvble", prior=prior)

    @pytest.mark.parametrize("place", ["first", "last"])
    def test_one_changed_bit_is_noticed(self, saved, tmp_path, place):
        path, prior, *_ = saved
        content = bytearray(path.read_bytes())
        start = 8 + int.from_bytes(content[:8], "little")
        content[start if place == "first" else -1] ^= 1
        (tmp_path / "bit.pvble").write_bytes(content)
        with pytest.raises(ValueError, match=r"bit.pvble .*checksum is another"):
            pv.load_posterior(tmp_path / "bit.pvble", prior=prior)

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            *[
                ("guide", named(v))
                for v in ("MeanFieldGuide", "factor", "Factor", "GaussianEncoder", 3, None, [], "__name__")
            ],
            *[("guide", named("system", module=v)) for v in ("os", "subprocess", "torch", "", None)],
            *[
                ("guide", named("VBLE", o))
                for o in ({"y": 1}, {"unknown": True}, {"family": "cauchy"}, {"family": 3}, [], None)
            ],
            *[("guide", v) for v in ("VBLE", 3, None, [], {})],
            *[
                ("image_shape", v)
                for v in ([3, 16, 16], [3, 40], "abc", [3, -1, 4], [3, 1e3, 4], None, [30_000, 33, 31])
            ],
            *[("precision", v) for v in (5, {}, "auto", "int8", None)],
            *[("seed", v) for v in ("a", 1.5, 2**64, [])],
            *[("seeds", v) for v in ([], [0], [0, 1, 2], "ab", None, [0, "1"])],
            *[("num_fits", v) for v in (0, 3, "2", True, None)],
            *[("prior", v) for v in (3, [], {})],
            *[("prior_settings", v) for v in (None, [], "alpha", {"alpha": "a"})],
            *[("prior_fingerprint", v) for v in (3, None, "0" * 16)],
            *[("calibration", v) for v in (3, {}, {"format": "other"}, [])],
            *[
                ("physics_priors", v)
                for v in (
                    None,
                    [],
                    {"sigma": {"class": "enable_validation", "parameters": {"is_validate": False}}},
                    {"sigma": {"class": "HalfNormal", "parameters": {"scale": -1.0}}},
                    {"sigma": {"class": "HalfNormal", "parameters": {"scale": "a"}}},
                    {"sigma": {"class": "HalfNormal", "parameters": {"width": 1.0}}},
                    {"sigma": {"class": "HalfNormal", "parameters": {}}},
                    {"sigma": {"class": "TorchDistribution", "parameters": {}}},
                    {"sigma": {"class": "__class__", "parameters": {}}},
                    {"sigma": {"class": ["a"], "parameters": {}}},
                    {"sigma": {}},
                    {"other": {"class": "HalfNormal", "parameters": {"scale": 1.0}}},
                    {},
                )
            ],
            ("unknown_key", 1),
            ("format", "pyro-vble posterior 1"),
            ("format", None),
        ],
    )
    def test_headers(self, saved, tmp_path, key, value):
        _, prior, header, tensors = saved
        write(tmp_path / "h.pvble", without_checksum(header) | {key: value}, tensors)
        validation = torch.distributions.Distribution._validate_args
        with pytest.raises(ValueError, match=r"h\.pvble|prior=") as caught:
            pv.load_posterior(tmp_path / "h.pvble", prior=prior)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 1500
        assert torch.distributions.Distribution._validate_args == validation

    @pytest.mark.parametrize("key", ["guide", "seeds", "precision", "prior", "image_shape", "version"])
    def test_a_missing_key(self, saved, tmp_path, key):
        _, prior, header, tensors = saved
        header = {name: value for name, value in without_checksum(header).items() if name != key}
        write(tmp_path / "h.pvble", header, tensors)
        with pytest.raises(ValueError, match=rf"h\.pvble .*{key}: Field required"):
            pv.load_posterior(tmp_path / "h.pvble", prior=prior)

    @pytest.mark.parametrize("text", ["", "[]", "3", "null", "{", "[" * 100_000, '{"a": NaN}'])
    def test_headers_that_are_no_descriptions(self, saved, tmp_path, text):
        save_file(saved[3], tmp_path / "h.pvble", metadata={"pyro_vble": text})
        with pytest.raises(ValueError, match=r"h\.pvble"):
            pv.load_posterior(tmp_path / "h.pvble", prior=saved[1])

    def test_tensors(self, saved, tmp_path):
        _, prior, header, tensors = saved
        name = "guide1.factors.z.loc"
        name = name if name in tensors else next(n for n in tensors if n.startswith("guide1.factors.z"))
        nan = tensors[name].clone()
        nan.flatten()[3] = torch.nan
        changes = [
            {name: nan},
            {name: tensors[name].double()},
            {name: tensors[name].to(torch.int8)},
            {name: tensors[name][..., :-1].contiguous()},
            {name: None},
            {"more": torch.ones(1)},
            {"guide1.more": torch.ones(1)},
            {"y": None},
            {"y": torch.ones(2, 3, 40, 64)},
            {"y": torch.ones(1, 3, 40, 64, dtype=torch.int32)},
            {"y": torch.full((1, 3, 40, 64), torch.nan)},
            {"y": torch.ones(())},
            {"elbo1": None},
            {"elbo0": torch.ones(2, 2)},
            {"elbo0": torch.tensor([1.0, torch.nan])},
        ]
        for change in changes:
            changed = {key: value for key, value in (tensors | change).items() if value is not None}
            write(tmp_path / "t.pvble", without_checksum(header), changed)
            with pytest.raises(ValueError, match=r"t\.pvble is no posterior that can be loaded"):
                pv.load_posterior(tmp_path / "t.pvble", prior=prior)

    def test_an_operator_that_does_not_measure_so(self, saved, tmp_path):
        _, prior, header, tensors = saved
        write(tmp_path / "cut.pvble", without_checksum(header), tensors | {"y": torch.ones(1, 3, 33, 1)})
        with pytest.raises(ValueError, match=r"physics must measure images .*; its A gives \(1, 3, 40, 64\)"):
            pv.load_posterior(tmp_path / "cut.pvble", prior=prior, physics=PHYSICS)


class TestPriorsByName:
    def test_a_local_file_is_found_from_every_folder_and_asked_for_where_it_is_gone(self, tmp_path, monkeypatch):
        from pyro_vble.io.prior_files import save_prior

        monkeypatch.chdir(tmp_path)
        save_prior(CAE(small_network(), 0.025), "own.safetensors")
        posterior = pv.restore(
            torch.rand(1, 3, 64, 64), PHYSICS, pv.load_prior("own.safetensors"), num_steps=2, seed=0, progress=False
        )
        posterior.save("fit.pvble")
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert torch.equal(pv.load_posterior("../fit.pvble").mmse_x(3), posterior.mmse_x(3))
        (tmp_path / "own.safetensors").rename(tmp_path / "moved.safetensors")
        with pytest.raises(ValueError, match=r"own\.safetensors.*pass that prior as prior=\.\.\."):
            pv.load_posterior("../fit.pvble")
        prior = pv.load_prior("../moved.safetensors")
        assert torch.equal(pv.load_posterior("../fit.pvble", prior=prior).mmse_x(3), posterior.mmse_x(3))

    @pytest.mark.parametrize("name", ["someone/priors/own.safetensors", "mbt2018-mean/8"])
    def test_the_network_is_asked_only_where_the_user_says_so(self, saved, tmp_path, name, monkeypatch):
        _, _, header, tensors = saved
        write(tmp_path / "fit.pvble", without_checksum(header) | {"prior": name}, tensors)
        asked = []

        def refuse(*args, **kwargs):
            asked.append(args)
            raise ConnectionError("no network here")

        monkeypatch.setattr("pyro_vble.io.priors.download", refuse)
        monkeypatch.setattr("pyro_vble.models.networks.zoo_network", refuse)
        monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
        with pytest.raises(ValueError, match=r"not on this machine; pass allow_download=True .*prior=\.\.\."):
            pv.load_posterior(tmp_path / "fit.pvble")
        assert not asked
        with pytest.raises(ConnectionError, match="no network here"):
            pv.load_posterior(tmp_path / "fit.pvble", allow_download=True)
        assert asked

    def test_rate_scales_of_each_image(self, cae, tmp_path):
        prior = cae.with_rate_scale((1.0, 0.5))
        posterior = pv.restore(torch.rand(2, 3, 64, 64), PHYSICS, prior, num_steps=2, seed=0, progress=False)
        posterior.save(tmp_path / "fit.pvble")
        again = pv.load_posterior(tmp_path / "fit.pvble", prior=prior)
        assert torch.equal(again.mmse_x(3), posterior.mmse_x(3))


class TestPriorsOfParameters:
    @pytest.mark.parametrize(
        "prior",
        [dist.HalfNormal(0.2), dist.Uniform(0.01, 0.3), dist.LogNormal(-2.0, 0.5), dist.Gamma(2.0, 20.0)],
    )
    def test_what_can_be_made_again_is_saved(self, cae, tmp_path, prior):
        told = {"physics_priors": {"sigma": prior}, "num_steps": 2, "seed": 0, "progress": False}
        posterior = pv.restore(torch.rand(1, 3, 64, 64), PHYSICS, cae, **told)
        posterior.save(tmp_path / "fit.pvble")
        again = pv.load_posterior(tmp_path / "fit.pvble", prior=cae)
        value = torch.tensor(0.1)
        torch.testing.assert_close(again.model.physics_priors["sigma"].log_prob(value), prior.log_prob(value))
        assert torch.equal(again.sample_latents(2)["sigma"], posterior.sample_latents(2)["sigma"])

    def test_what_cannot_is_refused_before_it_is_lost(self, cae, tmp_path):
        transformed = dist.TransformedDistribution(dist.Normal(-2.0, 0.5), [ExpTransform()])

        class Mine(dist.HalfNormal):
            pass

        for prior in (transformed, Mine(0.2)):
            told = {"physics_priors": {"sigma": prior}, "num_steps": 2, "seed": 0, "progress": False}
            posterior = pv.restore(torch.rand(1, 3, 64, 64), PHYSICS, cae, **told)
            with pytest.raises(TypeError, match=rf"prior of 'sigma' must be .*; received {type(prior).__name__}"):
                posterior.save(tmp_path / "fit.pvble")
        assert list(tmp_path.iterdir()) == []


def test_parameters_that_are_not_finite_are_not_saved(cae, tmp_path):
    posterior = pv.restore(torch.rand(1, 3, 64, 64), PHYSICS, cae, num_steps=2, seed=0, progress=False)
    with torch.no_grad():
        next(posterior.guide.parameters()).flatten()[0] = torch.nan
    with pytest.raises(ValueError, match="must be finite"):
        posterior.save(tmp_path / "fit.pvble")


def test_an_interrupted_fit_stays_one(cae, tmp_path):
    posterior = pv.restore(torch.rand(1, 3, 64, 64), PHYSICS, cae, num_steps=2, seed=0, progress=False)
    posterior.interrupted = True
    posterior.save(tmp_path / "fit.pvble")
    assert pv.load_posterior(tmp_path / "fit.pvble", prior=cae).interrupted


@pytest.mark.parametrize("argument", [{"prior": "cae-bsd"}, {"prior": 3}, {"allow_download": 1}])
def test_arguments_of_a_wrong_type(saved, argument):
    with pytest.raises(TypeError, match=f"{next(iter(argument))} must be"):
        pv.load_posterior(saved[0], **argument)
