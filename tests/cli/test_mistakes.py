"""Whatever a user does wrong ends with one line and exit status 2, before the work."""

import io
import json
import sys

import numpy as np
import pytest
import torch
import yaml

from pyro_vble.cli.app import main
from pyro_vble.cli.words import in_options
from pyro_vble.io.images import read_image, write_image

RESTORE = ("restore", "rgb.png", "--output", "out", "--problem")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_image("rgb.png", torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    return tmp_path


@pytest.fixture
def command(monkeypatch, capsys):
    """Run the command; its exit status, and what it printed on standard output and error."""

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["pyro-vble", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
        said = capsys.readouterr()
        return exit_.value.code, said.out, said.err

    return run


@pytest.fixture
def idle(monkeypatch):
    monkeypatch.setattr("pyro_vble.restore", lambda *_, **__: pytest.fail("the work has begun"))


def assert_refused(result, message):
    code, _, error = result
    assert code == 2
    assert message in error
    assert error.startswith("Error: ")
    assert len(error.strip().splitlines()) == 1


@pytest.mark.usefixtures("folder", "idle")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("denoise", "--noise", "25"), "25/255 = 0.098"),
        (("denoise", "--noise", "nan"), "must be finite"),
        (("denoise", "--noise", "inf"), "must be finite"),
        (("denoise", "--noise", "-1"), "not negative"),
        (("denoise", "--scale", "inf"), "positive and finite"),
        (("denoise", "--scale", "1e400"), "positive and finite"),
        (("denoise", "--scale", "0"), "positive and finite"),
        (("denoise", "--scale", "1e300"), "positive and finite"),
        (("denoise", "--scale", "1e-300"), "positive and finite"),
        (("denoise", "--scale", "1e9", "--noise", "0.1"), "--scale"),
        (("denoise", "--scale", "1e-9", "--noise", "0.1"), "leaves the brightest hundredth"),
        (("denoise", "--nodata", "nan"), "finite"),
        (("denoise", "--lr", "nan"), "positive and finite"),
        (("denoise", "--kl-weight", "inf"), "finite"),
        (("denoise", "--alpha", "0"), "positive"),
        (("denoise", "--rate-scale", "nan"), "(0, 1]"),
        (("denoise", "--rate-scale", "x"), "(0, 1]"),
        (("denoise", "--steps", "0"), "--steps"),
        (("denoise", "--seed", str(2**70)), "--seed"),
        (("denoise", "--device", "mps"), "--device must be the CPU or a CUDA GPU"),
        (("denoise", "--precision", "half"), "--precision must be one of"),
        (("denoise", "--factor", "4"), "--factor belongs to --problem super-resolve"),
        (("denoise", "--blur-sigma", "1"), "--blur-sigma belongs to --problem deblur"),
        (("inpaint", "--kernel", "k.png"), "--kernel belongs to --problem deblur"),
        (("deblur", "--kernel", "k.npy", "--blur-sigma", "2"), "received both"),
        (("deblur", "--blur-sigma", "1e300"), "positive and finite"),
        (("deblur", "--blur-sigma", "nan"), "positive and finite"),
        (("deblur", "--blur-sigma", "30", "--noise", "0.1"), "must not be larger than the image"),
        (("denoise", "--guide", "map-z", "--samples", "9"), "--guide map-z is one image"),
        (("denoise", "--guide", "map-z", "--linearised"), "--guide map-z is one image"),
        (("denoise", "--guide", "map-z", "--calibration", "c.json"), "--guide map-z is one image"),
        (("denoise", "--mask", ""), "a path must not be empty"),
        (("denoise", "--output", ""), "a path must not be empty"),
        (("denoise", "--output", "rgb.png"), "--output must be a folder"),
        (("denoise", "--output", "/proc/none"), "/proc/none"),
        (("denoise", "--prior", "moon", "--noise", "0.1"), "moon"),
        (("denoise", "--calibration", "none.json"), "none.json"),
        (("none",), "none"),
    ],
)
def test_options(command, options, message):
    assert_refused(command(*RESTORE, *options), message)


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize("name", ["restored.png", "mmse_z.png", "sample_1.png"])
def test_an_input_is_not_overwritten(folder, command, name):
    (folder / "out").mkdir()
    content = (folder / "rgb.png").read_bytes()
    (folder / "out" / name).write_bytes(content)
    (folder / "link").symlink_to("out")
    for way in (folder / "out", folder / "out" / ".." / "out", folder / "link"):
        result = command("restore", way / name, "--output", "out", "--problem", "denoise", "--noise", "0.1")
        assert_refused(result, "An input is not overwritten")
    assert (folder / "out" / name).read_bytes() == content
    assert [path.name for path in (folder / "out").iterdir()] == [name]


@pytest.mark.usefixtures("idle")
def test_inputs_that_are_none(folder, command):
    assert_refused(command("restore", "no.png", "--output", "out", "--problem", "denoise"), "Nothing is at no.png")
    (folder / "cut.png").write_bytes((folder / "rgb.png").read_bytes()[:300])
    assert_refused(command("restore", "cut.png", "--output", "out", "--problem", "denoise"), "cut.png")
    write_image("mask.png", torch.zeros(1, 1, 64, 64))
    assert_refused(command(*RESTORE, "denoise", "--mask", "mask.png"), "are missing")
    with io.BytesIO() as archive:
        np.savez(archive, a=np.ones((5, 5)))
        (folder / "kernel.npy").write_bytes(archive.getvalue())
    assert_refused(command(*RESTORE, "deblur", "--noise", "0.1", "--kernel", "kernel.npy"), "kernel.npy")
    assert_refused(command("restore", "kernel.npy", "--output", "out", "--problem", "denoise"), "kernel.npy")
    assert_refused(command(*RESTORE, "inpaint", "--mask", "kernel.npy", "--noise", "0.1"), "kernel.npy")


@pytest.mark.usefixtures("idle")
def test_files_that_are_nested_too_deeply(folder, command):
    (folder / "c.json").write_text("[" * 100_000)
    assert_refused(command(*RESTORE, "denoise", "--calibration", "c.json"), "")
    (folder / "r.yaml").write_text("{" * 2000)
    assert_refused(command("train", "cae", "--recipe", "r.yaml", "--data", ".", "--output", "out"), "")


def test_checkpoints_that_cannot_be_resumed(folder, command):
    """Each key left out, and each of another kind."""
    recipe = {"kind": "cae", "network": {"architecture": "ScaleHyperprior", "N": 8, "M": 12}, "alpha": 0.025}
    recipe |= {"data": {"crop": 64, "batch_size": 2}, "schedule": {"steps": 1, "lr": 1e-3}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "data").mkdir()
    for name in "ab":
        write_image(folder / "data" / f"{name}.png", torch.rand(1, 3, 64, 64))
    resume = ("train", "cae", "--recipe", "recipe.yaml", "--data", "data", "--output", "run", "--resume")
    assert command(*resume)[0] == 0
    checkpoint = folder / "run" / "training.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    for key in content:
        torch.save({name: value for name, value in content.items() if name != key}, checkpoint)
        assert_refused(command(*resume), key if key == "format" else "training.ckpt")
    for key in content:
        torch.save(content | {key: [3]}, checkpoint)
        assert_refused(command(*resume), "training.ckpt")
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    assert_refused(command(*resume), "training.ckpt")


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("command_line", [("demo",), ("train", "cae", "--data", ".")])
def test_other_commands_look_at_their_output_first(command, command_line):
    assert_refused(command(*command_line, "--output", ""), "a path must not be empty")
    assert_refused(command(*command_line, "--output", "rgb.png"), "--output must be a folder")


def test_a_training_does_not_overwrite_what_it_starts_from(folder, command):
    recipe = {"kind": "cae", "network": {"architecture": "ScaleHyperprior", "N": 8, "M": 12}, "alpha": 0.025}
    recipe |= {"data": {"crop": 64, "batch_size": 2}, "schedule": {"steps": 1, "lr": 1e-3}}
    (folder / "out").mkdir()
    (folder / "out" / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "out" / "prior.safetensors").write_bytes(b"weights")
    common = ("train", "cae", "--data", ".", "--output", "out")
    assert_refused(command(*common, "--recipe", "out/recipe.yaml"), "An input is not overwritten")
    assert_refused(command(*common, "--init", "out"), "An input is not overwritten")
    assert (folder / "out" / "prior.safetensors").read_bytes() == b"weights"


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (MemoryError(), 2, "Memory ran out"),
        (RuntimeError("[enforce fail at inline_container.cc:626] . unexpected pos 64 vs 0"), 2, "inline_container"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 2, "Memory ran out"),
        (OSError(28, "No space left on device", "out/a.png"), 2, "out/a.png; make room"),
        (ValueError("num_steps must be\n1 or more; received 0."), 2, "--steps must be 1 or more; received 0."),
        (KeyboardInterrupt(), 130, "interrupted"),
        (KeyError("a fault of ours"), 1, "please report it"),
        (RuntimeError("a fault of ours"), 1, "please report it"),
    ],
)
def test_every_end_has_its_status_and_its_line(command, monkeypatch, error, code, said):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("pyro_vble.restore", fail)
    ended, _, told = command(*RESTORE, "denoise", "--noise", "0.1")
    assert ended == code
    assert said in told
    assert ("Traceback" in told) == (code == 1)


@pytest.mark.usefixtures("folder")
def test_warnings_are_one_plain_line(command, monkeypatch):
    import warnings

    def warn(*_, **__):
        warnings.warn("The calibration was made with\nanother blur.", stacklevel=1)
        raise ValueError("enough")

    monkeypatch.setattr("pyro_vble.restore", warn)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        _, out, error = command(*RESTORE, "denoise", "--noise", "0.1")
    assert "Warning: The calibration was made with another blur.\n" in out
    assert "UserWarning" not in out + error


@pytest.mark.usefixtures("folder")
def test_streams_that_are_poor_or_missing(monkeypatch):
    from pyro_vble.cli.words import forgiving_streams, say

    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii", write_through=True))
    monkeypatch.setattr(sys, "stderr", None)
    forgiving_streams()
    say("[bold]é[/x] \udcf6")
    print("nothing", file=sys.stderr)
    assert raw.getvalue() == b"[bold]?[/x] ?\n"


def test_results_say_from_the_first_that_they_are_incomplete(folder, command, monkeypatch):
    def fail(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("pyro_vble.cli.report.estimates", fail)
    code, out, _ = command(*RESTORE, "denoise", "--noise", "0.1", "--steps", "2", "--samples", "2")
    assert code == 130
    assert "incomplete" in out
    assert json.loads((folder / "out" / "metrics.json").read_text())["interrupted"] is True


@pytest.mark.parametrize("steps", [0, 3])
def test_an_interrupted_fit(folder, command, monkeypatch, steps):
    import pyro_vble.inference.fitting as fitting

    losses = fitting._losses

    def interrupted(*arguments):
        for index, loss in enumerate(losses(*arguments)):
            if index == steps:
                raise KeyboardInterrupt
            yield loss

    monkeypatch.setattr(fitting, "_losses", interrupted)
    code, out, _ = command(*RESTORE, "denoise", "--noise", "0.1", "--steps", "9", "--samples", "2")
    assert code == 130
    if steps == 0:
        assert "nothing is written" in out
        assert not list((folder / "out").iterdir())
    else:
        assert "interrupted after 3 of 9 steps" in out
        metrics = json.loads((folder / "out" / "metrics.json").read_text())
        assert metrics["interrupted"] is True
        assert metrics["steps"] == 3


@pytest.mark.parametrize("path", ["lr/none.png", "a/lr", "init_std/x.png", "./lr"])
def test_a_path_is_none_of_options(path):
    said = f"Nothing is at {path} (IN); check the path."
    assert in_options(said) == said


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("problem", "size", "found"), [("super-resolve", 65, 64), ("denoise", 24, 24)])
def test_a_demo_of_any_size_that_it_takes(command, problem, size, found):
    code, *said = command("demo", "--output", "out", "--problem", problem, "--size", size, "--steps", 1, "--samples", 2)
    assert code == 0, said
    assert read_image("out/truth.png").values.shape[-1] == found
