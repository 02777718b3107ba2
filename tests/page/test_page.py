"""What a page holds is what the files say."""

import json
import re

import numpy as np
import pytest
import rasterio
import torch
from page.folders import restoration
from scene.rasters import NORTH_UP, save

from pyro_vble.io.images import read_image, write_image
from pyro_vble.page import Content, Picture, content_of, write_page
from pyro_vble.page.reducing import MOST_PIXELS, block_of, reduced


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_numbers_are_those_of_the_files(tmp_path, dtype):
    white = 1.0 if dtype == np.float32 else 255.0 if dtype == np.uint8 else 4095.0
    folder = restoration(tmp_path / "out", dtype=dtype, white=white)
    content = content_of(folder)
    suffix = ".png" if dtype == np.uint8 else ".tif"
    restored = read_image(folder / f"restored{suffix}", scale=1.0).values[0].numpy()
    np.testing.assert_array_equal(content.value, restored)
    np.testing.assert_allclose(content.lower, 1.6 * content.std, rtol=1e-5)
    assert content.upper is content.lower
    assert [picture.name for picture in content.pictures] == ["Before", "Restored", "Sample 1", "Sample 2"]
    assert content.pictures[content.restored].name == "Restored"
    assert all(picture.alt for picture in content.pictures)


def test_a_page_asks_for_nothing(tmp_path):
    page = write_page(tmp_path / "page.html", content_of(restoration(tmp_path / "out"))).read_text()
    assert "default-src 'none'" in page
    addresses = re.findall(r"""(?:src|href|action)=["']([^"']*)|url\(([^)]*)\)|@import""", page)
    assert addresses
    assert all(address.startswith("data:image/") for address, _ in addresses)
    assert "{{" not in page
    assert page.count("<img ") == page.count(" alt=") == 4


def test_names_are_text_and_nothing_else(tmp_path):
    hostile = "</script><b>x.png"
    folder = restoration(tmp_path / "out", input=hostile, problem="</script><script>alert(1)</script>")
    page = write_page(tmp_path / "page.html", content_of(folder)).read_text()
    assert "<b>x.png" not in page
    assert "<script>alert" not in page


def test_an_image_that_has_moved_is_told_of_and_can_be_named(tmp_path):
    folder = restoration(tmp_path / "out")
    (tmp_path / "in.png").rename(tmp_path / "other.png")
    content = content_of(folder)
    assert content.pictures[0].name == "Restored"
    assert "--before" in content.notes[0]
    assert content_of(folder, tmp_path / "other.png").pictures[0].name == "Before"


def test_no_error_bars(tmp_path):
    content = content_of(restoration(tmp_path / "out", spread=False))
    assert content.std is None
    page = write_page(tmp_path / "page.html", content).read_text()
    assert json.loads(re.search(r'id="about">(.*?)</script>', page)[1])["bars"] is False


def test_bounds_of_an_interval_that_is_not_symmetric(tmp_path):
    folder = restoration(tmp_path / "out", dtype=np.uint16, white=1000.0)
    (folder / "error_quantile_90.tif").unlink()
    value = read_image(folder / "restored.tif", scale=1.0).values
    write_image(folder / "low.tif", value - 3, dtype=np.float32)
    write_image(folder / "high.tif", value + 7, dtype=np.float32)
    content = content_of(folder)
    np.testing.assert_allclose(content.lower, 3, atol=1e-3)
    np.testing.assert_allclose(content.upper, 7, atol=1e-3)


def test_masked_pixels_are_missing_before(tmp_path):
    observed = torch.ones(1, 1, 24, 40)
    observed[..., :5, :] = 0
    mask = write_image(tmp_path / "mask.png", observed)
    content = content_of(restoration(tmp_path / "out", mask=str(mask)))
    assert np.isnan(content.pictures[0].values[:, :5]).all()
    assert np.isfinite(content.pictures[0].values[:, 5:]).all()


def test_a_large_image_is_reduced_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("pyro_vble.page.reducing.MOST_PIXELS", 300)
    folder = restoration(tmp_path / "out")
    content = content_of(folder)
    assert content.block == 2
    assert content.value.shape == (3, 12, 20)
    assert content.size == (24, 40)
    assert "each pixel shown stands for 2 x 2" in content.notes[-1]
    whole = read_image(folder / "restored.png", scale=1.0).values[0].numpy()
    np.testing.assert_allclose(content.value[:, 3, 5], whole[:, 6:8, 10:12].mean((1, 2)), rtol=1e-5)


def test_reducing_leaves_no_more_than_is_held():
    for rows, columns, bands in ((1024, 1024, 3), (1025, 1024, 3), (1024, 1024, 8), (50, 400_000, 1)):
        block = block_of(rows, columns, bands)
        shown = (rows / block) * (columns / block) * max(bands, 3) / 3
        assert shown <= MOST_PIXELS
        assert block == 1 or rows * columns * max(bands, 3) / 3 / (block - 1) ** 2 > MOST_PIXELS
    values = np.array([[[1.0, np.nan, np.nan]]])
    np.testing.assert_array_equal(reduced(values, 2), [[[1.0, np.nan]]])


@pytest.mark.slow
def test_a_page_of_a_photograph_of_a_megapixel_is_small(tmp_path):
    """Texture and noise that no prior takes away, which pack worst."""
    folder = restoration(tmp_path / "out", shape=(3, 1024, 1024))
    generator = torch.Generator().manual_seed(0)
    noise = 0.01 * torch.randn(1, 3, 1024, 1024, generator=generator)
    std = 0.02 * (1 + 0.07 * torch.randn(1, 3, 1024, 1024, generator=generator))
    write_image(folder / "restored.png", 0.5 + noise)
    write_image(tmp_path / "in.png", 0.5 + 5 * noise)
    write_image(folder / "std.tif", std, dtype=np.float32, scale=255)
    write_image(folder / "error_quantile_90.tif", 1.6 * std.flip(-1), dtype=np.float32, scale=255)
    assert write_page(tmp_path / "page.html", content_of(folder)).stat().st_size < 10e6


@pytest.mark.parametrize("wrong", ["nothing", "no metrics", "damaged", "old", "no image"])
def test_what_is_no_restoration_is_refused(tmp_path, wrong):
    folder = restoration(tmp_path / "out")
    told = {"nothing": "No restoration", "no metrics": "metrics.json", "damaged": "damaged", "old": "before 0.2"}
    match wrong:
        case "nothing":
            folder = tmp_path / "none"
        case "no metrics":
            (folder / "metrics.json").unlink()
        case "damaged":
            (folder / "metrics.json").write_text("{")
        case "old":
            (folder / "metrics.json").write_text("{}")
        case "no image":
            (folder / "restored.png").unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=told.get(wrong, "holds no restoration")):
        content_of(folder)


@pytest.fixture
def scene(tmp_path):
    """A scene of four bands, enlarged twice, of a part of its source, with a hole; as pyro-vble scene leaves it."""
    rng = np.random.default_rng(0)
    source = rng.integers(100, 4000, (4, 30, 40)).astype(np.uint16)
    save(tmp_path / "source.tif", source, descriptions=None)
    value = source[:, 5:25, 10:40].repeat(2, 1).repeat(2, 2)
    value[:, :4, :6] = 0
    part = NORTH_UP @ rasterio.Affine.translation(10, 5) @ rasterio.Affine.scale(0.5)
    save(tmp_path / "out.tif", value, transform=part, nodata=0)
    for name, change in (("std", None), ("low", -20), ("high", 30)):
        floats = np.full(value.shape, 12.0) if change is None else value + float(change)
        values = np.where(value == 0, np.nan, floats).astype(np.float32)
        save(tmp_path / f"out_{name}.tif", values, transform=part, nodata=np.nan)
    properties = {
        "pyro_vble:source": {"name": str(tmp_path / "source.tif")},
        "pyro_vble:settings": {"probability": 0.8, "samples": 50},
        "pyro_vble:prior": {"name": "cae-aerial"},
    }
    (tmp_path / "out.json").write_text(json.dumps({"properties": properties}))
    return tmp_path / "out.tif", source, value


def test_a_scene(scene):
    path, _, value = scene
    content = content_of(path)
    assert content.probability == 0.8
    assert content.size == (40, 60)
    missing = value == 0
    np.testing.assert_array_equal(np.isnan(content.value), missing)
    np.testing.assert_array_equal(content.value[~missing], value[~missing])
    np.testing.assert_allclose(content.lower[~missing], 20)
    np.testing.assert_allclose(content.upper[~missing], 30)
    # The part of the source that was restored, as fine as it is, beside it on the same grey scale.
    before = content.pictures[0].values
    assert before.shape == (3, 20, 30)
    restored = content.pictures[content.restored].values
    known = before.repeat(2, 1).repeat(2, 2)[:, 4:, 6:]
    np.testing.assert_allclose(known, restored[:, 4:, 6:], rtol=1e-4)
    assert ("Prior", "cae-aerial") in [(figure.name, figure.value) for figure in content.figures]


def test_a_scene_by_its_overviews(scene, monkeypatch):
    path, _, value = scene
    monkeypatch.setattr("pyro_vble.page.reducing.MOST_PIXELS", 60 * 40 * 4 / 3 / 4)
    content = content_of(path)
    assert content.block == 2
    expected = value[:, 4:, 6:].astype(float).reshape(4, 18, 2, 27, 2).mean((2, 4))
    np.testing.assert_allclose(content.value[:, 2:, 3:], expected, atol=0.51)


def test_what_is_no_scene_is_refused(tmp_path):
    (tmp_path / "x.tif").write_text("no raster")
    with pytest.raises(ValueError, match="pyro-vble scene wrote"):
        content_of(tmp_path / "x.tif")


def test_a_title_that_is_no_text_is_shown_as_far_as_it_is(tmp_path):
    """Names of files need not be UTF-8."""
    values = np.full((1, 8, 8), 4.0)
    content = Content(
        "caf\udce9", "", (Picture("a", "b", values / 255),), 0, values, None, None, None, ("grey",), (8, 8)
    )
    assert "<title>caf?</title>" in write_page(tmp_path / "page.html", content).read_text(encoding="utf-8")


def test_before_is_the_part_and_the_bands_that_were_restored(tmp_path):
    """Of a file without a place on the ground and without names of its bands, as the manifest says."""
    values = np.random.default_rng(0).integers(1, 255, (4, 64, 80)).astype(np.uint8)
    source = save(tmp_path / "in.tif", values, crs=None, transform=None)
    part = np.ascontiguousarray(values[[3, 1, 2], 16:48, 8:56])
    restored = save(tmp_path / "out.tif", part, crs=None, transform=None)
    told = {"name": str(source), "fingerprint": "", "window": [8, 16, 48, 32], "bands": [4, 2, 3]}
    (tmp_path / "out.json").write_text(json.dumps({"properties": {"pyro_vble:source": told}}))
    before, after = content_of(restored).pictures[:2]
    assert (before.name, after.name) == ("Before", "Restored")
    np.testing.assert_allclose(before.values, after.values, atol=1e-6)


@pytest.mark.parametrize("wrong", [{"window": [1, 2, 3]}, {"window": "x"}, {"bands": [1.5]}, {"bands": [9]}, {}])
def test_a_manifest_that_says_something_else_is_not_believed(tmp_path, wrong):
    values = np.random.default_rng(0).integers(1, 255, (1, 64, 80)).astype(np.uint8)
    source, restored = (save(tmp_path / name, values) for name in ("in.tif", "out.tif"))
    told = {"name": str(source), **wrong}
    (tmp_path / "out.json").write_text(json.dumps({"properties": {"pyro_vble:source": told}}))
    before, after = content_of(restored).pictures[:2]
    np.testing.assert_allclose(before.values, after.values, atol=1e-6)
