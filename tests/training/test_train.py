import csv
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pyro
import pytest
import torch
import yaml
from PIL import Image

import pyro_vble as pv
from pyro_vble.models import CAE, DecoderStd
from pyro_vble.training import (
    ImageSet,
    NegativeELBO,
    RandomCrops,
    TrainingDivergedError,
    evaluate,
    parse_recipe,
    read_images,
    train,
)
from pyro_vble.training.construction import build_prior, initial_state
from pyro_vble.training.loop import _MOST_SKIPPED
from pyro_vble.training.recipes import Data
from pyro_vble.training.steps import CapturedSteps, training_step

CAE_RECIPE = {
    "kind": "cae",
    "network": {"architecture": "MeanScaleHyperprior", "N": 8, "M": 12},
    "alpha": 0.025,
    "data": {"crop": 64, "batch_size": 2},
    "schedule": {"steps": 12, "lr": 1e-3, "checkpoint_every": 4},
    "precision": "float32",
}
CONTEXT = {"architecture": "JointAutoregressiveHierarchicalPriors", "N": 8, "M": 12}
STD_RECIPE = {
    "kind": "decoder_std",
    "data": {"crop": 64, "batch_size": 2},
    "schedule": {"steps": 6, "lr": 1e-3},
    "precision": "float32",
}


def recipe(content=CAE_RECIPE, **schedule):
    return parse_recipe(content | {"schedule": content["schedule"] | schedule})


def test_no_weight_moves_to_other_memory():
    """As CompressAI's masked convolutions move theirs: a captured step goes on writing where it was captured."""
    content = parse_recipe(CAE_RECIPE | {"network": CONTEXT})
    state = initial_state(content, build_prior(content), torch.device("cpu"))
    objective, places = NegativeELBO(state.prior), []
    for _ in range(3):
        training_step(state, objective, torch.rand(1, 3, 64, 64), 1e-3)
        places.append({name: p.data_ptr() for name, p in state.prior.named_parameters()})
    assert places[0] == places[1] == places[2]


@pytest.fixture
def photographs(tmp_path):
    """A folder of smooth images."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(5):
        coarse = Image.fromarray(rng.integers(0, 255, (8, 10, 3), dtype=np.uint8))
        coarse.resize((100, 80), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return folder


def weights(path):
    return pv.load_prior(path).state_dict()


def assert_same_weights(a, b):
    a, b = weights(a), weights(b)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


class TestCAE:
    def test_what_a_training_leaves(self, photographs, tmp_path):
        seen = []
        result = train(recipe(), photographs, tmp_path / "out", progress=seen.append)
        assert result.complete
        assert result.steps == 12
        assert result.skipped_steps == 0
        assert {p.name for p in (tmp_path / "out").iterdir()} == {
            "prior.safetensors",
            "training.ckpt",
            "card.json",
            "recipe.yaml",
            "log.csv",
        }
        prior = pv.load_prior(result.path)
        assert isinstance(prior, CAE)
        assert result.prior.name == str(result.path)
        assert prior.alpha == 0.025
        assert [figures["step"] for figures in seen] == list(range(1, 13))
        assert all(np.isfinite(figures["loss"]) for figures in seen)
        card = json.loads((tmp_path / "out" / "card.json").read_text())
        assert card["validation"]["psnr"] == pytest.approx(result.evaluation.psnr)
        assert card["steps"] == 12
        with (tmp_path / "out" / "log.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [row["step"] for row in rows if row["validation_psnr"]] == ["0", "4", "8", "12"]

    def test_training_lowers_the_loss(self, photographs, tmp_path):
        losses = []
        train(recipe(steps=60), photographs, tmp_path / "out", progress=lambda f: losses.append(f["loss"]))
        # Smoothed; the first is the network as it was made.
        assert losses[-1] < 0.8 * losses[0]

    @pytest.mark.parametrize("steps", [10, pytest.param(150, marks=pytest.mark.slow)])
    def test_a_trained_prior_is_a_codec(self, photographs, tmp_path, steps):
        """Compressed to bytes and back, the image is the one that rounded latents decode to, at the rate promised."""
        result = train(recipe(steps=steps), photographs, tmp_path / "out", progress=False)
        network = pv.load_prior(result.path).network
        assert network.update()
        x = pv.io.images.read_image(photographs / "0.png").values[..., :64, :64]
        with torch.no_grad():
            compressed = network.compress(x)
            decoded = network.decompress(compressed["strings"], compressed["shape"])["x_hat"]
            out = network(x)
        torch.testing.assert_close(decoded, out["x_hat"].clamp(0, 1), rtol=1e-3, atol=1e-3)
        bits = 8 * sum(len(string[0]) for string in compressed["strings"])
        promised = float(sum(-likelihood.log2().sum() for likelihood in out["likelihoods"].values()))
        # An arithmetic coder ends each string within a few bytes of its entropy.
        assert bits == pytest.approx(promised, abs=16 * 8 + 0.05 * promised)

    @pytest.mark.slow
    def test_starting_from_another_prior(self, photographs, tmp_path):
        first = train(recipe(), photographs, tmp_path / "first", progress=False)
        for init in (first.path, tmp_path / "first", tmp_path / "first" / "training.ckpt", first.prior):
            again = train(recipe(steps=1, lr=1e-12), photographs, tmp_path / "again", init=init, progress=False)
            for key, value in weights(first.path).items():
                if "quantiles" not in key:
                    torch.testing.assert_close(weights(again.path)[key], value, rtol=1e-6, atol=1e-8)
            for file in (tmp_path / "again").iterdir():
                file.unlink()

    def test_a_training_is_not_overwritten(self, photographs, tmp_path):
        train(recipe(steps=1), photographs, tmp_path / "out", progress=False)
        with pytest.raises(ValueError, match="holds a training already; pass --resume"):
            train(recipe(steps=1), photographs, tmp_path / "out", progress=False)
        changed = parse_recipe(CAE_RECIPE | {"alpha": 0.01})
        with pytest.raises(ValueError, match=r"it has changed .*0.025 -> 0.01"):
            train(changed, photographs, tmp_path / "out", resume=True, progress=False)
        assert yaml.safe_load((tmp_path / "out" / "recipe.yaml").read_text())["alpha"] == 0.025
        (photographs / "4.png").unlink()
        with pytest.raises(ValueError, match=r"the same --validation.*they have changed"):
            train(recipe(steps=1), photographs, tmp_path / "out", resume=True, progress=False)

    @pytest.mark.parametrize("resume", [False, True])
    @pytest.mark.parametrize("settings", [{"steps": 1}, {"minutes": 1e-4}])
    def test_nor_is_a_prior_whose_checkpoint_is_gone(self, photographs, tmp_path, resume, settings):
        train(recipe(steps=1), photographs, tmp_path / "out", progress=False)
        (tmp_path / "out" / "training.ckpt").unlink()
        before = (tmp_path / "out" / "prior.safetensors").read_bytes()
        with pytest.raises(ValueError, match=r"training\.ckpt is missing; pass another --output, with --init"):
            train(recipe(), photographs, tmp_path / "out", resume=resume, progress=False, **settings)
        assert (tmp_path / "out" / "prior.safetensors").read_bytes() == before

    def test_one_that_took_no_step_is(self, photographs, tmp_path, monkeypatch):
        """A run that was killed before its first checkpoint leaves it, and can be started again."""

        def killed(*_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("pyro_vble.training.checkpoint.TrainingState.save", killed)
            with pytest.raises(KeyboardInterrupt):
                train(recipe(), photographs, tmp_path / "out", steps=1, progress=False)
        assert (tmp_path / "out" / "prior.safetensors").exists()
        assert not (tmp_path / "out" / "training.ckpt").exists()
        assert train(recipe(), photographs, tmp_path / "out", steps=1, progress=False).steps == 1

    def test_what_is_measured_on_is_not_trained_on(self, photographs, tmp_path):
        """Though the one folder lie within the other."""
        (photographs / "val").mkdir()
        for name in ("3.png", "4.png"):
            (photographs / name).rename(photographs / "val" / name)
        result = train(recipe(steps=1), photographs, tmp_path / "out", validation=photographs / "val", progress=False)
        card = json.loads((result.path.parent / "card.json").read_text())
        assert (card["images"], card["validation_images"]) == (3, 2)
        with pytest.raises(ValueError, match="validation must leave images to train on"):
            train(recipe(steps=1), photographs, tmp_path / "other", validation=photographs, progress=False)

    def test_a_checkpoint_from_before_a_setting_existed_has_its_default(self, photographs, tmp_path):
        train(recipe(steps=1), photographs, tmp_path / "out", progress=False)
        content = torch.load(tmp_path / "out" / "training.ckpt", weights_only=True)
        del content["recipe"]["schedule"]["optimiser"]
        torch.save(content, tmp_path / "out" / "training.ckpt")
        assert train(recipe(steps=1), photographs, tmp_path / "out", resume=True, progress=False).complete

    def test_averages_are_written(self, photographs, tmp_path):
        """Without a decay the average is the weights themselves; with one it follows them."""
        train(recipe(steps=8, average=0.0), photographs, tmp_path / "last", progress=False)
        train(recipe(steps=8, average=0.9), photographs, tmp_path / "mean", progress=False)
        state = torch.load(tmp_path / "mean" / "training.ckpt", weights_only=True)
        key = "network.g_a.0.weight"
        assert torch.equal(state["prior"][key], torch.load(tmp_path / "last" / "training.ckpt")["prior"][key])
        assert torch.equal(weights(tmp_path / "last" / "prior.safetensors")[key], state["prior"][key])
        assert torch.equal(weights(tmp_path / "mean" / "prior.safetensors")[key], state["average"][key])
        assert not torch.equal(state["average"][key], state["prior"][key])


class TestGrowing:
    @pytest.fixture
    def small(self, photographs, tmp_path):
        """A trained prior with a decoder of standard deviations."""
        train(recipe(steps=2), photographs, tmp_path / "mean", progress=False)
        train(recipe(STD_RECIPE), photographs, tmp_path / "small", init=tmp_path / "mean", progress=False)
        return tmp_path / "small"

    def test_training_goes_on_from_the_same_figures(self, photographs, small, tmp_path):
        x = pv.io.images.read_image(photographs / "0.png").values
        before = pv.load_prior(small / "prior.safetensors")
        content = recipe(lr=1e-12, steps=1)
        result = train(content, photographs, tmp_path / "big", init=small, grow={"N": 10, "M": 16}, progress=False)
        assert (result.prior.network.N, result.prior.network.M) == (10, 16)
        assert result.prior.decoder_std is None  # another mean has other errors
        with torch.no_grad():
            old, new = (prior.decode_mean(prior.encode(x)["z"]) for prior in (before, result.prior))
        torch.testing.assert_close(new, old, rtol=1e-4, atol=1e-5)
        written = yaml.safe_load((tmp_path / "big" / "recipe.yaml").read_text())
        assert written["network"] == {"architecture": "MeanScaleHyperprior", "N": 10, "M": 16}
        assert json.loads((tmp_path / "big" / "card.json").read_text())["init"] == f"{small}, grown to N=10, M=16"

    def test_it_resumes(self, photographs, small, tmp_path):
        grow = {"M": 16}
        once = train(recipe(), photographs, tmp_path / "once", init=small, grow=grow, progress=False)
        stop = TestNonFinite().interrupt_at(5)
        stop = TestNonFinite().interrupt_at(5)
        half = train(recipe(), photographs, tmp_path / "twice", init=small, grow=grow, progress=stop)
        assert not half.complete
        twice = train(recipe(), photographs, tmp_path / "twice", init=small, grow=grow, resume=True, progress=False)
        assert_same_weights(once.path, twice.path)

    def test_standard_deviations_of_the_small_one_suit_the_large_one(self, photographs, small, tmp_path):
        content = recipe(lr=1e-12, steps=1)
        big = train(content, photographs, tmp_path / "big", init=small, grow={"N": 10, "M": 16}, progress=False)
        content = recipe(STD_RECIPE, steps=1, lr=1e-12)
        result = train(content, photographs, tmp_path / "std", init=big.path, init_std=small, progress=False)
        x, before = torch.rand(1, 3, 64, 64), pv.load_prior(small / "prior.safetensors")
        with torch.no_grad():
            old, new = (prior.decode_std(prior.encode(x)["z"]) for prior in (before, result.prior))
        torch.testing.assert_close(new, old, rtol=1e-4, atol=1e-6)

    def test_mistakes(self, photographs, small, tmp_path):
        def grows(content, grow, **init):
            train(content, photographs, tmp_path / "out", grow=grow, progress=False, **init)

        with pytest.raises(ValueError, match=r"What grows is a compressive autoencoder.*received none; pass --init"):
            grows(recipe(), {"N": 10})
        with pytest.raises(ValueError, match="M must be at least the 12"):
            grows(recipe(), {"M": 8}, init=small)
        with pytest.raises(ValueError, match=r"network\.N"):
            grows(recipe(), {"N": 10.5}, init=small)
        with pytest.raises(ValueError, match=r"network\.L"):
            grows(recipe(), {"L": 10}, init=small)
        with pytest.raises(ValueError, match="Only recipes of kind cae"):
            grows(recipe(STD_RECIPE), {"N": 10}, init=small)
        assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_compiled_networks_take_the_same_steps(photographs, tmp_path):
    losses = {}
    for compiled in (False, True):
        seen = losses.setdefault(compiled, [])
        content = parse_recipe(CAE_RECIPE | {"compile": compiled})
        train(content, photographs, tmp_path / str(compiled), progress=lambda f, seen=seen: seen.append(f["loss"]))
    assert losses[True] == pytest.approx(losses[False], rel=1e-3)


@pytest.mark.cuda
class TestCUDA:
    @pytest.mark.parametrize("precision", ["float32", "bfloat16"])
    def test_a_recipe_runs_unchanged(self, photographs, tmp_path, precision):
        content = parse_recipe(CAE_RECIPE | {"precision": precision, "schedule": {"steps": 60, "lr": 1e-3}})
        losses = {}
        for device in ("cpu", "cuda"):
            result = train(content, photographs, tmp_path / device, device=device, progress=False)
            losses[device] = result.evaluation.loss
        # Other random numbers, the same problem.
        assert losses["cuda"] == pytest.approx(losses["cpu"], rel=0.2)

    @pytest.mark.parametrize(
        ("optimiser", "network"), [("adam", CAE_RECIPE["network"]), ("muon", CAE_RECIPE["network"]), ("adam", CONTEXT)]
    )
    def test_captured_steps_are_steps(self, optimiser, network):
        content = recipe(CAE_RECIPE | {"network": network}, optimiser=optimiser)
        images = ImageSet([torch.randint(0, 256, (3, 80, 80), dtype=torch.uint8) for _ in range(2)])
        ends = []
        for captured in (True, False):
            state = initial_state(content, build_prior(content), torch.device("cuda"))
            draw = RandomCrops(images, content.data, "cuda")
            objective = NegativeELBO(state.prior)
            rates = [1e-3, 1e-3, 1e-3, 3e-3, 2e-3, 1e-3, 5e-4, 0.0]  # others than that of the capture
            with pyro.validation_enabled(False):
                torch.cuda.manual_seed(0)
                if captured:
                    take = CapturedSteps(state, objective, draw)
                    losses = [float(take(rate, record=True).loss) for rate in rates]
                    assert take.updates.is_made
                else:
                    losses = [float(training_step(state, objective, draw(), r, record=True).loss) for r in rates]
            ends.append((losses, state.prior.state_dict(), state.average.state_dict()))
        # The same random numbers; kernels may add up in another order.
        assert ends[0][0] == pytest.approx(ends[1][0], rel=0.02)
        for captured, eager in zip(ends[0][1:], ends[1][1:], strict=True):
            for name, value in captured.items():
                torch.testing.assert_close(value, eager[name], rtol=0.02, atol=2e-3)

    def test_sixteen_bits(self):
        image = (54 * torch.arange(3 * 20 * 20, dtype=torch.int32)).reshape(3, 20, 20).to(torch.uint16)
        crops = RandomCrops(ImageSet([image]), Data(crop=20, batch_size=2, symmetries="none"), "cuda")
        torch.testing.assert_close(crops()[0].cpu() * 65535, image.float(), rtol=1e-5, atol=1e-2)

    @pytest.mark.parametrize("optimiser", ["adam", "muon"])
    def test_resuming(self, photographs, tmp_path, optimiser):
        interrupt, content = TestNonFinite().interrupt_at(20), recipe(steps=60, optimiser=optimiser)
        first = train(content, photographs, tmp_path / "out", device="cuda", progress=interrupt)
        assert not first.complete
        second = train(content, photographs, tmp_path / "out", device="cuda", resume=True, progress=False)
        assert second.complete
        assert second.steps == 60


class TestResuming:
    @pytest.mark.parametrize(
        ("precision", "optimiser"),
        [("float32", "adam"), ("bfloat16", "adam"), ("float32", "soap"), ("float32", "muon")],
    )
    def test_an_interrupted_training_ends_where_an_uninterrupted_one_does(
        self, photographs, tmp_path, precision, optimiser
    ):
        content = recipe(CAE_RECIPE | {"precision": precision}, optimiser=optimiser)
        train(content, photographs, tmp_path / "whole", progress=False)

        def interrupt(figures):
            if figures["step"] == 7 and not resumed:
                os.kill(os.getpid(), signal.SIGTERM)

        resumed = False
        first = train(content, photographs, tmp_path / "parts", progress=interrupt)
        assert not first.complete
        assert first.steps == 7
        resumed = True
        second = train(content, photographs, tmp_path / "parts", resume=True, progress=interrupt)
        assert second.complete
        assert_same_weights(tmp_path / "whole" / "prior.safetensors", tmp_path / "parts" / "prior.safetensors")
        logs = []
        for name in ("whole", "parts"):
            with (tmp_path / name / "log.csv").open() as file:
                rows = [row for row in csv.DictReader(file) if row["step"] != "7"]
            logs.append([{k: v for k, v in row.items() if k in ("step", "validation_psnr")} for row in rows])
        assert logs[0] == logs[1]

    @pytest.mark.parametrize(
        ("steps", "killed_at"), [(14, [8]), pytest.param(60, [8, 25], marks=pytest.mark.slow)], ids=["once", "twice"]
    )
    def test_killed_at_a_random_moment(self, photographs, tmp_path, steps, killed_at):
        """SIGKILL leaves no chance to tidy up; the same weights come out, bit for bit."""
        (tmp_path / "recipe.yaml").write_text(
            "kind: cae\nnetwork: {architecture: MeanScaleHyperprior, N: 8, M: 12}\nalpha: 0.025\n"
            "data: {crop: 64, batch_size: 2}\n"
            f"schedule: {{steps: {steps}, lr: 1.0e-3, checkpoint_every: 3}}\n"
        )
        train(tmp_path / "recipe.yaml", photographs, tmp_path / "whole", progress=False)
        code = (
            "from pyro_vble.training import train\n"
            f"train({str(tmp_path / 'recipe.yaml')!r}, {str(photographs)!r}, {str(tmp_path / 'parts')!r}, resume=True, "
            "progress=lambda figures: print(figures['step'], flush=True))"
        )
        kills = 0
        for last in killed_at:
            process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
            for line in process.stdout:
                if int(line) >= last:
                    time.sleep(np.random.default_rng().random() * 0.05)  # anywhere in a step, or in a checkpoint
                    process.kill()
                    break
            kills += process.wait() == -signal.SIGKILL
        assert kills == len(killed_at)
        assert not (tmp_path / "parts" / "card.json").exists()
        result = train(tmp_path / "recipe.yaml", photographs, tmp_path / "parts", resume=True, progress=False)
        assert result.steps == steps
        assert_same_weights(tmp_path / "whole" / "prior.safetensors", tmp_path / "parts" / "prior.safetensors")

    def test_a_damaged_checkpoint(self, photographs, tmp_path):
        train(recipe(steps=1), photographs, tmp_path / "out", progress=False)
        checkpoint = tmp_path / "out" / "training.ckpt"
        checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
        with pytest.raises(ValueError, match="must be a whole file that it wrote"):
            train(recipe(steps=1), photographs, tmp_path / "out", resume=True, progress=False)

    def test_a_checkpoint_without_a_key_or_with_another_kind_of_value(self, photographs, tmp_path):
        train(recipe(steps=1), photographs, tmp_path / "out", progress=False)
        checkpoint = tmp_path / "out" / "training.ckpt"
        whole = torch.load(checkpoint, weights_only=True)
        wrong = {
            **{key: [None, 3, "a", [], {}, {"a": 1}] for key in ("recipe", "prior", "average", "optimiser")},
            **{key: [None, 3, torch.ones(3, 3)] for key in ("random", "skipped", "skipped_in_a_row")},
            "step": [None, -1, 1.5, "1"],
            "elapsed": [None, float("nan"), "1"],
            "complete": [None, 2],
            "log": [None, 3, [{"unknown": 1.0}], [3]],
            "images": [None, 3],
            "format": [None, 3, []],
        }

        def refused(content, key):
            torch.save(content, checkpoint)
            with pytest.raises(ValueError, match=r"training\.ckpt|have changed") as caught:
                train(recipe(steps=1), photographs, tmp_path / "out", resume=True, progress=False)
            assert "\n" not in str(caught.value)
            assert len(str(caught.value)) < 1500
            return str(caught.value)

        for key in whole:
            said = refused({name: value for name, value in whole.items() if name != key}, key)
            assert key in said
        for key, values in wrong.items():
            for value in values:
                refused(whole | {key: value}, key)

    def test_what_killed_writers_left_is_removed(self, photographs, tmp_path):
        train(recipe(), photographs, tmp_path / "out", steps=1, progress=False)
        code = (
            "import os, signal\nfrom pyro_vble.io.atomic import atomic_path\n"
            f"with atomic_path({str(tmp_path / 'out' / 'training.ckpt')!r}) as path:\n"
            "    path.write_bytes(b'half'); os.kill(os.getpid(), signal.SIGKILL)"
        )
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
        names = {path.name for path in (tmp_path / "out").iterdir()}
        assert len([name for name in names if name.startswith(".")]) == 1
        train(recipe(), photographs, tmp_path / "out", resume=True, progress=False)
        assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]

    def test_a_disk_that_takes_no_more_names_the_checkpoint_and_keeps_the_last(self, photographs, tmp_path):
        train(recipe(), photographs, tmp_path / "out", steps=2, progress=False)
        before = (tmp_path / "out" / "training.ckpt").read_bytes()
        state = initial_state(recipe(), build_prior(recipe()), torch.device("cpu"))
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
        try:
            with pytest.raises(OSError, match=r"^\[Errno \d+\] .*training\.ckpt'$"):
                state.save(tmp_path / "out" / "training.ckpt")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert (tmp_path / "out" / "training.ckpt").read_bytes() == before
        assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]

    def test_steps_of_the_first_run_hold(self, photographs, tmp_path):
        train(recipe(), photographs, tmp_path / "out", steps=5, progress=False)
        assert train(recipe(), photographs, tmp_path / "out", resume=True, progress=False).steps == 5


@pytest.mark.slow
def test_minutes_end_with_the_schedule_complete(photographs, tmp_path):
    seen = []
    minutes = 0.2
    start = time.monotonic()
    content = recipe(steps=1, checkpoint_every=20)
    result = train(content, photographs, tmp_path / "out", minutes=minutes, progress=seen.append)
    # Not a measure of speed: the promise is to be done by then.
    assert time.monotonic() - start < minutes * 60
    assert result.complete
    assert result.steps == len(seen) > 1
    peak, last = max(figures["lr"] for figures in seen), seen[-1]["lr"]
    assert last < 0.1 * peak
    assert pv.load_prior(tmp_path / "out" / "prior.safetensors").alpha == 0.025
    # Complete is complete: there is nothing to resume, however long measuring is thought to take this time.
    again = train(content, photographs, tmp_path / "out", resume=True, progress=False)
    assert again.steps == result.steps
    assert_same_weights(again.path, result.path)


@pytest.fixture
def uneven(tmp_path):
    """Validation images of uneven sizes."""
    (tmp_path / "validation").mkdir()
    for i, side in enumerate((64, 64, 400)):
        Image.fromarray(np.full((side, side, 3), 90, np.uint8)).save(tmp_path / "validation" / f"{i}.png")
    return {"validation": tmp_path / "validation", "progress": False}


@pytest.mark.slow
def test_minutes_with_validation_images_of_uneven_sizes(photographs, uneven, tmp_path):
    start = time.monotonic()
    assert train(recipe(), photographs, tmp_path / "out", minutes=0.2, **uneven).evaluation.num_images == 3
    assert time.monotonic() - start < 0.2 * 60


def test_minutes_that_cannot_be(photographs, uneven, tmp_path):
    for _ in range(2):
        with pytest.raises(ValueError, match="leaves too little for training"):
            train(recipe(), photographs, tmp_path / "short", minutes=0.01, **uneven)
    with pytest.raises(ValueError, match="by steps or by minutes"):
        train(recipe(), photographs, tmp_path / "both", minutes=1, steps=3, **uneven)


def test_the_figures_are_those_of_the_file(photographs, tmp_path):
    held_out = shutil.copytree(photographs, tmp_path / "held out")
    result = train(recipe(), photographs, tmp_path / "out", validation=held_out, progress=False)
    images = read_images(held_out)
    again = evaluate(pv.load_prior(result.path), (images.middle(i, 512, 64) for i in range(5)))
    assert again == result.evaluation


class TestNonFinite:
    def spoil(self, monkeypatch, steps):
        """Make the batches of some steps NaN."""
        from pyro_vble.training import crops

        calls = iter(range(10**6))
        whole = crops.RandomCrops.__call__

        def spoilt(self):
            x = whole(self)
            return x * torch.nan if next(calls) in steps else x

        monkeypatch.setattr(crops.RandomCrops, "__call__", spoilt)

    def test_steps_are_skipped_and_counted(self, photographs, tmp_path, monkeypatch):
        self.spoil(monkeypatch, {0, 2, 3})
        result = train(recipe(), photographs, tmp_path / "out", progress=False)
        assert result.skipped_steps == 3
        assert result.steps == 12
        assert all(bool(value.isfinite().all()) for value in weights(result.path).values())
        moments = torch.load(tmp_path / "out" / "training.ckpt")["optimiser"]["state"]
        assert {float(state["step"]) for state in moments.values()} == {9.0}

    def test_the_first_step_after_resuming(self, photographs, tmp_path, monkeypatch):
        train(recipe(), photographs, tmp_path / "out", progress=self.interrupt_at(5))
        self.spoil(monkeypatch, {0})
        result = train(recipe(), photographs, tmp_path / "out", resume=True, progress=False)
        assert (result.steps, result.skipped_steps) == (12, 1)

    def interrupt_at(self, step):
        return lambda figures: os.kill(os.getpid(), signal.SIGTERM) if figures["step"] == step else None

    @pytest.mark.parametrize("optimiser", ["adam", "soap", "muon"])
    def test_a_skipped_step_changes_no_weight(self, photographs, tmp_path, monkeypatch, optimiser):
        states = {}

        def keep(figures):
            # The figures of a step come before its checkpoint: the file is that of the step before.
            if figures["step"] > 1:
                content = torch.load(tmp_path / "out" / "training.ckpt")
                states[content["step"]] = content["prior"]

        self.spoil(monkeypatch, {5})
        train(recipe(steps=8, checkpoint_every=1, optimiser=optimiser), photographs, tmp_path / "out", progress=keep)
        same = {
            step: all(torch.equal(states[step][key], states[step - 1][key]) for key in states[step])
            for step in range(2, 8)
        }
        assert same == {step: step == 6 for step in range(2, 8)}

    def test_ten_in_a_row_stop_with_the_last_good_checkpoint(self, photographs, tmp_path, monkeypatch):
        self.spoil(monkeypatch, set(range(6, 100)))
        with pytest.raises(TrainingDivergedError, match=r"10 steps in a row \(10 in all\).*training.ckpt"):
            train(recipe(steps=50), photographs, tmp_path / "out", progress=False)
        state = torch.load(tmp_path / "out" / "training.ckpt")
        assert 6 <= state["step"] < 6 + _MOST_SKIPPED
        assert all(bool(value.isfinite().all()) for value in state["prior"].values())


class TestTheStep:
    @pytest.mark.parametrize("optimiser", ["adam", "muon"])
    @pytest.mark.parametrize("kind", ["cae", "vae"])
    def test_the_host_asks_the_device_nothing(self, kind, optimiser, monkeypatch):
        """Every answer would make it wait until a GPU is done; here the questions themselves are forbidden."""
        content = recipe(CAE_RECIPE if kind == "cae" else TestVAE.recipe, optimiser=optimiser)
        state = initial_state(content, build_prior(content), torch.device("cpu"))
        shape = (state.prior.bands, content.data.crop, content.data.crop)
        draw = RandomCrops(ImageSet([torch.randint(0, 256, shape, dtype=torch.uint8)]), content.data)
        objective = NegativeELBO(state.prior)
        with pyro.validation_enabled(False):
            training_step(state, objective, draw(), 1e-3)  # Adam makes its moments
            with monkeypatch.context() as patch:
                for question in ("item", "tolist", "__bool__", "__int__", "__float__", "__index__", "nonzero", "cpu"):
                    patch.setattr(torch.Tensor, question, _forbidden(question))
                training_step(state, objective, draw(), 1e-3, record=True)
        assert state.step == 2


def _forbidden(question):
    def ask(*_, **__):
        raise AssertionError(f"Tensor.{question} waits for the device")

    return ask


class TestDecoderStd:
    def test_only_the_decoder_of_standard_deviations_changes(self, cae, photographs, tmp_path):
        result = train(parse_recipe(STD_RECIPE), photographs, tmp_path / "out", init=cae, progress=False)
        prior = result.prior
        for key, value in cae.network.state_dict().items():
            if not key.endswith(("quantiles", "_quantized_cdf", "_offset", "_cdf_length", "scale_table")):
                assert torch.equal(prior.network.state_dict()[key], value), key
        std = prior.decoder_std
        assert isinstance(std, DecoderStd)
        flat = DecoderStd.starting_flat(cae.network.g_s, cae.gamma)
        assert not torch.equal(std.network[-1].bias, flat.network[-1].bias)
        assert len(result.calibration.ratio) == 10

    def test_the_callers_prior_stays_as_it_is(self, cae, photographs, tmp_path):
        first = train(parse_recipe(STD_RECIPE), photographs, tmp_path / "a", init=cae, progress=False).prior
        before = {key: value.clone() for key, value in first.state_dict().items()}
        train(parse_recipe(STD_RECIPE), photographs, tmp_path / "b", init=first, progress=False)
        assert all(torch.equal(value, before[key]) for key, value in first.state_dict().items())

    def test_it_resumes_without_its_prior(self, cae, photographs, tmp_path):
        """All that it needs is in its folder; the weights are those of an uninterrupted run."""
        train(parse_recipe(STD_RECIPE), photographs, tmp_path / "whole", init=cae, progress=False)
        interrupt = TestNonFinite().interrupt_at(3)
        assert not train(parse_recipe(STD_RECIPE), photographs, tmp_path / "a", init=cae, progress=interrupt).complete
        assert train(parse_recipe(STD_RECIPE), photographs, tmp_path / "a", resume=True, progress=False).complete
        assert_same_weights(tmp_path / "whole" / "prior.safetensors", tmp_path / "a" / "prior.safetensors")

    def test_a_prior_without_one_standard_deviation_to_start_at(self, cae):
        other = CAE(cae.network, decoder_std=torch.nn.Conv2d(12, 3, 1))
        with pytest.raises(ValueError, match="starts at the prior's one standard deviation"):
            build_prior(parse_recipe(STD_RECIPE), other)

    def test_it_starts_at_gamma(self, cae):
        std = DecoderStd.starting_flat(cae.network.g_s, cae.gamma)
        torch.testing.assert_close(std(torch.randn(1, 12, 4, 4)), torch.full((1, 3, 64, 64), cae.gamma))

    def test_it_goes_on_from_a_prior_that_has_one(self, cae, photographs, tmp_path):
        first = train(parse_recipe(STD_RECIPE), photographs, tmp_path / "a", init=cae, progress=False)
        later = recipe(STD_RECIPE, steps=1, lr=1e-12)
        second = train(later, photographs, tmp_path / "b", init=first.path, progress=False)
        z = torch.randn(1, 12, 4, 4)
        torch.testing.assert_close(second.prior.decode(z)[1], first.prior.decode(z)[1])

    def test_it_starts_from_that_of_another_prior(self, cae, photographs, tmp_path):
        """A mean that was trained further, with its standard deviations of before; resuming asks for neither."""
        before = train(parse_recipe(STD_RECIPE), photographs, tmp_path / "a", init=cae, progress=False)
        further = train(recipe(steps=1), photographs, tmp_path / "b", init=cae, progress=False)
        later = recipe(STD_RECIPE, steps=1, lr=1e-12)
        options = {"init": further.path, "init_std": before.path, "progress": False}
        result = train(later, photographs, tmp_path / "c", **options)
        z = torch.randn(1, 12, 4, 4)
        torch.testing.assert_close(result.prior.decode(z)[1], before.prior.decode(z)[1])
        torch.testing.assert_close(result.prior.decode(z)[0], further.prior.decode(z)[0])
        card = json.loads((tmp_path / "c" / "card.json").read_text())
        assert card["init"] == f"{further.path}, its standard deviations from {before.path}"
        assert train(later, photographs, tmp_path / "c", resume=True, progress=False).complete

    @pytest.mark.parametrize(
        ("content", "std", "message"),
        [
            (STD_RECIPE, "flat", "received a prior without one; change the recipe or leave out --init-std"),
            ({**STD_RECIPE, "floor": 0.5}, "decoder", r"recipe's link and floor .*0\.5.*received sigmoid"),
            (STD_RECIPE, "other", "differs.*leave out --init-std"),
            (CAE_RECIPE, "decoder", "Only recipes of kind decoder_std"),
        ],
    )
    def test_another_priors_that_cannot_be(self, cae, content, std, message):
        wide = DecoderStd.starting_flat(torch.nn.ConvTranspose2d(5, 3, 16, 16), 0.1)
        deviations = {
            "flat": None,
            "decoder": DecoderStd.starting_flat(cae.network.g_s, cae.gamma),
            "other": wide,
        }[std]
        other = CAE(cae.network, cae.alpha, decoder_std=deviations)
        with pytest.raises(ValueError, match=message):
            build_prior(parse_recipe(content), cae, other)


class TestVAE:
    recipe = {  # noqa: RUF012
        "kind": "vae",
        "network": {"image_shape": [1, 28, 28], "num_latents": 4, "channels": [4, 8]},
        "decoder_std": 0.2,
        "data": {"crop": 28, "batch_size": 4, "symmetries": "none", "dequantize": True},
        "schedule": {"steps": 20, "lr": 1e-3},
    }

    @pytest.fixture
    def digits(self, tmp_path):
        folder = tmp_path / "digits"
        folder.mkdir()
        for i in range(12):
            image = np.zeros((28, 28), np.uint8)
            image[i : i + 10, 5:15] = 200
            Image.fromarray(image).save(folder / f"{i:02}.png")
        return folder

    @pytest.mark.parametrize("learn", [True, False])
    def test_mean_then_standard_deviations(self, digits, tmp_path, learn):
        step_1 = train(
            parse_recipe(self.recipe | {"learn_decoder_std": learn}), digits, tmp_path / "vae", progress=False
        )
        assert step_1.calibration is None
        assert step_1.evaluation.psnr_quantised is None
        assert (step_1.prior.decoder_std == 0.2) is not learn
        std_recipe = STD_RECIPE | {"data": self.recipe["data"], "link": "exp", "floor": 1e-3}
        step_2 = train(parse_recipe(std_recipe), digits, tmp_path / "std", init=step_1.path, progress=False)
        z = torch.randn(3, 4)
        torch.testing.assert_close(step_2.prior.decode_mean(z), step_1.prior.decode_mean(z))
        assert step_2.prior.decode(z)[1].shape == (3, 1, 28, 28)
        assert step_2.prior.sample(2).shape == (2, 1, 28, 28)

    def test_images_larger_than_the_vaes(self, tmp_path):
        folder = tmp_path / "large"
        folder.mkdir()
        for i in range(4):
            Image.fromarray(np.full((40, 50), 40 * i, np.uint8)).save(folder / f"{i}.png")
        result = train(parse_recipe(self.recipe), folder, tmp_path / "vae", steps=2, progress=False)
        assert result.evaluation.num_images == 1

    def test_killed_and_resumed(self, digits, tmp_path):
        train(parse_recipe(self.recipe), digits, tmp_path / "whole", progress=False)
        train(parse_recipe(self.recipe), digits, tmp_path / "parts", progress=TestNonFinite().interrupt_at(9))
        train(parse_recipe(self.recipe), digits, tmp_path / "parts", resume=True, progress=False)
        assert_same_weights(tmp_path / "whole" / "prior.safetensors", tmp_path / "parts" / "prior.safetensors")

    def test_a_crop_of_another_size(self, digits, tmp_path):
        with pytest.raises(ValueError, match=r"data.crop must be the side"):
            parse_recipe(self.recipe | {"data": {"crop": 32}})
        vae = train(parse_recipe(self.recipe), digits, tmp_path / "vae", progress=False)
        with pytest.raises(ValueError, match=r"data.crop must be the side of the prior's images"):
            train(parse_recipe(STD_RECIPE), digits, tmp_path / "std", init=vae.path, progress=False)
