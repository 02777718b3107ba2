"""Runs that go on where they ended, on tiny images and with methods that take no time."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from pyro_vble import metrics
from pyro_vble.baselines.point import stored
from pyro_vble.benchmark import load_benchmark, methods, resources
from pyro_vble.benchmark.methods import Call
from pyro_vble.benchmark.problems import Sensing
from pyro_vble.benchmark.report import read_results, write_report
from pyro_vble.benchmark.resources import Resources
from pyro_vble.benchmark.runner import OtherSettingsError, Run, image_paths, middle
from pyro_vble.benchmark.settings import Method

SIDE = 48


@pytest.fixture
def folder(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    random = np.random.default_rng(0)
    for k in range(3):
        rows = np.add.outer(np.arange(SIDE), np.arange(SIDE) * (k + 1))[..., None] + np.array([0, 40, 80])
        pixels = rows * 2 % 256 // 2 + random.integers(0, 20, (SIDE, SIDE, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(images / f"{k}.png")
    return images


def _noisy_copies(y, physics, given):
    """Five samples about the measurement, far apart."""
    generator = torch.Generator().manual_seed(given.seed)
    images = y + 0.1 * torch.randn(5, *y.shape, generator=generator)
    return stored(images, y, physics, "copies")


def _failing(y, physics, given):
    raise RuntimeError("no luck")


@pytest.fixture
def run(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(methods.CALLS, "copies", Call(_noisy_copies, samples="repeated"))
    monkeypatch.setitem(methods.CALLS, "failing", Call(_failing))
    benchmark = load_benchmark("bsd").of(["first-guess"], ["gaussian-1"])
    own = {"copies": Method(label="Copies", call="copies")}
    shorter = {"methods": benchmark.methods | own, "samples": 5, "reference": "copies", "pictures": 1}
    own = Resources(torch.device("cpu"), "cae-bsd")
    return Run(benchmark.model_copy(update=shorter), image_paths(folder, None), tmp_path / "out", own)


def with_method(run, name, method):
    changed = run.benchmark.model_copy(update={"methods": run.benchmark.methods | {name: method}})
    return dataclasses.replace(run, benchmark=changed)


def test_what_is_done_is_not_done_again(run):
    first = run()
    assert (first.made, first.kept) == (12, 0)
    path = next(run.folder.glob("bsd/*/*/copies.json"))
    before = path.read_text()
    path.unlink()
    second = run()
    assert (second.made, second.kept) == (1, 11)
    same = json.loads(before)["figures"], json.loads(path.read_text())["figures"]
    for figures in same:
        del figures["seconds"], figures["seconds_samples"], figures["peak_memory"]
    assert same[0] == same[1]


def test_results_of_other_settings_are_an_error_and_are_replaced_when_told(run):
    run()
    changed = with_method(run, "copies", Method(label="Copies", call="copies", settings={"more": 1}))
    stamps = {path: path.stat().st_mtime_ns for path in run.folder.glob("bsd/*/*/*.json")}
    with pytest.raises(OtherSettingsError, match=r"method\.settings\.more: None, now 1.*--replace"):
        changed()
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}
    outcome = dataclasses.replace(changed, replace=True)()
    assert (outcome.made, outcome.kept) == (6, 6)


def test_a_label_is_no_setting(run):
    run()
    renamed = with_method(run, "copies", Method(label="Other words", call="copies"))
    assert renamed().kept == 12


def test_parts_are_apart_and_make_the_whole(run):
    made = [dataclasses.replace(run, part=(i, 4))().made for i in (1, 2, 3, 4)]
    assert sum(made) == 12
    assert run().kept == 12


def test_one_failure_is_told_and_tried_again(run):
    failing = with_method(run, "failing", Method(label="Failing", call="failing"))
    outcome = failing()
    assert (outcome.made, len(outcome.failed)) == (12, 6)
    assert set(outcome.failed.values()) == {"RuntimeError: no luck"}
    assert len(failing().failed) == 6


def test_a_method_without_its_network_is_left_out(run):
    told = []
    direct = with_method(run, "rdn", Method(label="RDN", call="direct", settings={"architecture": "rdn"}))
    outcome = dataclasses.replace(direct, tell=told.append)()
    assert outcome.made == 12
    left_out = outcome.skipped["RDN, gaussian-1-noise-2.55"]
    assert "pyro-vble train direct --network rdn --scale 1" in left_out
    assert sum("left out: no folder of trained networks" in line for line in told) == 1


def test_a_denoiser_that_is_missing_is_looked_for_once(run, tmp_path, monkeypatch):
    asked, told = [], []

    def nowhere(*arguments):
        asked.append(arguments)
        raise RuntimeError("no network")

    monkeypatch.setattr(resources, "denoiser_on", nowhere)
    dpir = with_method(run, "dpir", Method(label="DPIR", call="dpir"))
    outcome = dataclasses.replace(dpir, tell=told.append)()
    assert (outcome.made, len(outcome.skipped), len(asked)) == (12, 2, 1)
    assert [line for line in told if "left out" in line] == [
        "DPIR is left out: its denoiser is missing (no network); --denoiser names a file of FFDNet's weights."
    ]


def test_a_network_is_found_by_what_it_is_of(run, tmp_path):
    """One for doubling does not stand in for one of the same resolution, nor does the lack of that hide it."""
    networks = tmp_path / "networks"
    networks.mkdir()
    settings = {"feats": 4, "num_blocks": 1}
    header = {"architecture": "srresnet", "bands": 3, "scale": 2, "settings": settings}
    from deepinv.models import SRResNet

    network = SRResNet(im_c=3, upscale=2, norm=None, **settings)
    save_file(network.state_dict(), networks / "any.safetensors", metadata={"direct": json.dumps(header)})
    benchmark = load_benchmark("bsd").of(["first-guess"], ["gaussian-1-noise-2.55", "x2"])
    method = {"srresnet": Method(label="SRResNet", call="direct", settings={"architecture": "srresnet"})}
    benchmark = benchmark.model_copy(update={"methods": method, "pictures": 0})
    own = Resources(torch.device("cpu"), "cae-bsd", networks=networks)
    outcome = dataclasses.replace(run, benchmark=benchmark, resources=own)()
    assert (outcome.made, outcome.failed) == (3, {})
    assert list(outcome.skipped) == ["SRResNet, gaussian-1-noise-2.55"]


def test_figures_are_those_of_the_library(run, folder):
    run()
    record = json.loads((run.folder / "bsd/gaussian-1-noise-7.65/1.png/copies.json").read_text())
    truth = middle(folder / "1.png", 256, 3)
    own = next(
        one for one in run._measurements() if one.problem == "gaussian-1-noise-7.65" and one.path.name == "1.png"
    )
    y, physics = own._measured()
    given = methods.Given(run.resources, {}, methods_seed(own))
    samples = _noisy_copies(y, physics, given)
    figures = record["figures"]
    assert figures["psnr"] == pytest.approx(metrics.psnr(samples.mmse_x().clamp(0, 1), truth), abs=1e-4)
    assert figures["coverage"] == pytest.approx(metrics.coverage(samples.interval(0.9), truth), abs=1e-6)
    error = (samples.images - truth)[..., 5:-5, 5:-5].abs().mean()
    assert figures["crps"] < float(error)
    # Each sample is a run of its own.
    assert figures["seconds_samples"] == pytest.approx(5 * figures["seconds"])


def methods_seed(measurement):
    from pyro_vble.seeding import derived_seed

    return derived_seed(measurement.seed, "copies")


def test_of_a_point_the_crps_is_the_mean_error(run, folder):
    run()
    figures = json.loads((run.folder / "bsd/gaussian-1-noise-2.55/0.png/first-guess.json").read_text())["figures"]
    own = next(run._measurements())
    y, _ = own._measured()
    error = (y - own.truth).abs()[..., 5:-5, 5:-5].mean()
    assert figures["crps"] == pytest.approx(float(error), rel=1e-5)
    assert "coverage" not in figures
    assert figures["seconds_samples"] is None


def test_a_report_has_tables_figures_and_settings(run):
    run()
    paths = write_report(run.folder)
    names = {path.name for path in paths}
    assert {"bsd.md", "bsd.tex", "bsd-frontier.png", "bsd-gaussian-1-noise-2.55-0.png"} <= names
    text = (run.folder / "report" / "bsd.md").read_text()
    assert "### Gaussian blur 1, noise 2.55/255" in text
    assert "| Copies | 3 |" in text
    assert "28.15" in text
    assert "blur_sigma: 1.0" in text
    for name in names:
        assert name.endswith((".md", ".tex")) or name in text


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (("rules", "samples"), "the same rules"),
        (("problem", "noise_255"), "the same settings of gaussian-1-noise"),
        (("image",), r"the same pixels of gaussian-1-noise.*png"),
        (("operator",), r"the same operator of gaussian-1-noise.*png"),
        (("lpips",), "the same LPIPS"),
    ],
)
def test_results_that_differ_in_more_than_the_method_are_in_no_table(run, changed, told):
    run()
    path = next(run.folder.glob("bsd/*/*/copies.json"))
    record = json.loads(path.read_text())
    part = record["made_with"]
    for key in changed[:-1]:
        part = part[key]
    part[changed[-1]] = 7
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=told):
        read_results(run.folder)


@pytest.mark.parametrize("change", [{"crop": 32}, {"samples": 6}, {"seed": 1}])
def test_another_method_of_other_settings_is_not_put_beside(run, change):
    """Before anything is restored, whatever is asked for."""
    only = lambda name, of: dataclasses.replace(  # noqa: E731
        of, benchmark=of.benchmark.model_copy(update={"methods": {name: of.benchmark.methods[name]}})
    )
    only("first-guess", run)()
    other = dataclasses.replace(run, benchmark=run.benchmark.model_copy(update=change))
    for replace in (False, True):
        with pytest.raises(OtherSettingsError, match="Results of one table must have the same"):
            dataclasses.replace(only("copies", other), replace=replace)()
    assert not list(run.folder.glob("bsd/*/*/copies.json"))
    assert dataclasses.replace(other, replace=True)().made == 12


def test_a_sensor_whose_file_has_changed_is_another(run, tmp_path):
    file = tmp_path / "own.yaml"
    text = "name: own\nradiometry: {bits: 12}\nbands:\n  pan:\n    pixel_size: 1.0\n"
    text += "    optics: {along: ALONG, across: 0.2}\n    noise: {sigma0: 2.0, gain: 0.0}\n"
    problem = Sensing(kind="sensor", label="own", sensor=str(file))
    own = run.benchmark.model_copy(update={"problems": {"own": problem}})
    run = dataclasses.replace(run, benchmark=own)
    file.write_text(text.replace("ALONG", "0.2"))
    assert run().made == 6
    assert run().kept == 6
    file.write_text(text.replace("ALONG", "0.4"))
    with pytest.raises(OtherSettingsError, match="operator: OpticalSensor"):
        run()


def test_a_folder_without_results_says_how_to_make_some(tmp_path):
    with pytest.raises(ValueError, match="pyro-vble benchmark bsd"):
        write_report(tmp_path)
