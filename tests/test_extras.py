"""What the core can do alone, and what is said where it cannot."""

import ast
import configparser
import importlib.metadata
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

ROOT = Path(__file__).parents[1]
# What the extras bring and the core does not need, by the name that is imported. pandas is xarray's as well.
OPTIONAL = ("arviz", "crepes", "dask", "distributed", "huggingface_hub", "pystac", "pytorch_optimizer", "rasterio",
            "rioxarray", "scoringrules", "sklearn", "tensorboard", "yaml", "zarr")  # fmt: skip
ABSENT = f"""
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in {OPTIONAL!r} else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = map(Without, sys.meta_path)
"""


def with_the_core_alone(code: str, folder: Path) -> str:
    command = [sys.executable, "-c", ABSENT + code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def requirements() -> dict[str, set[str]]:
    """Names of the distributions that each extra asks for; the core's under ""."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    texts = dict(settings["options.extras_require"]) | {"": settings["options"]["install_requires"]}
    return {extra: {_distribution(line) for line in text.split("\n") if line} for extra, text in texts.items()}


def _distribution(text: str) -> str:
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", text)[0]).lower()


def imports(node: ast.AST, extra: str = "") -> Iterator[tuple[str, str]]:
    """Packages that code imports, each with the extra in whose scope it does."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        if isinstance(child, ast.Import):
            yield from ((alias.name.split(".")[0], extra) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield child.module.split(".")[0], extra
        elif isinstance(child, ast.With):
            yield from imports(child, next(filter(None, map(_extra_of, child.items)), extra))
        else:
            yield from imports(child, extra)


def _extra_of(item: ast.withitem) -> str:
    called = ast.unparse(item.context_expr)
    if called == "quiet_arviz()":
        return "diagnostics"
    return called.removeprefix("extra('").removesuffix("')") if called.startswith("extra('") else ""


def test_all_that_is_imported_is_asked_for():
    """By the core, or by the extra in whose scope it is imported."""
    asked, homes = requirements(), importlib.metadata.packages_distributions()
    ours = {"pyro_vble", "pydantic_core", *sys.stdlib_module_names}
    used = {}
    for folder in ("pyro_vble", "models", "guides"):
        for path in (ROOT / folder).rglob("*.py"):
            for package, extra in imports(ast.parse(path.read_text())):
                if package not in ours:
                    found = {_distribution(name) for name in homes.get(package, [package])}
                    assert found & (asked[""] | asked[extra]), f"{path}: {package}, extra {extra!r}"
                    used.setdefault("" if found & asked[""] else extra, set()).update(found)
    # Asked for without being imported: h5py is h5netcdf's, scikit-learn crepes', and neither says so.
    assert asked[""] <= used[""] | {"h5netcdf", "h5py"}
    for extra in ("rasters", "hub", "training"):
        assert asked[extra] <= used[extra]
    assert asked["diagnostics"] <= used["diagnostics"] | {"scikit-learn"}


def test_all_and_test_have_every_extra():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    extras = settings["options.extras_require"]
    parts = ("diagnostics", "rasters", "zarr", "hub", "training", "tensorboard", "geo")
    for name in parts:
        assert set(extras[name].split()) <= set(extras["all"].split()) <= set(extras["test"].split())
    assert set(extras["notebooks"].split()) <= set(extras["test"].split())


@pytest.mark.slow
def test_the_core_restores_photographs(tmp_path):
    """PNG, JPEG, and a TIFF without georeference; and the demo."""
    photograph = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    for name in ("a.png", "b.jpg"):
        Image.fromarray(photograph).save(tmp_path / name)
    holes = photograph.astype(np.float32) / 255
    holes[3:9, 4:10] = np.nan
    tifffile.imwrite(tmp_path / "c.tif", holes, photometric="rgb")
    code = """
from typer.testing import CliRunner
from pyro_vble.cli.app import app

quick = ["--steps", "2", "--samples", "3"]
for name in ("a.png", "b.jpg", "c.tif"):
    arguments = ["restore", name, "--output", name + "-out", "--problem", "denoise", *quick]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
result = CliRunner().invoke(app, ["demo", "--size", "64", *quick], catch_exceptions=False)
assert result.exit_code == 0, result.output
for command in ("restore", "demo", "train", "calibrate", "models"):
    assert CliRunner().invoke(app, [command, "--help"]).exit_code == 0
"""
    with_the_core_alone(code, tmp_path)
    for name in ("a.png", "b.jpg", "c.tif"):
        written = {path.name for path in (tmp_path / f"{name}-out").iterdir()}
        assert {"std.tif", "figure.png", "fit.pvble", "posterior.nc", "metrics.json"} <= written
    assert (tmp_path / "pyro-vble-demo" / "posterior.nc").exists()

    import arviz as az

    idata = az.from_netcdf(str(tmp_path / "pyro-vble-demo" / "posterior.nc"))
    assert idata.posterior["image"].shape == (1, 3, 1, 3, 64, 64)
    assert idata.attrs["guide"] == "VBLExz"


CALLS = {
    "arviz": ("diagnostics", "posterior.to_arviz(3)"),
    "arviz, summary": ("diagnostics", "d.summary(None)"),
    "arviz, comparison": ("diagnostics", "pv.compare_guides(y, physics, prior, [VBLE])"),
    "arviz, psis": ("diagnostics", "d.importance_sampling(posterior, 30)"),
    "scoringrules": ("diagnostics", "d.crps(y.expand(3, 1, 3, 64, 64), y)"),
    "crepes": ("diagnostics", "d.Calibration.load('calibration.json')"),
    "crepes, learning": ("diagnostics", "d.Calibration.fit([posterior], [y])"),
    "rasterio": ("rasters", "read_image('raster.tif')"),
    "zarr": ("zarr", "posterior.to_zarr('x.zarr', 3)"),
    "zarr, reading": ("zarr", "pv.open_zarr('.')"),
    "huggingface_hub": ("hub", "pv.load_prior('owner/repository/a.pth')"),
    "yaml": ("training", "load_recipe('vae-mnist')"),
    "yaml, sensors": ("geo", "load_sensor('pleiades-like')"),
    "yaml, training": ("training", "train('vae-mnist', '.', 'out')"),
    "pytorch_optimizer": ("training", "optimiser_of(Schedule(optimiser='soap', steps=1, lr=1.0), [])"),
    "tensorboard": ("tensorboard", "TrainingLog(Path('.'), [], True)"),
}


@pytest.mark.slow
def test_what_is_missing_is_named_with_what_installs_it(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    raster = {"driver": "GTiff", "count": 1, "height": 4, "width": 4, "dtype": "uint8", "crs": "EPSG:32631"}
    with rasterio.open(tmp_path / "raster.tif", "w", transform=rasterio.Affine(2, 0, 9, 0, -2, 9), **raster) as file:
        file.write(np.ones((1, 4, 4), np.uint8))
    (tmp_path / "calibration.json").write_text("{}")
    code = f"""
import json
from pathlib import Path
import deepinv, torch
import pyro_vble as pv
from pyro_vble import diagnostics as d
from pyro_vble.guides import VBLE
from pyro_vble.io.images import read_image
from pyro_vble.sensors import load_sensor
from pyro_vble.training import load_recipe, train
from pyro_vble.training.log import TrainingLog
from pyro_vble.training.optimisers import optimiser_of
from pyro_vble.training.recipes import Schedule

y, prior = torch.rand(1, 3, 64, 64), pv.load_prior("cae-bsd")
physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))
posterior = pv.restore(y, physics, prior, num_steps=1, seed=0, progress=False)
said = {{}}
for name, (_, call) in {CALLS!r}.items():
    try:
        eval(call)
    except ImportError as error:
        said[name] = str(error)
print(json.dumps(said))
"""
    said = json.loads(with_the_core_alone(code, tmp_path))
    assert said == {
        name: f'This needs the extra "{extra}"; the package {name.split(",")[0]} is missing; install it with '
        f'pip install "pyro-vble[{extra}]".'
        for name, (extra, _) in CALLS.items()
    }
