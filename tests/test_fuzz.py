"""Malformed calls of the public functions and damaged files: accepted with sense, or refused by name.

The seed is 16, or that of the environment variable PYRO_VBLE_FUZZ_SEED; the calls of a seed are always the same.
"""

import importlib.util
import itertools
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from deepinv.physics import Denoising, GaussianNoise
from fuzzing import Call, judged, malformed, silent
from helpers import LinearEncoder, small_network
from pyro import distributions as dist

import pyro_vble as pv
from pyro_vble import diagnostics
from pyro_vble.guides import VBLE, MAPz, VBLExz
from pyro_vble.io import images
from pyro_vble.io.image_writing import write_image
from pyro_vble.io.prior_files import save_prior
from pyro_vble.models import (
    CAE,
    VAE,
    DecoderStd,
    LearnedStandardDeviation,
    RestorationModel,
    convolutional_vae,
    grown,
)
from pyro_vble.physics import GaussianBlur, problems
from pyro_vble.samples import Mixture
from pyro_vble.training import load_recipe

SEED = int(os.environ.get("PYRO_VBLE_FUZZ_SEED", "16"))
SHAPE = (1, 3, 32, 32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "file").write_text("a file")
    return folder


@pytest.fixture(scope="module")
def good(folder) -> dict:
    """What calls need, and valid files of every kind."""
    torch.manual_seed(0)
    prior, physics, y = CAE(small_network(), 0.025), Denoising(GaussianNoise(0.1)), torch.rand(SHAPE)
    posterior = pv.restore(y, physics, prior, num_steps=1, seed=0, progress=False)
    samples = torch.randn(20, *SHAPE)
    calibration = diagnostics.Calibration.fit([posterior], [torch.rand(SHAPE)], num_samples=4)
    save_prior(prior, folder / "cae.safetensors")
    save_prior(convolutional_vae((1, 16, 16), 4, (4,)), folder / "vae.safetensors")
    torch.save(small_network().state_dict(), folder / "cae.pth")
    posterior.save(folder / "fit.pvble")
    calibration.save(folder / "calibration.json")
    (folder / "recipe.yaml").write_bytes((Path(pv.__file__).parent / "recipes" / "vae-mnist.yaml").read_bytes())
    for name in ("image.png", "image.tif", "image.npy"):
        write_image(folder / name, torch.rand(3, 20, 21))
    names = "prior physics y posterior samples calibration"
    return dict(zip(names.split(), (prior, physics, y, posterior, samples, calibration), strict=True))


def measurements() -> list:
    """Measurements that are wrong, or odd."""
    y = torch.rand(SHAPE)
    missing = torch.where(y < 0.5, torch.nan, y)
    return [
        lambda: y[0], lambda: y[0, 0], lambda: y.permute(0, 2, 3, 1), lambda: y[:, :1], lambda: y[:, :2],
        lambda: y[..., :5], lambda: y[..., :0], lambda: y[:0], lambda: y.repeat(2, 1, 1, 1), lambda: y[None],
        lambda: 255 * y, lambda: 65535 * y, lambda: -y, lambda: 1e30 * y, lambda: (255 * y).byte(), lambda: y.half(),
        lambda: y.bfloat16(), lambda: y.double(), lambda: y.to(torch.complex64), lambda: y > 0.5,
        lambda: y.numpy(), lambda: y.numpy().astype(">f4"), lambda: y.numpy()[..., ::-1], lambda: y.numpy().tolist(),
        lambda: y.numpy().astype(object), lambda: missing, lambda: y * torch.nan, lambda: y / 0, lambda: y.to_sparse(),
        lambda: y.mT, lambda: y.clone().requires_grad_(), lambda: torch.zeros(SHAPE),
        lambda: np.ma.masked_array(y.numpy(), y.numpy() < 0.5), lambda: torch.rand(1, 3, 1, 1),
        lambda: torch.nested.nested_tensor([y[0], y[0]]), lambda: torch.rand(1, 17, 32, 32),
    ]  # fmt: skip


class Broken:
    """An operator of a user's own, with a fault."""

    def __init__(self, fault, noise_model=None):
        self.fault = fault
        self.noise_model = noise_model if noise_model is not None else GaussianNoise(0.1)

    def A(self, x):
        return self.fault(x)


def operators() -> list:
    faults = [
        lambda x: x * torch.nan, lambda x: x.detach(), silent, lambda x: x[0], lambda x: 0 * x, lambda x: x.double(),
        lambda x: x.numpy(), lambda x: [x, x], lambda x: x / 0, lambda x: x.round(),
    ]  # fmt: skip
    noises = [lambda s=s: Denoising(GaussianNoise(s)) for s in (0.0, -1.0, float("nan"), float("inf"), 1e-30, 1e30)]
    return [
        *(lambda f=f: Broken(f) for f in faults), *noises, lambda: Broken(lambda x: x, 3), lambda: Denoising(None),
        lambda: Broken(lambda x: x, silent), lambda: problems.deblurring(0.1, torch.ones(99, 99)), lambda: None,
        lambda: GaussianBlur(50.0, noise_model=GaussianNoise(0.1)),
        lambda: problems.super_resolution(0.1, SHAPE[1:], 2),
        lambda: problems.inpainting(0.1, torch.zeros(3, 32, 32)),
    ]  # fmt: skip


def calls(good: dict, folder: Path) -> list[Call]:
    """Calls that are right."""
    prior, physics, y, posterior = good["prior"], good["physics"], good["y"], good["posterior"]
    fresh = (folder / f"out{k}" for k in itertools.count())
    fitting = {
        "num_steps": 1, "lr": 0.1, "schedule": "linear", "num_particles": 1, "kl_weight": 1.0, "elbo": "auto",
        "tolerance": 1e-3, "seed": 0, "precision": "float32", "progress": False,
    }  # fmt: skip
    restoring = fitting | {
        "rate_scale": 1.0, "image_shape": None, "physics_priors": None, "symmetries": None, "num_fits": 1,
        "device": "cpu",
    }  # fmt: skip
    priors = [
        lambda p=p: {"sigma": p}
        for p in (
            dist.Delta(torch.tensor(0.1)), dist.Poisson(1.0), dist.HalfNormal(torch.ones(3)), dist.HalfNormal(0.1),
            dist.Normal(torch.tensor(torch.nan), 1.0, validate_args=False), dist.HalfNormal, 0.1, None,
            dist.Empirical(torch.tensor([0.1, 0.2]), torch.zeros(2)), dist.Normal(-5.0, 0.1), dist.Uniform(0.0, 1e30),
            dist.HalfCauchy(1.0), torch.distributions.HalfNormal(0.1), dist.Bernoulli(0.5),
        )
    ] + [lambda: {"x": dist.HalfNormal(0.1)}, lambda: {"width": dist.HalfNormal(0.1)}]  # fmt: skip
    guides = [lambda: VBLExz, lambda: MAPz, lambda: "vble", lambda: silent]
    own = {0: measurements(), 1: operators(), 3: guides, "physics_priors": priors}
    model = RestorationModel(prior, physics)
    drawing = {"num_samples": 3, "seed": 0}
    arviz = drawing | {
        "region": (slice(0, 4), slice(2, 5)), "include": ["posterior"], "truth": torch.rand(SHAPE),
        "coords": {"row": np.arange(32)},
    }  # fmt: skip
    odd = {
        "region": [
            lambda: (5, slice(0, 4)), lambda: (slice(9, 2), slice(2)), lambda: (slice(0, 9, -1), slice(2)),
            lambda: (slice(10**30), slice(2)), lambda: (slice(None),) * 3, lambda: [slice(2), slice(np.int64(3))],
        ],
        "include": [lambda: "latents", lambda: ["x"], lambda: ["posterior", 3], lambda: {"prior", "latents"}],
        "truth": [lambda: torch.rand(SHAPE)[0], lambda: y.numpy(), lambda: y > 0, lambda: y.to_sparse()],
        "coords": [lambda: {"row": [1, [2]]}, lambda: {"row": np.full(32, None)}, lambda: {"time": [1]}],
    }  # fmt: skip
    linear = torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.Unflatten(1, (1, 8, 8)))
    pair = (good["samples"], y)
    kernels = [lambda s=s: torch.ones(s) for s in ((4, 4), (3,), (1, 1, 3, 3), (0, 3))]
    kernels += [lambda v=v: torch.full((3, 3), v) for v in (0.0, -1.0, torch.nan, torch.inf)]
    restore = Call("restore", pv.restore, (y, physics, prior, VBLE), restoring, own)
    methods = [
        Call(f"Posterior.{name}", getattr(posterior, name), args, drawing | {})
        for name, args in (("mmse_x", ()), ("std", ()), ("quantile", (0.9,)), ("interval", (0.5,)))
    ]
    methods += [
        Call("Posterior.error_quantile", posterior.error_quantile, (0.9,), drawing),
        Call("Posterior.sample", posterior.sample, (2,), {"seed": 0}),
        Call("Posterior.sample_latents", posterior.sample_latents, (2,), {"seed": 0}),
        Call("Posterior.draws", lambda *a, **k: [d.image for d in posterior.draws(*a, **k)], (2,), {"seed": 0}),
        Call("Posterior.predictive", posterior.predictive, (2,), {"seed": 0}),
        Call("Posterior.calibrated", posterior.calibrated, (good["calibration"],)),
        Call("Posterior.to_arviz", posterior.to_arviz, (), arviz, odd),
        Call(
            "Posterior.to_zarr",
            lambda p, **k: posterior.to_zarr(next(fresh) if p is None else p, **k),
            (None,),
            arviz,
            odd,
        ),
        Call("Posterior.save", posterior.save, (folder / "saved.pvble",)),
    ]
    files = [
        Call("load_prior", pv.load_prior, (folder / "cae.pth",), {"alpha": 0.1, "architecture": "MeanScaleHyperprior",
             "distortion": "sum", "rate_scale": 0.5, "sha256": None}),
        Call("save_prior", save_prior, (prior, folder / "saved.safetensors"),
             {"metadata": {"a": 1}, "dtype": "float32"}),
        Call("load_posterior", pv.load_posterior, (folder / "fit.pvble",), {"prior": prior, "physics": physics,
             "device": "cpu", "allow_download": False}, {"physics": operators()}),
        Call("open_zarr", pv.open_zarr, (folder / "none.zarr",)),
        Call("read_image", images.read_image, (folder / "image.png",), {"scale": 1.0, "nodata": 0.0}),
        Call("write_image", write_image, (folder / "w.png", torch.rand(3, 8, 8)), {"dtype": np.uint8, "scale": 1.0}),
        Call("Calibration.load", diagnostics.Calibration.load, (folder / "calibration.json",)),
        Call("load_recipe", load_recipe, (folder / "recipe.yaml",)),
        Call("load_card", pv.load_card, ("cae-bsd",)),
    ]  # fmt: skip
    building = [
        Call("CAE", CAE, (small_network(), 0.1), {"decoder_std": None, "distortion": "mean", "rate_scale": 1.0}),
        Call("VAE", VAE, (LinearEncoder(64, 4), linear, (4,), 0.1)),
        Call("convolutional_vae", convolutional_vae, ((1, 8, 8), 4, (4,), 0.1)),
        Call("grown", grown, (good["prior"], 9, 13)),
        Call("DecoderStd", DecoderStd, (torch.nn.Conv2d(2, 3, 1), "exp", 1e-4)),
        Call("starting_flat", DecoderStd.starting_flat, (torch.nn.Conv2d(2, 3, 1), 0.1, "exp", 1e-4)),
        Call("LearnedStandardDeviation", LearnedStandardDeviation, (0.1,)),
        Call("Prior.sample", prior.sample, (2, (32, 32)), {"latent_image": True}),
        Call("Prior.sample", prior.sample, (2,), {"size": (2, 16, 32)}),
        Call("with_rate_scale", prior.with_rate_scale, (0.5,)),
        Call("RestorationModel", RestorationModel, (prior, physics), {"latent_image": False, "image_shape": None,
             "physics_priors": {"sigma": dist.HalfNormal(0.1)}}, {1: operators(), "physics_priors": priors}),
        Call("Mixture", Mixture, ([posterior, posterior],)),
        Call("GaussianBlur", GaussianBlur, (1.0,), {"radius": 3, "noise_model": GaussianNoise(0.1)}),
        Call("gaussian_noise", problems.gaussian_noise, (0.1,)),
        Call("denoising", problems.denoising, (0.1,)),
        Call("deblurring", problems.deblurring, (0.1, torch.ones(3, 3)), {}, {1: kernels}),
        Call("gaussian_kernel", problems.gaussian_kernel, (1.0,)),
        Call("super_resolution", problems.super_resolution, (0.1, (3, 32, 32), 2)),
        Call("inpainting", problems.inpainting, (0.1, torch.ones(3, 32, 32))),
    ]  # fmt: skip
    judging = [
        Call("pit", diagnostics.pit, pair, drawing),
        Call("coverage_curve", diagnostics.coverage_curve, pair, {"levels": [0.5], "border": 2}),
        Call("crps", diagnostics.crps, pair, drawing),
        Call("error_by_std", diagnostics.error_by_std, pair, {"bins": 4}),
        Call("error_quantile", diagnostics.error_quantile, (*pair, 0.9), {"border": 2}),
        Call("predictive_check", diagnostics.predictive_check, (posterior,), drawing),
        Call("Calibration.fit", diagnostics.Calibration.fit, ([posterior], [y]), {"num_samples": 3}),
        Call("compare_guides", pv.compare_guides, (y, physics, prior, [VBLE]), {"truth": y, "num_samples": 25,
             "block": 8, "max_units": 16, "seed": 0, "progress": False, "num_steps": 1}, own),
        Call("reference_posterior", pv.reference_posterior, (posterior,), {"num_samples": 4, "num_warmup": 0,
             "num_chains": 1, "thinning": 2, "kernel": "hmc", "max_tree_depth": 1, "seed": 0, "progress": False}),
    ]  # fmt: skip
    built = VBLE(model, y)
    fit = Call("fit", pv.fit, (model, built, y), fitting, {2: measurements()})
    return [restore, fit, *methods, restore, *files, *building, restore, *judging]


def attack(good: dict, folder: Path, number: int, chance: random.Random) -> list[str]:
    """What went wrong in so many malformed calls."""
    found, every = [], calls(good, folder)
    for turn in range(number):
        call = every[turn % len(every)]
        args, kwargs = malformed(call, chance, folder)
        problem = judged(call.function, args, kwargs)
        if problem:
            changed = {k: v for k, v in kwargs.items() if v is not call.kwargs.get(k)}
            given = [a for a, right in itertools.zip_longest(args, call.args) if a is not right]
            found.append(f"seed {SEED}, call {turn}, {call.name}({_shown(given)}, {_shown(changed)}): {problem}")
    return found


def _shown(value) -> str:
    try:
        return " ".join(repr(value).split())[:300]
    except Exception:
        return f"{type(value).__name__} with something that has no repr"


READERS = {
    ".png": images.read_image, ".tif": images.read_image, ".npy": images.read_image, ".safetensors": pv.load_prior,
    ".pth": lambda path: pv.load_prior(path, alpha=0.1), ".json": diagnostics.Calibration.load, ".yaml": load_recipe,
}  # fmt: skip


def damage(good: dict, folder: Path, number: int, generator: np.random.Generator) -> list[str]:
    """What went wrong in reading so many damaged files."""
    where = Path(__file__).parent / "io" / "damaged_files.py"
    specification = importlib.util.spec_from_file_location("damaged_files", where)
    damaging = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(damaging)
    names = ["cae.safetensors", "fit.pvble", "calibration.json", "recipe.yaml", "cae.pth", "vae.safetensors",
             "image.png", "image.tif", "image.npy"]  # fmt: skip
    readers = READERS | {".pvble": lambda path: pv.load_posterior(path, prior=good["prior"])}
    found = []
    for turn in range(number):
        name = names[turn % len(names)]
        content = (folder / name).read_bytes()
        path = folder / f"damaged{turn}{Path(name).suffix}"
        path.write_bytes(spliced(content, generator) if turn % 3 == 0 else damaging.damaged(content, generator))
        problem = judged(readers[path.suffix], (path,), {}, path.name)
        if problem:
            found.append(f"seed {SEED}, file {turn}, {name}: {problem}")
        path.unlink()
    return found


def spliced(content: bytes, generator: np.random.Generator) -> bytes:
    """A header of safetensors or text with a value of another kind in it; of other files, one half twice."""
    values = [b"null", b"-1", b"1e400", b"[]", b"{}", b'"x"', b"NaN", b"true", b"99999999999999999999"]
    start = 8 if content[8:9] == b"{" else 0
    end = 8 + int.from_bytes(content[:8], "little") if start else len(content)
    header = content[start:end]
    places = [place for place, byte in enumerate(header[:-1]) if byte == ord(":")]
    if not places or (not start and header[:1] not in b"{#abcdefghijklmnopqrstuvwxyz"):
        return content[: len(content) // 2] * 2
    place = int(generator.choice(places)) + 1
    length = next((k for k, byte in enumerate(header[place:]) if byte in b",}\n"), 0)
    header = header[:place] + b" " + values[int(generator.integers(len(values)))] + header[place + length :]
    return (len(header).to_bytes(8, "little") if start else b"") + header + content[end:]


@pytest.fixture(autouse=True)
def _apart(monkeypatch, folder):
    """No network, and a folder that accepted paths may be written in."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(folder)


def test_right_calls_are_accepted(good, folder):
    print(f"seed {SEED}")
    for call in calls(good, folder):
        if call.name != "open_zarr":
            assert judged(call.function, call.args, call.kwargs) is None, call.name


@pytest.mark.filterwarnings("ignore")
def test_some_malformed_calls(good, folder):
    found = attack(good, folder, 150, random.Random(SEED))
    assert not found, "\n\n".join(found)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")
def test_many_malformed_calls(good, folder):
    found = attack(good, folder, 2000, random.Random(SEED + 1))
    assert not found, "\n\n".join(found)


@pytest.mark.filterwarnings("ignore")
def test_some_damaged_files(good, folder):
    found = damage(good, folder, 60, np.random.default_rng(SEED))
    assert not found, "\n\n".join(found)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_many_damaged_files(good, folder):
    found = damage(good, folder, 500, np.random.default_rng(SEED + 1))
    assert not found, "\n\n".join(found)
