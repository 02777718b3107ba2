"""Georeference, missing pixels and band names survive reading and writing, at the input's size and enlarged."""

import math
import os

import numpy as np
import pytest
import rasterio
import tifffile
import torch
from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC

from pyro_vble.io.images import read_image, write_image

pytestmark = [
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
    pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning"),
]

REAL = (
    "RGB.byte.tif",
    "cogeo.tif",
    "float_nan.tif",
    "float_raster_with_nodata.tif",
    "ms1.tif",
    "pan1.tif",
    "rotated.tif",
    "sample_geotiff.tif",
    "sample_geotiff_custom_proj.tif",
)
NORTH_UP = rasterio.Affine(2.0, 0.0, 1000.0, 0.0, -2.0, 5000.0)
TURNED = rasterio.Affine.translation(1000, 5000) @ rasterio.Affine.rotation(30) @ rasterio.Affine.scale(2, -3)


def enlarged(values: torch.Tensor, factor: int) -> torch.Tensor:
    return values.repeat_interleave(factor, 2).repeat_interleave(factor, 3)


def same_number(a, b):
    return a == b or (a is not None and b is not None and math.isnan(a) and math.isnan(b))


def scene(path, dtype="uint16", bands=4, transform=NORTH_UP, seed=0, **options):
    """A raster with everything that a raster may say."""
    values = np.random.default_rng(seed).integers(1, 250, (bands, 30, 40)).astype(dtype)
    nodata = options.get("nodata")
    if nodata is not None:
        values[:, 3:5, 7:9] = nodata
    with rasterio.open(
        path, "w", driver="GTiff", count=bands, height=30, width=40, dtype=dtype, crs="EPSG:32631", transform=transform,
        photometric="minisblack", **options,
    ) as file:  # fmt: skip
        file.write(values)
        file.descriptions = [f"band {i}" for i in range(bands)]
        file.scales, file.offsets = [1e-4] * bands, [-0.1] * bands
        file.units = ["reflectance"] * bands
        file.update_tags(MISSION="a", STATISTICS_OF="nothing")
        file.update_tags(1, WAVELENGTH="490", STATISTICS_MEAN="7")
    return values


@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("name", REAL)
def test_real_rasters(shared_data, tmp_path, name, factor):
    source = shared_data / "geotiff" / name
    image = read_image(source)
    values = enlarged(image.values, factor)
    path = write_image(tmp_path / "x.tif", values, dtype=image.dtype, scale=image.scale, raster=image.raster)
    with rasterio.open(source) as before, rasterio.open(path) as after:
        assert (after.count, after.crs, after.dtypes) == (before.count, before.crs, before.dtypes)
        assert after.descriptions == before.descriptions
        assert after.bounds == pytest.approx(before.bounds)
        assert after.transform.almost_equals(before.transform @ rasterio.Affine.scale(1 / factor))
        assert same_number(after.nodata, before.nodata)
        assert after.colorinterp == before.colorinterp
        missing = np.stack([before.read_masks(i) for i in before.indexes]) == 0
        assert np.array_equal(image.values[0].isnan(), missing | np.isnan(before.read()))
        pixels = after.read()[:, ::factor, ::factor]
        # Two decoders of JPEG put colours of half the size back in ways of their own.
        tolerance = 16 if before.compression and "jpeg" in before.compression.name else 0
        np.testing.assert_allclose(pixels[~missing].astype(float), before.read()[~missing], rtol=0, atol=tolerance)
    assert os.listdir(tmp_path) == ["x.tif"]


@pytest.mark.parametrize("factor", [1, 3])
@pytest.mark.parametrize("transform", [NORTH_UP, TURNED])
def test_all_that_a_raster_says(tmp_path, transform, factor):
    scene(tmp_path / "a.tif", transform=transform, nodata=0)
    image = read_image(tmp_path / "a.tif", scale=250)
    path = write_image(
        tmp_path / "b.tif", enlarged(image.values, factor), dtype=np.uint16, scale=250, raster=image.raster
    )
    again = read_image(path, scale=250)
    assert again.raster == image.raster.enlarged(30 * factor, 40 * factor)
    assert again.raster.tags["MISSION"] == "a"
    assert again.raster.band_tags[0] == {"WAVELENGTH": "490"}
    assert again.raster.descriptions[3] == "band 3"
    assert again.raster.transform.almost_equals(transform @ rasterio.Affine.scale(1 / factor))
    assert torch.equal(again.values.isnan(), enlarged(image.values, factor).isnan())
    assert (again.grid is None) == (transform is TURNED)


def test_what_is_said_of_values_stays_with_them(tmp_path):
    """Error bars lie over the same ground, but are no reflectances."""
    scene(tmp_path / "a.tif", nodata=0)
    image = read_image(tmp_path / "a.tif")
    write_image(tmp_path / "std.tif", image.values / 9, dtype=np.float32, raster=image.raster)
    with rasterio.open(tmp_path / "std.tif") as file:
        assert (file.crs, file.transform, file.descriptions) == (
            image.raster.crs,
            NORTH_UP,
            image.raster.descriptions,
        )
        assert math.isnan(file.nodata)
        assert set(file.scales) == {1.0}
        assert set(file.offsets) == {0.0}
        assert file.units == (None,) * 4
        assert int(np.isnan(file.read()).sum()) == 16


def test_an_image_of_other_bands_keeps_the_ground(tmp_path):
    scene(tmp_path / "a.tif")
    image = read_image(tmp_path / "a.tif")
    write_image(tmp_path / "b.tif", image.values[:, :1], raster=image.raster)
    with rasterio.open(tmp_path / "b.tif") as file:
        assert (file.crs, file.transform, file.count) == (image.raster.crs, NORTH_UP, 1)
        assert file.descriptions == (None,)


@pytest.mark.parametrize("area", ["Area", "Point"])
def test_pixels_that_are_points(tmp_path, area):
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", count=1, height=4, width=6, dtype="uint8", crs="EPSG:32631",
        transform=NORTH_UP,
    ) as file:  # fmt: skip
        file.update_tags(AREA_OR_POINT=area)
        file.write(np.ones((1, 4, 6), np.uint8))
    image = read_image(tmp_path / "a.tif")
    assert image.grid == (1000.0, 2.0, 5000.0, -2.0)
    write_image(tmp_path / "b.tif", enlarged(image.values, 2), raster=image.raster)
    with rasterio.open(tmp_path / "b.tif") as file:
        assert file.bounds == (1000, 4992, 1012, 5000)
        assert file.tags()["AREA_OR_POINT"] == area
    coordinates = image.coordinates(8, 12)
    assert coordinates["row"][:2].tolist() == [4999.5, 4998.5]
    assert coordinates["col"][:2].tolist() == [1000.5, 1001.5]


def test_control_points_and_rational_polynomials(tmp_path):
    points = [
        GroundControlPoint(0, 0, 10.0, 50.0),
        GroundControlPoint(4, 0, 10.0, 49.0),
        GroundControlPoint(0, 6, 11.0, 50.0),
    ]
    rpcs = RPC(0.0, 1.0, 50.0, 1.0, [1.0] * 20, [1.0] * 20, 1.5, 2.0, 10.0, 1.0, [1.0] * 20, [1.0] * 20, 2.5, 3.0)
    size = {"driver": "GTiff", "count": 1, "height": 4, "width": 6, "dtype": "uint8"}
    for name, what in {"gcps": (points, "EPSG:4326"), "rpcs": rpcs}.items():
        with rasterio.open(tmp_path / f"{name}.tif", "w", **size) as file:
            setattr(file, name, (what[0], rasterio.CRS.from_string(what[1])) if name == "gcps" else what)
            file.write(np.ones((1, 4, 6), np.uint8))
        image = read_image(tmp_path / f"{name}.tif")
        write_image(tmp_path / f"{name}-2.tif", enlarged(image.values, 2), raster=image.raster)
    with rasterio.open(tmp_path / "gcps-2.tif") as file:
        written, crs = file.gcps
        assert crs.to_epsg() == 4326
        assert [(p.row, p.col, p.x, p.y) for p in written] == [(2 * p.row, 2 * p.col, p.x, p.y) for p in points]
    with rasterio.open(tmp_path / "rpcs-2.tif") as file:
        # A pixel's centre is where lines and samples count from: 1.5 is the middle of four lines, 3.5 that of eight.
        assert (file.rpcs.line_off, file.rpcs.samp_off) == (3.5, 5.5)
        assert (file.rpcs.line_scale, file.rpcs.samp_scale) == (4.0, 6.0)
        assert file.rpcs.lat_off == 50.0


def test_a_world_file_is_read(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.ones((4, 6), np.uint8))
    (tmp_path / "a.tfw").write_text("2\n0\n0\n-2\n1001\n4999\n")
    assert read_image(tmp_path / "a.tif").grid == (1000.0, 2.0, 5000.0, -2.0)


@pytest.mark.parametrize("size", [0.0, np.nan])
def test_pixels_without_a_size_have_no_coordinates(tmp_path, size):
    tags = [(33550, "d", 3, (size, size, 0.0), True), (33922, "d", 6, (0.0, 0.0, 0.0, 9.0, 9.0, 0.0), True)]
    tifffile.imwrite(tmp_path / "a.tif", np.ones((4, 6), np.uint8), extratags=tags)
    assert read_image(tmp_path / "a.tif").coordinates(4, 6) == {}


def test_plain_files_have_no_raster(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.ones((4, 6), np.uint8))
    assert read_image(tmp_path / "a.tif").raster is None
    np.save(tmp_path / "a.npy", np.ones((4, 6), np.uint8))
    # What a library noted of an array's shape is no metadata.
    tags = [(42113, 2, 2, b"7\0", True)]
    tifffile.imwrite(tmp_path / "b.tif", np.ones((4, 6), np.uint8), extratags=tags)
    assert read_image(tmp_path / "b.tif").raster.tags.keys() <= {"AREA_OR_POINT"}
    assert read_image(tmp_path / "a.npy").raster is None


class TestMissing:
    @pytest.mark.parametrize(("dtype", "nodata"), [("uint8", 0), ("uint8", 255), ("uint16", 7), ("int16", -9999)])
    def test_valid_integers_keep_off_the_nodata_value(self, tmp_path, dtype, nodata):
        scene(tmp_path / "a.tif", dtype=dtype, bands=1, nodata=nodata)
        raster = read_image(tmp_path / "a.tif").raster
        limit = np.iinfo(dtype).max
        values = torch.full((1, 1, 4, 5), nodata / limit)
        values[..., 0, 0] = torch.nan
        write_image(tmp_path / "b.tif", values, dtype=dtype, raster=raster)
        with rasterio.open(tmp_path / "b.tif") as file:
            written = file.read(1)
            assert file.nodata == nodata
        assert written[0, 0] == nodata
        moved = nodata - 1 if nodata == limit else nodata + 1
        assert set(written.flatten()[1:]) == {moved}

    def test_valid_floats_keep_off_the_nodata_value(self, tmp_path):
        scene(tmp_path / "a.tif", dtype="float32", bands=1, nodata=0.0)
        raster = read_image(tmp_path / "a.tif").raster
        values = torch.tensor([[[[0.0, torch.nan, 0.5]]]])
        again = read_image(write_image(tmp_path / "b.tif", values, dtype=np.float32, raster=raster))
        assert again.values.isnan().flatten().tolist() == [False, True, False]
        assert float(again.values[0, 0, 0, 0]) == pytest.approx(0, abs=1e-30)

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32, np.float64])
    @pytest.mark.parametrize("bands", [1, 3, 4])
    def test_files_without_a_value_for_them(self, tmp_path, dtype, bands):
        values = torch.rand(1, bands, 9, 12)
        values[:, :, 2:4, 5] = torch.nan
        for suffix in (".tif", ".png"):
            again = read_image(write_image(tmp_path / f"x{suffix}", values, dtype=dtype))
            assert again.dtype == dtype
            assert torch.equal(again.values.isnan(), values.isnan())
        with rasterio.open(tmp_path / "x.tif") as file:
            np.testing.assert_array_equal(file.read_masks() == 0, values[0].isnan())
        if np.dtype(dtype).kind == "f":
            assert torch.equal(
                read_image(write_image(tmp_path / "x.npy", values, dtype=dtype)).values.isnan(), values.isnan()
            )
        else:
            with pytest.raises(ValueError, match=r"must be whole; .* values are missing; write floats"):
                write_image(tmp_path / "x.npy", values, dtype=dtype)

    def test_a_value_that_the_type_cannot_hold(self, tmp_path):
        scene(tmp_path / "a.tif", dtype="int16", bands=1, nodata=-9999)
        image = read_image(tmp_path / "a.tif", scale=250)
        again = read_image(write_image(tmp_path / "b.tif", image.values, raster=image.raster))
        assert torch.equal(again.values.isnan(), image.values.isnan())

    def test_the_value_named_by_the_caller_is_written(self, tmp_path):
        scene(tmp_path / "a.tif", bands=1)
        image = read_image(tmp_path / "a.tif", nodata=9)
        write_image(tmp_path / "b.tif", image.values, dtype=image.dtype, scale=image.scale, raster=image.raster)
        with rasterio.open(tmp_path / "b.tif") as file:
            assert file.nodata == 9


class TestOnePage:
    @pytest.mark.parametrize("bands", [1, 2, 3, 4, 13])
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
    def test_bands_are_bands(self, tmp_path, bands, dtype):
        values = torch.rand(1, bands, 300, 310)
        path = write_image(tmp_path / "x.tif", values, dtype=dtype)
        with rasterio.open(path) as file:
            assert (file.count, file.shape) == (bands, (300, 310))
            assert file.compression.name == "deflate"
            assert file.profile["tiled"]
            assert not any(colour.name == "alpha" for colour in file.colorinterp)
        with tifffile.TiffFile(path) as file:
            assert len(file.pages) == 1
            rgb = bands == 3 and np.dtype(dtype).kind == "u"
            assert file.pages[0].photometric.name == ("RGB" if rgb else "MINISBLACK")
        limit = 1 if dtype == np.float32 else np.iinfo(dtype).max
        torch.testing.assert_close(read_image(path).values, values, rtol=0, atol=0.5 / limit if limit > 1 else 0)


class TestErrors:
    def test_arguments(self, tmp_path):
        values = torch.zeros(1, 3, 4, 4)
        with pytest.raises(TypeError, match="dtype must be a NumPy data type"):
            write_image(tmp_path / "x.tif", values, dtype="colour")
        with pytest.raises(ValueError, match="dtype must be of integers or floats"):
            write_image(tmp_path / "x.tif", values, dtype=complex)
        with pytest.raises(ValueError, match="scale must be given for int32"):
            write_image(tmp_path / "x.tif", values, dtype=np.int32)
        with pytest.raises(TypeError, match="raster must be"):
            write_image(tmp_path / "x.tif", values, raster=NORTH_UP)
        with pytest.raises(ValueError, match="values must be an image"):
            write_image(tmp_path / "x.tif", torch.zeros(2, 3, 4, 4))
        assert os.listdir(tmp_path) == []
