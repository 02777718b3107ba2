"""The package as it is installed: layout, import cost, examples."""

import configparser
import doctest
import importlib
import os
import pkgutil
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

import pyro_vble
from tools import import_graph

ROOT = Path(__file__).parents[1]


def modules() -> list[str]:
    packages = [pyro_vble, importlib.import_module("pyro_vble.models"), importlib.import_module("pyro_vble.guides")]
    found = {"pyro_vble"}
    for package in packages:
        found |= {m.name for m in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")}
        found.add(package.__name__)
    return sorted(found)


@pytest.mark.parametrize("name", modules())
def test_examples_run(name):
    """Under the names that users import; pytest's own collection would import models/ and guides/ once more by path."""
    module = importlib.import_module(name)
    outcome = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert outcome.failed == 0


def test_public_classes_and_functions_have_examples():
    for name in ("VBLE", "VBLExz", "MAPz"):
        assert ">>>" in getattr(importlib.import_module("pyro_vble.guides"), name).__doc__
    for name in ("CAE", "VAE", "RestorationModel"):
        assert ">>>" in getattr(importlib.import_module("pyro_vble.models"), name).__doc__
    for name in ("restore", "fit", "load_prior", "load_posterior", "available_priors"):
        assert ">>>" in getattr(pyro_vble, name).__doc__


def test_ci_runs_the_readmes_two_commands():
    readme = (ROOT / "README.md").read_text()
    commands = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line.startswith("python3 -m pip")]
    blocks = [block.split("```")[0].strip() for block in readme.split("```sh\n")[1:3]]
    assert blocks == commands[:2]


def test_import_is_light():
    """Nothing heavy is imported until it is used; what a command line needs to print its help is not either."""
    heavy = ("torch", "pyro", "deepinv", "compressai", "arviz", "matplotlib")
    code = f"import sys, pyro_vble, pyro_vble.cli.options; print([m for m in {heavy!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_imports_run_down_and_never_in_a_circle():
    """Rows and their order are in tools/import_graph.py; the library imports neither benchmarks nor tools."""
    assert import_graph.back_arrows() == []
    assert import_graph.circles() == []
    outside = {
        name: other
        for name, path in import_graph.modules().items()
        for other in ("benchmarks", "tools", "tests")
        if re.search(rf"^\s*(from|import) {other}\b", path.read_text(), re.MULTILINE)
    }
    assert outside == {}


def test_an_arrow_back_would_be_seen(monkeypatch):
    rows = tuple(reversed(import_graph.ROWS))
    monkeypatch.setattr(import_graph, "ROWS", rows)
    assert ("pyro_vble.restoration", "pyro_vble.samples") in import_graph.back_arrows()


def test_nothing_imports_another_packages_private_module():
    """``pyro_vble._x`` is everybody's within the library; ``pyro_vble.package._x`` is that package's own."""
    wrong, known = [], import_graph.modules()
    for name, path in known.items():
        for other in import_graph.imports(path, known):
            package, _, last = other.rpartition(".")
            if last.startswith("_") and package != "pyro_vble" and not name.startswith(f"{package}."):
                wrong.append((name, other))
    assert wrong == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("pyro_vble.posterior:Posterior", "pyro_vble.samples:Posterior"),
        ("pyro_vble.ensemble:EnsemblePosterior", "pyro_vble.samples:Mixture"),
        ("pyro_vble.inference:fit", "pyro_vble:fit"),
        ("pyro_vble.io.posteriors:load_posterior", "pyro_vble:load_posterior"),
    ],
)
def test_old_names_work_and_warn(old, new):
    (module, name), (home, other) = old.split(":"), new.split(":")
    with pytest.warns(DeprecationWarning, match=rf"{name} has moved to .*; the old name goes in 0\.3"):
        found = getattr(importlib.import_module(module), name)
    assert found is getattr(importlib.import_module(home), other)


def test_only_one_module_imports_compressai():
    importing = [
        str(path.relative_to(ROOT))
        for folder in ("models", "guides", "pyro_vble")
        for path in (ROOT / folder).rglob("*.py")
        if any(
            line.strip().startswith(("import compressai", "from compressai")) for line in path.read_text().splitlines()
        )
    ]
    assert importing == ["models/networks.py"]


def test_every_folder_of_code_is_a_package_of_the_wheel():
    """And every file that is no code is among the package's data."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    homes = {"models": "pyro_vble.models", "guides": "pyro_vble.guides"}
    data = {name: globs.split(", ") for name, globs in settings["options.package_data"].items()}
    found = set()
    for top in ("pyro_vble", *homes):
        for path in (path for path in (ROOT / top).rglob("*") if path.is_file() and "__pycache__" not in path.parts):
            folder = ".".join(path.parent.relative_to(ROOT).parts)
            name = homes.get(folder, folder)
            found.add(name)
            assert path.suffix == ".py" or any(path.match(glob) for glob in data.get(name, ())), path
    assert found == set(settings["options"]["packages"].split())


@pytest.mark.slow
def test_the_wheel_holds_all_three_packages(tmp_path):
    """Built, installed into a fresh environment and imported from outside the checkout."""
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path / "dist", ROOT],
        check=True,
        capture_output=True,
        cwd=tmp_path,
    )
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    assert wheel.stat().st_size < 60e6
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", wheel], check=True, cwd=tmp_path)
    # The dependencies are those of this environment: a second copy would be 5 GB. A path in a .pth file does not
    # process that folder's own .pth files, so an editable install there stays invisible.
    site = next((tmp_path / "venv" / "lib").glob("python*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    code = (
        "import pyro_vble, pyro_vble.models, pyro_vble.guides\n"
        "for m in (pyro_vble, pyro_vble.models, pyro_vble.guides): print(m.__file__)\n"
        "print(pyro_vble.load_prior('cae-bsd').alpha)"
    )
    # Nor does a path to the checkout in the environment count.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    out = subprocess.run(
        [python, "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path, env=environment
    ).stdout.split()
    assert all(str(site) in path for path in out[:3]), out
    assert out[3] == "0.025"
