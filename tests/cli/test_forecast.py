"""The forecast of time and memory."""

import math

import pytest
import torch

import pyro_vble as pv
from pyro_vble import _forecast as module
from pyro_vble._forecast import Forecast, forecast
from pyro_vble.cli.fit import Fit
from pyro_vble.cli.problems import PROBLEMS
from pyro_vble.cli.tiled import Tiles
from pyro_vble.guides import VBLE

CPU = torch.device("cpu")


def test_memory_and_time_grow_with_pixels_and_samples(monkeypatch):
    monkeypatch.setattr(module, "_SIDES", (64, 128))
    prior = pv.load_prior("cae-bsd")
    of = lambda side, samples: forecast((3, side, side), prior, VBLE, steps=60, samples=samples, device=CPU)  # noqa: E731
    small, large, many = of(512, 16), of(1024, 16), of(1024, 100)
    assert large.needed == pytest.approx(4 * small.needed, rel=0.05)
    assert many.needed > large.needed
    assert many.seconds > 0
    # Within a factor of two of 1.5 GB that a fit of a megapixel was measured to take.
    assert 0.7e9 < large.needed < 3e9


def test_what_surely_does_not_fit_is_said():
    assert Forecast(1.0, 10.0, None).fits
    assert Forecast(1.0, 10e9, int(9e9)).fits
    assert not Forecast(1.0, 10e9, int(5e9)).fits
    assert str(Forecast(130.0, 2.04e9, None)) == "about 2 min and 2.0 GB of memory"
    assert str(Forecast(math.nan, 2.04e9, None)) == "2.0 GB of memory"


@pytest.fixture
def too_large(tmp_path, monkeypatch):
    """The function (options) -> what `restore` does to an image that no memory holds."""
    from typer.testing import CliRunner

    from pyro_vble.cli.app import app
    from pyro_vble.io.images import write_image

    write_image(tmp_path / "x.png", torch.rand(1, 3, 150, 200))
    monkeypatch.setattr("pyro_vble.cli.forecast._QUICK", 0)
    monkeypatch.setattr("pyro_vble.cli.forecast.forecast", lambda *_, **__: Forecast(60.0, 9e12, int(8e9)))
    monkeypatch.setattr("pyro_vble.restore", lambda *_, **__: pytest.fail("the fit has begun"))

    def run(*options):
        where = [str(tmp_path / "x.png"), "--output", str(tmp_path / "out")]
        return CliRunner().invoke(app, ["restore", *where, "--problem", "denoise", "--noise", "0.05", *options])

    return run


def test_an_image_beyond_memory_that_needs_one_piece_is_refused_before_the_fit(too_large):
    result = too_large("--symmetries", "flip")
    assert isinstance(result.exception, MemoryError)
    assert "cut the image into smaller ones, or --samples 20, or --device cuda" in str(result.exception)


def test_an_image_beyond_memory_is_restored_in_tiles(too_large, tmp_path, monkeypatch):
    from functools import partial

    import pyro_vble as pv
    from pyro_vble.io.images import read_image

    alone = partial(pv.restore_scene, workers=0)
    monkeypatch.setattr("pyro_vble.restore_scene", alone, raising=False)
    result = too_large("--steps", "2", "--samples", "2")
    assert result.exit_code == 0, result.output
    assert "200x150 pixels are more than memory holds: they are restored in tiles of 512x512" in result.output
    folder = tmp_path / "out"
    assert read_image(folder / "restored.png").values.shape == (1, 3, 150, 200)
    low, std, high = (read_image(folder / f"{name}.tif").values for name in ("low", "std", "high"))
    assert bool((low <= high).all())
    assert bool((std > 0).all())
    # In the numbers of the file, as the image is.
    drawn = torch.from_numpy(pv.open_scene(folder / "fit.scene").result("std")(slice(0, 150), slice(0, 200)))
    torch.testing.assert_close(read_image(folder / "std.tif", scale=255).values[0], drawn)
    restored = read_image(folder / "restored.png", scale=1.0).values
    assert bool(((read_image(folder / "low.tif", scale=1.0).values - 0.5) <= restored).all())
    assert (folder / "error_bars.png").is_file()
    assert pv.open_scene(folder / "fit.scene").draw(3).shape == (3, 150, 200)
    # What is there is not done again.
    again = too_large("--steps", "2", "--samples", "2")
    assert again.exit_code == 0, again.output
    other = too_large("--steps", "3", "--samples", "2")
    assert isinstance(other.exception, ValueError)
    assert "options" in str(other.exception)


def test_what_needs_one_piece_is_not_taken_in_tiles(too_large):
    result = too_large("--tile", "128", "--linearised")
    assert isinstance(result.exception, ValueError)
    assert "--linearised needs the image in one piece" in str(result.exception)


@pytest.mark.parametrize(("factor", "side"), [(2, 512), (3, 576)])
def test_tiles_are_as_large_as_the_ratio_of_pixels_allows(factor, side):
    """Latents of neighbours lie on one grid, and so do measured pixels: a tile is a multiple of both."""
    problem = PROBLEMS["super-resolve"].having(factor=factor)
    grid = Tiles(problem, Fit(), 0.01).grid((3, 2000 * factor, 1500 * factor), pv.load_prior("cae-bsd"))
    assert grid.cell == side


def test_what_autograd_keeps_is_counted_while_it_is_kept():
    """Twice the same work, one after the other, keeps as much at one time as once: wherever tensors lie."""
    most = []
    for times in (1, 2, 5):
        kept = module._Kept()
        with torch.autograd.graph.saved_tensors_hooks(kept.keep, lambda held: held.value):
            for _ in range(times):
                x = torch.ones(1000, requires_grad=True)
                (x.exp() * x.sin()).sum().backward()
        most.append(kept.most)
    assert most[0] == most[1] == most[2]
    assert 12_000 <= most[0] <= 20_000  # x, exp(x), sin(x), and what the product keeps of them
