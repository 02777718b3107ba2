"""What is written of a scene: a valid Cloud-Optimised GeoTIFF that says all its input said, whole or not at all."""

import json
import math
import shutil
import subprocess
import sys

import numpy as np
import pytest
import rasterio
import rioxarray
from rasterio.control import GroundControlPoint
from rio_cogeo.cogeo import cog_validate
from scene.rasters import NORTH_UP, TURNED, save, values_of, whole
from scene.test_sources import RPCS

from pyro_vble.scene.sources import SourceError, open_source
from pyro_vble.scene.writing import WINDOW, write_cog

pytestmark = [
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
    pytest.mark.filterwarnings("ignore:Offsets differ across bands"),
    pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning"),
]


def of(values):
    """The reader of an array."""
    return lambda rows, columns: values[:, rows, columns]


def copied(path, to, **options):
    """A file written from what is read of another."""
    source = open_source(path)
    options = {"nodata": source.nodata, **options}
    return write_cog(to, source.read, source.shape, source.raster, source.dtype, **options)


def check_valid(path):
    valid, errors, warned = cog_validate(path, strict=True)
    assert valid
    assert not errors
    assert not warned


def is_same_number(a, b):
    return a == b or (a is not None and b is not None and math.isnan(a) and math.isnan(b))


# --- what a file says ---


def everything(path, transform=NORTH_UP, dtype="uint16"):
    values = values_of(dtype, (4, 600, 700))
    values[:, 100:150, 200:280] = 9
    save(path, values, transform=transform, nodata=9)
    with rasterio.open(path, "r+") as file:
        file.descriptions = ["blue", "green", "red", "nir"]
        file.scales, file.offsets = [1e-4] * 4, [-0.1, -0.2, -0.3, -0.4]
        file.units = ["reflectance"] * 4
        file.update_tags(MISSION="a", TIFFTAG_DATETIME="2024:05:06 07:08:09")
        file.update_tags(2, WAVELENGTH="560")
    return values


@pytest.mark.parametrize("transform", [NORTH_UP, TURNED])
def test_all_that_was_said_is_kept(tmp_path, transform):
    values = everything(tmp_path / "x.tif", transform)
    check_valid(copied(tmp_path / "x.tif", tmp_path / "y.tif"))
    with rasterio.open(tmp_path / "x.tif") as before, rasterio.open(tmp_path / "y.tif") as after:
        for what in ("crs", "nodata", "dtypes", "descriptions", "scales", "offsets", "units", "colorinterp", "shape"):
            assert getattr(after, what) == getattr(before, what), what
        assert after.transform.almost_equals(before.transform)
        assert after.tags()["MISSION"] == "a"
        assert after.tags()["TIFFTAG_DATETIME"] == "2024:05:06 07:08:09"
        assert after.tags(2)["WAVELENGTH"] == "560"
        assert np.array_equal(after.read(), values)
        assert after.overviews(1) == [2]
        assert after.compression.name == "deflate"
        assert after.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    array = rioxarray.open_rasterio(tmp_path / "y.tif")
    assert np.array_equal(array.values, values)
    assert array.rio.nodata == 9


@pytest.mark.parametrize("transform", [NORTH_UP, TURNED])
def test_an_enlarged_scene_lies_over_the_same_ground(tmp_path, transform):
    everything(tmp_path / "x.tif", transform)
    source = open_source(tmp_path / "x.tif")
    double = whole(source).repeat(2, 1).repeat(2, 2)
    check_valid(write_cog(tmp_path / "y.tif", of(double), double.shape, source.raster, source.dtype))
    with rasterio.open(tmp_path / "x.tif") as before, rasterio.open(tmp_path / "y.tif") as after:
        assert after.shape == (1200, 1400)
        for column, row in ((0, 0), (700, 0), (0, 600), (700, 600), (350, 300)):
            there = before.transform * (column, row)
            assert after.transform * (2 * column, 2 * row) == pytest.approx(there, rel=0, abs=1e-9)
        assert after.descriptions == before.descriptions
        assert after.nodata == 9


def test_pixels_that_are_points_stay_where_they_are(tmp_path):
    save(tmp_path / "x.tif", values_of("uint8"))
    with rasterio.open(tmp_path / "x.tif", "r+") as file:
        file.update_tags(AREA_OR_POINT="Point")
    source = open_source(tmp_path / "x.tif")
    double = whole(source).repeat(2, 1).repeat(2, 2)
    write_cog(tmp_path / "y.tif", of(double), double.shape, source.raster, "uint8")
    with rasterio.open(tmp_path / "x.tif") as before, rasterio.open(tmp_path / "y.tif") as after:
        assert after.tags()["AREA_OR_POINT"] == "Point"
        assert after.bounds == pytest.approx(before.bounds, rel=0, abs=1e-9)


@pytest.mark.skipif(shutil.which("gdalinfo") is None, reason="there is no gdalinfo")
def test_gdalinfo_reads_it(tmp_path):
    everything(tmp_path / "x.tif")
    path = copied(tmp_path / "x.tif", tmp_path / "y.tif")
    told = json.loads(subprocess.run(["gdalinfo", "-json", path], capture_output=True, check=True).stdout)
    assert told["size"] == [700, 600]
    assert [band["noDataValue"] for band in told["bands"]] == [9] * 4
    assert told["metadata"]["IMAGE_STRUCTURE"]["LAYOUT"] == "COG"


def test_points_and_polynomials_are_kept_and_scaled(tmp_path):
    points = [GroundControlPoint(r, c, c * 2.0, r * -2.0, 0.0) for r, c in ((0, 0), (0, 50), (40, 0), (40, 50))]
    path = tmp_path / "x.tif"
    with rasterio.open(path, "w", driver="GTiff", count=1, height=40, width=50, dtype="uint8", rpcs=RPCS) as file:
        file.write(values_of("uint8"))
        file.gcps = points, rasterio.CRS.from_epsg(4326)
    source = open_source(path)
    double = whole(source).repeat(2, 1).repeat(2, 2)
    write_cog(tmp_path / "y.tif", of(double), double.shape, source.raster, source.dtype)
    with rasterio.open(tmp_path / "y.tif") as file:
        assert [(p.row, p.col, p.x, p.y) for p in file.gcps[0]] == [(2 * p.row, 2 * p.col, p.x, p.y) for p in points]
        assert file.gcps[1].to_epsg() == 4326
        assert file.rpcs.line_off == pytest.approx(2 * (RPCS.line_off + 0.5) - 0.5)
        assert file.rpcs.samp_scale == 2 * RPCS.samp_scale


@pytest.mark.parametrize(
    "name", ["RGB.byte", "RGBA.uint16", "cogeo", "float_nan", "float_raster_with_nodata", "ms1", "pan1", "rotated",
             "sample_geotiff", "sample_geotiff_custom_proj"],
)  # fmt: skip
def test_real_rasters(shared_data, tmp_path, name):
    path = shared_data / "geotiff" / f"{name}.tif"
    check_valid(copied(path, tmp_path / "y.tif"))
    source, result = open_source(path), open_source(tmp_path / "y.tif")
    assert np.array_equal(whole(result), whole(source), equal_nan=True)
    with rasterio.open(path) as before, rasterio.open(tmp_path / "y.tif") as after:
        bands = len(source.raster.colours)
        assert (after.crs, after.dtypes) == (before.crs, before.dtypes[:bands])
        assert after.transform.almost_equals(before.transform)
        assert after.colorinterp == before.colorinterp[:bands]
        assert is_same_number(after.nodata, before.nodata)


def test_real_polynomials(shared_data, tmp_path):
    path = shared_data / "pleiades_pan" / "img_01.tif"
    check_valid(copied(path, tmp_path / "y.tif"))
    with rasterio.open(path) as before, rasterio.open(tmp_path / "y.tif") as after:
        assert after.rpcs.to_gdal() == before.rpcs.to_gdal()
        assert np.array_equal(after.read(), before.read())


def test_error_bars_have_no_offset(tmp_path):
    everything(tmp_path / "x.tif")
    source = open_source(tmp_path / "x.tif")
    write_cog(tmp_path / "y.tif", source.read, source.shape, source.raster.of_widths(), np.float32)
    with rasterio.open(tmp_path / "y.tif") as file:
        assert file.scales == (1e-4,) * 4
        assert file.offsets == (0.0,) * 4


def test_a_scene_without_georeference(tmp_path):
    values = values_of("uint8", (3, 40, 50))
    check_valid(write_cog(tmp_path / "y.tif", of(values), values.shape, None, np.uint8))
    with rasterio.open(tmp_path / "y.tif") as file:
        assert np.array_equal(file.read(), values)
        assert [colour.name for colour in file.colorinterp] == ["red", "green", "blue"]
        assert file.crs is None


# --- missing pixels and types ---


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "float32", "float64"])
def test_nan_becomes_nodata_and_no_other_pixel_does(tmp_path, dtype):
    values = np.linspace(90, 110, 2 * 300 * 300).reshape(2, 300, 300)
    values[:, 40:80, 50:60] = np.nan
    write_cog(tmp_path / "y.tif", of(values), values.shape, None, dtype, nodata=100)
    with rasterio.open(tmp_path / "y.tif") as file:
        assert file.nodata == 100
        written = file.read()
        assert np.array_equal(written == 100, np.isnan(values))
        there = ~np.isnan(values)
        error = np.abs(written[there].astype(float) - values[there]).max()
        assert error <= {"float64": 1e-13, "float32": 1e-5}.get(dtype, 1.5)  # half a step of rounding, and one


@pytest.mark.parametrize("nodata", [None, -9999, 0.5])
@pytest.mark.parametrize("hole", [(3, 9, 4, 10), (1100, 1200, 1090, 1110), None])
def test_integers_without_a_value_for_it_get_a_mask(tmp_path, nodata, hole):
    values = values_of("float32", (2, 1300, 1200))
    if hole is not None:
        top, bottom, left, right = hole
        values[1, top:bottom, left:right] = np.nan
    check_valid(write_cog(tmp_path / "y.tif", of(values), values.shape, None, np.uint8, nodata=nodata))
    with rasterio.open(tmp_path / "y.tif") as file:
        assert file.nodata is None
        flags = {flag.name for flag in file.mask_flag_enums[0]}
        assert flags == ({"all_valid"} if hole is None else {"per_dataset"})
        assert np.array_equal(file.dataset_mask() == 0, np.isnan(values[1]))
        assert file.read(2)[np.isnan(values[1])].sum() == 0
    assert {entry.name for entry in tmp_path.iterdir()} == {"y.tif"}


def test_floats_without_a_value_for_it_stay_nan(tmp_path):
    values = values_of("float32", (1, 300, 300))
    write_cog(tmp_path / "whole.tif", of(values), values.shape, None, np.float32)
    values[0, 5:9] = np.nan
    write_cog(tmp_path / "holes.tif", of(values), values.shape, None, np.float16)
    with rasterio.open(tmp_path / "whole.tif") as file:
        assert file.nodata is None
    with rasterio.open(tmp_path / "holes.tif") as file:
        assert math.isnan(file.nodata)
        assert file.dtypes == ("float32",)
        assert np.array_equal(file.read(), values, equal_nan=True)


def test_integers_are_rounded_and_clipped(tmp_path):
    values = np.array([[[-5.0, 0.4, 0.6, 254.4, 254.6, 300.0]]])
    write_cog(tmp_path / "y.tif", of(values), values.shape, None, np.uint8)
    write_cog(tmp_path / "z.tif", of(values), values.shape, None, np.uint8, nodata=0)
    with rasterio.open(tmp_path / "y.tif") as file:
        assert file.read().ravel().tolist() == [0, 0, 1, 254, 255, 255]
    with rasterio.open(tmp_path / "z.tif") as file:
        assert file.read().ravel().tolist() == [1, 1, 1, 254, 255, 255]


@pytest.mark.parametrize(("dtype", "nodata"), [("uint8", 0), ("uint8", None), ("float32", -9999.0), ("float32", None)])
def test_overviews_are_averages_of_what_is_there(tmp_path, dtype, nodata):
    values = np.full((1, 1024, 1024), 50.0)
    values[:, ::2] = 100.0
    values[:, 301:600, 301:600] = np.nan
    check_valid(write_cog(tmp_path / "y.tif", of(values), values.shape, None, dtype, nodata=nodata))
    with rasterio.open(tmp_path / "y.tif", overview_level=0) as file:
        small = np.ma.filled(file.read(1, masked=True).astype(float), np.nan)
    four = np.moveaxis(values[0].reshape(512, 2, 512, 2), 2, 1).reshape(512, 512, 4)
    empty = np.isnan(four).all(-1)
    assert np.array_equal(np.isnan(small), empty)
    assert np.allclose(small[~empty], np.nanmean(four[~empty], -1), atol=0.5 if dtype == "uint8" else 1e-4)


def test_without_overviews(tmp_path):
    values = values_of("uint8", (1, 600, 600))
    write_cog(tmp_path / "y.tif", of(values), values.shape, None, "uint8", overviews=False, compress="zstd", block=256)
    with rasterio.open(tmp_path / "y.tif") as file:
        assert file.overviews(1) == []
        assert file.compression.name == "zstd"
        assert file.block_shapes == [(256, 256)]


# --- writing ---


def test_a_scene_is_the_same_file_every_time(tmp_path):
    values = values_of("float32", (2, 1300, 1200))
    values[0, 5:9] = np.nan
    files = [
        write_cog(tmp_path / f"{n}.tif", of(values), values.shape, None, "uint16", threads=n).read_bytes()
        for n in (1, 1, 4)
    ]
    assert files[0] == files[1] == files[2]


def test_windows_are_asked_for_once(tmp_path):
    values, asked = values_of("uint8", (1, 1300, 2100)), np.zeros((1300, 2100), int)

    def read(rows, columns):
        asked[rows, columns] += 1
        assert max(rows.stop - rows.start, columns.stop - columns.start) <= WINDOW
        return values[:, rows, columns]

    write_cog(tmp_path / "y.tif", read, values.shape, None, "uint8")
    assert (asked == 1).all()


def test_what_fails_leaves_nothing(tmp_path):
    values = values_of("uint8", (1, 1300, 1300))
    (tmp_path / "y.tif").write_text("older")

    def breaks(rows, columns):
        if rows.start:
            raise SourceError("x.tif cannot be read at rows 1024 to 1300")
        return values[:, rows, columns]

    with pytest.raises(SourceError, match=r"x\.tif cannot be read"):
        write_cog(tmp_path / "y.tif", breaks, values.shape, None, "uint8")
    with pytest.raises(ValueError, match=r"\(1, 1024, 1024\) at rows 0 to 1024"):
        write_cog(tmp_path / "y.tif", lambda rows, columns: values, values.shape, None, "uint8")
    with pytest.raises(ValueError, match="multiple of 16"):
        write_cog(tmp_path / "y.tif", of(values), values.shape, None, "uint8", block=100)
    assert [entry.name for entry in tmp_path.iterdir()] == ["y.tif"]
    assert (tmp_path / "y.tif").read_text() == "older"


@pytest.mark.parametrize("megabytes", [pytest.param(size, marks=pytest.mark.slow) for size in (1, 4, 6.5)] + [5.6])
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, megabytes):
    """A file of six million random bytes may not grow beyond so many, which stops it at one stage or another."""
    code = f"""
import resource, numpy as np
from pyro_vble.scene.writing import write_cog
values = np.random.default_rng(0).integers(0, 255, (3, 1400, 1400), dtype=np.uint8)
resource.setrlimit(resource.RLIMIT_FSIZE, (int({megabytes} * 1e6),) * 2)
try:
    write_cog({str(tmp_path / "y.tif")!r}, lambda r, c: values[:, r, c], values.shape, None, np.uint8)
except OSError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    assert "y.tif" in run.stdout
    assert len(run.stdout.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
