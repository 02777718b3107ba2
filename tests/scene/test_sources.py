"""What is read of a scene: the file's own numbers, NaN where it has none, and any window as the crop of the whole."""

import os
import pickle
import threading

import dask.array
import numpy as np
import pytest
import rasterio
import rioxarray
import tifffile
import torch
import xarray
from PIL import Image
from rasterio.control import GroundControlPoint
from rasterio.drivers import raster_driver_extensions
from rasterio.enums import ColorInterp
from rasterio.env import getenv
from rasterio.rpc import RPC
from scene.rasters import NORTH_UP, TURNED, save, values_of, whole

from pyro_vble.io.images import read_image
from pyro_vble.scene.sources import ArraySource, RasterSource, SourceError, open_source

pytestmark = [
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
    pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning"),
]

GEOTIFFS = (
    "RGB.byte",
    "RGBA.uint16",
    "float_nan",
    "float_raster_with_nodata",
    "ms1",
    "pan1",
    "rotated",
    "sample_geotiff",
)
RPCS = RPC(
    height_off=100, height_scale=500, lat_off=43, lat_scale=0.1, line_off=20, line_scale=25, long_off=5, long_scale=0.1,
    samp_off=24, samp_scale=30, line_num_coeff=[0.0] * 20, line_den_coeff=[1.0] + [0.0] * 19,
    samp_num_coeff=[0.0] * 20, samp_den_coeff=[1.0] + [0.0] * 19,
)  # fmt: skip


def same(a, b):
    return np.array_equal(a, b, equal_nan=True)


# --- workers of other processes ---


def test_an_array_in_memory_is_not_copied_to_every_worker(tmp_path):
    values = values_of("float32", (3, 90, 100))
    array = xarray.DataArray(values.transpose(1, 2, 0), dims=("y", "x", "band"))
    for source in (open_source(values, nodata=7), open_source(array, bands=[3, 1], nodata=7, window=(10, 5, 80, 60))):
        shared = source.shared(tmp_path / "measured.npy")
        there = pickle.loads(pickle.dumps(shared))
        assert len(pickle.dumps(shared)) < 10_000
        assert same(whole(there), whole(source))
        assert same(there.read(slice(7, 9), slice(20, 70)), source.read(slice(7, 9), slice(20, 70)))
        assert [path.name for path in tmp_path.iterdir()] == ["measured.npy"]


def test_what_is_read_from_a_file_or_computed_is_not_written_again(tmp_path):
    path = save(tmp_path / "x.tif", values_of("uint16", (2, 40, 50)))
    lazy = xarray.DataArray(dask.array.zeros((1, 20, 20)), dims=("band", "y", "x"))
    with rioxarray.open_rasterio(path) as opened:
        for source in (open_source(path), open_source(opened), open_source(lazy)):
            assert source.shared(tmp_path / "measured.npy") is source
    assert list(tmp_path.iterdir()) == [path]


def test_tiles_of_a_file_stay_in_memory_no_longer_than_they_are_needed(tmp_path):
    """But the strips that a row of cells is read from do."""
    values, caches = values_of("uint16", (1, 64, 600)), {}
    for tiled in (True, False):
        how = {"tiled": True, "blockxsize": 32, "blockysize": 32} if tiled else {}
        source = open_source(save(tmp_path / f"{tiled}.tif", values, **how))
        with source._settings():
            caches[tiled] = getenv()["GDAL_CACHEMAX"]
        assert same(whole(source), values)
    assert caches[True] < caches[False] == 256 * 2**20


# --- numbers and missing pixels ---


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"])
def test_numbers_are_the_files_own(tmp_path, dtype):
    values = values_of(dtype, (2, 40, 50))
    source = open_source(save(tmp_path / "x.tif", values, nodata=7))
    assert source.shape == (2, 40, 50)
    assert source.dtype == np.dtype(dtype)
    assert source.nodata == source.raster.nodata == 7
    read = whole(source)
    assert read.dtype == np.float32
    assert same(read, np.where(values == 7, np.nan, values))


def test_the_nodata_told_goes_before_the_files(tmp_path):
    values = values_of("uint16")
    source = open_source(save(tmp_path / "x.tif", values, nodata=7), nodata=9)
    assert source.raster.nodata == 9
    assert same(whole(source), np.where(values == 9, np.nan, values))


def test_nan_and_infinity_are_missing(tmp_path):
    values = values_of("float64")
    values[0, 3, 4], values[0, 5, 6], values[0, 7, 8] = np.nan, np.inf, 1e300
    missing = np.isnan(whole(open_source(save(tmp_path / "x.tif", values))))
    assert sorted(zip(*missing[0].nonzero(), strict=True)) == [(3, 4), (5, 6), (7, 8)]


@pytest.mark.parametrize("spelt", [-3.4028234663852886e38, -3.3999999521443642e38])
def test_the_lowest_number_however_it_is_spelt(tmp_path, spelt):
    values = values_of("float32")
    values[0, :5] = np.finfo(np.float32).min
    assert np.isnan(whole(open_source(save(tmp_path / "x.tif", values, nodata=spelt)))).sum() == 5 * 50


@pytest.mark.parametrize("inside", [True, False])
def test_a_mask_within_the_file_or_beside_it(tmp_path, inside):
    values, mask = values_of("uint8", (3, 40, 50)), np.full((40, 50), 255, np.uint8)
    mask[10:20, 5:9] = 0
    path = save(tmp_path / "x.tif", values, mask=mask, internal_mask=inside)
    assert (tmp_path / "x.tif.msk").exists() is not inside
    expected = np.where(mask == 0, np.nan, values.astype(float))
    assert same(whole(open_source(path)), expected)
    assert same(whole(open_source(path, bands=[2, 2])), expected[[1, 1]])


def test_alpha_is_no_band_but_what_is_missing(tmp_path):
    values = values_of("uint16", (4, 40, 50))
    values[3] = 65535
    values[3, :8, :9] = 0
    path = save(tmp_path / "x.tif", values, photometric="rgb", alpha="YES")
    source = open_source(path)
    assert source.shape == (3, 40, 50)
    assert source.raster.count == 3
    assert same(whole(source), np.where(values[3] == 0, np.nan, values[:3].astype(float)))
    assert np.isnan(whole(open_source(path, bands=[2]))).sum() == 8 * 9
    assert same(whole(open_source(path, bands=[4, 1])), values[[3, 0]])


def test_a_near_infrared_band_that_gdal_declares_alpha_is_a_band(tmp_path):
    values = values_of("uint8", (4, 40, 50))
    path = save(tmp_path / "x.tif", values, photometric="rgb", alpha="YES")
    with rasterio.open(path) as file:
        assert file.colorinterp[3] == ColorInterp.alpha
    assert same(whole(open_source(path)), values)
    assert same(whole(open_source(path)), read_image(path).values[0] * 255)


def test_every_band_has_its_own_nodata(tmp_path):
    values = values_of("int16", (2, 40, 50))
    for band in (0, 1):
        save(tmp_path / f"{band}.tif", values[band : band + 1], nodata=band + 5)
    source = open_source(stacked(tmp_path))
    assert same(whole(source)[0], np.where(values[0] == 5, np.nan, values[0]))
    assert same(whole(source)[1], np.where(values[1] == 6, np.nan, values[1]))
    assert open_source(tmp_path / "x.vrt", bands=[2]).nodata == 6


def stacked(folder):
    """A VRT of the files 0.tif and 1.tif, as two bands."""
    band = (
        '<VRTRasterBand dataType="Int16" band="{n}"><NoDataValue>{v}</NoDataValue><SimpleSource>'
        '<SourceFilename relativeToVRT="1">{i}.tif</SourceFilename><SourceBand>1</SourceBand></SimpleSource>'
        "</VRTRasterBand>"
    )
    bands = "".join(band.format(n=i + 1, v=i + 5, i=i) for i in (0, 1))
    path = folder / "x.vrt"
    path.write_text(f'<VRTDataset rasterXSize="50" rasterYSize="40">{bands}</VRTDataset>')
    return path


def test_complex_numbers_are_refused(tmp_path):
    path = save(tmp_path / "x.tif", values_of("complex64"))
    with pytest.raises(ValueError, match="real numbers"):
        open_source(path)
    with pytest.raises(ValueError, match="real numbers"):
        open_source(np.zeros((1, 4, 4), complex))


# --- kinds of files ---


@pytest.mark.skipif("jp2" not in raster_driver_extensions(), reason="this GDAL writes no JPEG 2000")
def test_jpeg_2000(tmp_path):
    values = values_of("uint16", (1, 300, 200))
    path = save(tmp_path / "x.jp2", values, driver="JP2OpenJPEG", REVERSIBLE="YES", QUALITY="100")
    source = open_source(path, window=(20, 30, 100, 200))
    assert source.raster.crs.to_epsg() == 32631
    assert same(whole(source), values[:, 30:230, 20:120])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_photographs_are_upright_whatever_the_window(tmp_path, suffix, orientation):
    path, image = tmp_path / f"x.{suffix}", Image.fromarray(np.moveaxis(values_of("uint8", (3, 40, 50)), 0, -1))
    exif = Image.Exif()
    exif[274] = orientation
    # Two decoders of JPEG put colours of half the size back in ways of their own.
    options = {"jpg": {"exif": exif, "subsampling": 0}, "png": {"exif": exif}, "tif": {"tiffinfo": exif}}[suffix]
    image.save(path, **options)
    expected = 255 * read_image(path).values[0].numpy()
    source = open_source(path)
    assert source.shape == expected.shape
    assert np.allclose(whole(source), expected, atol=1.0 if suffix == "jpg" else 1e-4)
    window = open_source(path, window=(7, 11, 20, 25)).read(slice(2, 12), slice(3, 13))
    assert same(window, whole(source)[:, 13:23, 10:20])


def test_a_palette_is_read_as_its_colours(tmp_path):
    image = Image.fromarray(values_of("uint8")[0] % 4, mode="P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 8, 7])
    image.save(tmp_path / "x.png", transparency=2)
    expected = 255 * read_image(tmp_path / "x.png").values[0].numpy()
    assert np.isnan(expected).any()
    source = open_source(tmp_path / "x.png")
    assert source.shape == (3, 40, 50)
    assert np.allclose(whole(source), expected, equal_nan=True)
    assert np.allclose(whole(open_source(tmp_path / "x.png", bands=[3, 1])), expected[[2, 0]], equal_nan=True)


@pytest.mark.skipif("nc" not in raster_driver_extensions(), reason="this GDAL reads no netCDF")
def test_a_file_of_several_rasters_names_them(tmp_path):
    path, parts = (
        tmp_path / "x.nc",
        {"a": (("y", "x"), values_of("int16")[0]), "b": (("y", "x"), values_of("int16")[0])},
    )
    xarray.Dataset(parts).to_netcdf(path)
    with pytest.raises(ValueError, match=r"holds netcdf:.*x\.nc:a, .*name one"):
        open_source(path)
    assert open_source(f"netcdf:{path}:a").shape == (1, 40, 50)


def test_what_is_no_raster(tmp_path):
    (tmp_path / "x.tif").write_bytes(b"II*\0 and no more")
    with pytest.raises(SourceError, match=r"x\.tif"):
        open_source(tmp_path / "x.tif")
    with pytest.raises(FileNotFoundError, match="check the path"):
        open_source(tmp_path / "missing.tif")
    with pytest.raises(TypeError, match="thing must be a path"):
        open_source(torch.zeros(1, 4, 4))


def test_a_damaged_block_is_named_and_the_others_are_read(tmp_path):
    values = values_of("uint16", (1, 256, 256))
    path = save(tmp_path / "x.tif", values, tiled=True, blockxsize=64, blockysize=64, compress="deflate")
    with tifffile.TiffFile(path) as file:
        page = file.pages[0].aspage()
        start = page.dataoffsets[5]  # of rows 64 to 128 and columns 64 to 128
    with path.open("r+b") as file:
        file.seek(start + 20)
        file.write(b"\xff" * 200)
    source = open_source(path)
    with pytest.raises(SourceError, match=r"x\.tif cannot be read at rows 60 to 90 and columns 100 to 110 "):
        source.read(slice(60, 90), slice(100, 110))
    assert same(source.read(slice(128, 256), slice(0, 256)), values[:, 128:])


def test_a_damaged_block_of_alpha_spoils_its_own_windows_only(tmp_path):
    values = values_of("uint8", (4, 256, 256))
    values[3] = 255
    layout = {"tiled": True, "blockxsize": 64, "blockysize": 64, "interleave": "band"}
    path = save(tmp_path / "x.tif", values, photometric="rgb", alpha="YES", compress="deflate", **layout)
    with tifffile.TiffFile(path) as file:
        start = file.pages[0].aspage().dataoffsets[3 * 16]
    with path.open("r+b") as file:
        file.seek(start + 4)
        file.write(b"\xff" * 8)
    source = open_source(path)
    assert source.shape == (3, 256, 256)
    with pytest.raises(SourceError, match="rows 0 to 10"):
        source.read(slice(0, 10), slice(0, 10))
    assert same(source.read(slice(64, 256), slice(0, 256)), values[:3, 64:])


def test_a_photograph_that_ends_too_early_is_not_grey(tmp_path):
    Image.fromarray(values_of("uint8", (1, 400, 300))[0]).save(tmp_path / "x.jpg", quality=95)
    data = (tmp_path / "x.jpg").read_bytes()
    (tmp_path / "x.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(SourceError, match="rows 390 to 400"):
        open_source(tmp_path / "x.jpg").read(slice(390, 400), slice(0, 300))


# --- windows and bands ---


@pytest.mark.parametrize("name", GEOTIFFS)
def test_windows_of_real_rasters_are_crops_of_the_whole(shared_data, name):
    path = shared_data / "geotiff" / f"{name}.tif"
    source, rng = open_source(path), np.random.default_rng(0)
    everything = whole(source)
    image = read_image(path)
    assert np.allclose(everything, image.values[0].double() * image.scale, rtol=1e-6, equal_nan=True)
    for _ in range(5):
        top, left = (int(rng.integers(0, size)) for size in source.shape[1:])
        height = int(rng.integers(1, source.shape[1] - top + 1))
        width = int(rng.integers(1, source.shape[2] - left + 1))
        crop = everything[:, top : top + height, left : left + width]
        assert same(source.read(slice(top, top + height), slice(left, left + width)), crop)
        part = open_source(path, window=(left, top, width, height))
        assert same(whole(part), crop)
        if part.raster is not None and part.raster.transform is not None:
            for corner in ((0, 0), (width, 0), (0, height), (width, height)):
                there = source.raster.transform * (corner[0] + left, corner[1] + top)
                assert part.raster.transform * corner == pytest.approx(there, rel=1e-12)


def test_real_panchromatic_crops_keep_their_rational_polynomials(shared_data):
    path = shared_data / "pleiades_pan" / "img_01.tif"
    source, part = open_source(path), open_source(path, window=(100, 200, 300, 400))
    assert (part.raster.rpcs.samp_off, part.raster.rpcs.line_off) == (
        source.raster.rpcs.samp_off - 100,
        source.raster.rpcs.line_off - 200,
    )
    assert part.raster.rpcs.samp_scale == source.raster.rpcs.samp_scale


@pytest.mark.parametrize("transform", [NORTH_UP, TURNED])
def test_a_window_lies_where_it_lay(tmp_path, transform):
    path = save(tmp_path / "x.tif", values_of("uint8"), transform=transform)
    part = open_source(path, window=(8, 4, 20, 30)).raster
    assert (part.rows, part.columns) == (30, 20)
    assert part.transform.almost_equals(transform @ rasterio.Affine.translation(8, 4))
    big = part.enlarged(60, 40)
    for corner in ((0, 0), (20, 0), (0, 30), (20, 30)):
        assert big.transform * (2 * corner[0], 2 * corner[1]) == pytest.approx(part.transform * corner, abs=1e-9)


def test_points_on_the_ground_move_with_the_window(tmp_path):
    points = [GroundControlPoint(r, c, c * 2.0, r * -2.0, 0.0) for r, c in ((0, 0), (0, 50), (40, 0), (40, 50))]
    path = tmp_path / "x.tif"
    with rasterio.open(path, "w", driver="GTiff", count=1, height=40, width=50, dtype="uint8", rpcs=RPCS) as file:
        file.write(values_of("uint8"))
        file.gcps = points, rasterio.CRS.from_epsg(4326)
    part = open_source(path, window=(8, 4, 20, 30)).raster
    assert part.transform is None
    assert [(p.row, p.col, p.x, p.y) for p in part.gcps] == [(p.row - 4, p.col - 8, p.x, p.y) for p in points]
    assert (part.rpcs.line_off, part.rpcs.samp_off) == (RPCS.line_off - 4, RPCS.samp_off - 8)


def named(path):
    values = values_of("int16", (4, 40, 50))
    save(path, values)
    with rasterio.open(path, "r+") as file:
        file.descriptions = ["blue", "green", "red", "nir"]
        file.scales, file.offsets = [1e-4, 2e-4, 3e-4, 4e-4], [-0.1, -0.2, -0.3, -0.4]
        file.update_tags(MISSION="a")
    return values


def test_bands_by_number_and_name(tmp_path):
    values = named(tmp_path / "x.tif")
    source = open_source(tmp_path / "x.tif", bands=["nir", 2])
    assert source.raster.descriptions == ("nir", "green")
    assert source.raster.scales == (4e-4, 2e-4)
    assert source.raster.offsets == (-0.4, -0.2)
    assert same(whole(source), values[[3, 1]])
    for wrong in ([5], [0], ["swir"]):
        with pytest.raises(ValueError, match="'nir'"):
            open_source(tmp_path / "x.tif", bands=wrong)
    for wrong in ([], [1.5]):
        with pytest.raises(ValueError, match="bands must be"):
            open_source(tmp_path / "x.tif", bands=wrong)


@pytest.mark.parametrize("window", [(0, 0, 51, 40), (40, 0, 20, 40), (0, 0, 0, 40), (-1, 0, 5, 5), (0, 0, 5)])
def test_windows_outside_are_refused(tmp_path, window):
    path = save(tmp_path / "x.tif", values_of("uint8"))
    with pytest.raises(ValueError, match="window"):
        open_source(path, window=window)


@pytest.mark.parametrize("rows", [slice(-3, 5), slice(0, 41), slice(8, 4), slice(0, 40, 2)])
def test_parts_outside_are_refused(rows):
    with pytest.raises(ValueError, match="within 0 to 40"):
        open_source(values_of("uint8")).read(rows, slice(0, 5))


# --- arrays ---


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("chunks", [None, {"x": 16, "y": 16}])
def test_arrays_say_what_their_file_says(tmp_path, masked, chunks):
    values = named(tmp_path / "x.tif")
    with rasterio.open(tmp_path / "x.tif", "r+") as file:
        file.nodata = 7
        file.scales, file.offsets = [0.5] * 4, [-1.0] * 4
    array = rioxarray.open_rasterio(tmp_path / "x.tif", masked=masked, chunks=chunks)
    source, file = pickle.loads(pickle.dumps(open_source(array))), open_source(tmp_path / "x.tif")
    assert same(whole(source), np.where(values == 7, np.nan, values))
    assert source.nodata == 7
    for what in ("crs", "transform", "descriptions", "scales", "offsets", "units"):
        assert getattr(source.raster, what) == getattr(file.raster, what)
    assert source.raster.tags["MISSION"] == "a"
    part = ArraySource(array, bands=["red"], window=(8, 4, 20, 30))
    assert same(whole(part), whole(file)[2:3, 4:34, 8:28])
    assert part.raster == RasterSource(tmp_path / "x.tif", bands=["red"], window=(8, 4, 20, 30)).raster or (
        part.raster.transform == file.raster.cropped(4, 8, 30, 20).transform
    )


def test_a_part_of_an_array_lies_where_it_lies(tmp_path):
    array = rioxarray.open_rasterio(save(tmp_path / "x.tif", values_of("uint8")))
    part = open_source(array.isel(x=slice(8, 28), y=slice(4, 34)))
    assert part.raster.transform.almost_equals(NORTH_UP @ rasterio.Affine.translation(8, 4))
    turned = rioxarray.open_rasterio(save(tmp_path / "y.tif", values_of("uint8"), transform=TURNED))
    part = open_source(turned.isel(x=slice(8, 28), y=slice(4, 34)))
    assert part.raster.transform.almost_equals(TURNED @ rasterio.Affine.translation(8, 4), precision=1e-6)


def test_arrays_of_any_dimensions_names():
    grid = xarray.DataArray(values_of("uint8"), dims=("time", "latitude", "longitude"))
    assert same(whole(open_source(grid)), values_of("uint8"))
    assert same(whole(open_source(grid[0].T)), values_of("uint8"))
    assert same(whole(open_source(values_of("uint8")[0])), values_of("uint8"))
    bands = xarray.DataArray(values_of("uint8", (2, 4, 5)), dims=("band", "y", "x"), coords={"band": ["red", "nir"]})
    assert same(whole(open_source(bands, bands=["nir"])), values_of("uint8", (2, 4, 5))[1:])
    with pytest.raises(ValueError, match="set_spatial_dims"):
        open_source(xarray.DataArray(np.zeros((3, 4)), dims=("a", "b")))
    with pytest.raises(ValueError, match="band, y, x"):
        open_source(xarray.DataArray(np.zeros((2, 3, 4, 5)), dims=("time", "band", "y", "x")))
    with pytest.raises(ValueError, match="leave out the batch"):
        open_source(np.zeros((1, 3, 4, 5)))


def test_lazy_arrays_are_computed_window_by_window():
    computed = []

    def block(block_id):
        computed.append(block_id)
        return np.full((1, 10, 10), block_id[1] * 10 + block_id[2], np.uint16)

    lazy = dask.array.map_blocks(block, chunks=((1,), (10,) * 4, (10,) * 5), dtype=np.uint16, meta=np.empty((0, 0, 0)))
    source = open_source(xarray.DataArray(lazy, dims=("band", "y", "x")))
    computed.clear()
    read = source.read(slice(12, 18), slice(25, 35))
    assert sorted(set(computed)) == [(0, 1, 2), (0, 1, 3)]
    assert same(np.unique(read), [12, 13])


# --- processes and runs ---


def test_a_source_is_opened_in_each_thread_and_after_pickling(tmp_path):
    values = values_of("uint16", (1, 200, 200))
    source = open_source(save(tmp_path / "x.tif", values, compress="deflate", tiled=True, blockxsize=16, blockysize=16))
    copy, wrong = pickle.loads(pickle.dumps(source)), []

    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(30):
            top, left = rng.integers(0, 150, 2)
            if not same(
                copy.read(slice(top, top + 50), slice(left, left + 50)), values[:, top : top + 50, left : left + 50]
            ):
                wrong.append((top, left))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_fingerprints_tell_sources_apart(tmp_path):
    path = save(tmp_path / "x.tif", values_of("uint8", (2, 40, 50)))
    prints = [
        open_source(path).fingerprint(),
        open_source(path, bands=[1]).fingerprint(),
        open_source(path, nodata=3).fingerprint(),
        open_source(path, window=(0, 0, 50, 39)).fingerprint(),
    ]
    assert len(set(prints)) == 4
    assert pickle.loads(pickle.dumps(open_source(path))).fingerprint() == prints[0]
    os.utime(path, ns=(1, 1))
    assert open_source(path).fingerprint() != prints[0]
    one, other = values_of("uint8"), values_of("uint8", seed=1)
    assert open_source(one).fingerprint() == open_source(one.copy()).fingerprint()
    assert open_source(one).fingerprint() != open_source(other).fingerprint()
    assert open_source(one).fingerprint() != open_source(one.astype(np.int16)).fingerprint()


def test_a_vrt_changes_with_its_files(tmp_path):
    for band in (0, 1):
        save(tmp_path / f"{band}.tif", values_of("int16", seed=band))
    before = open_source(stacked(tmp_path)).fingerprint()
    os.utime(tmp_path / "1.tif", ns=(1, 1))
    assert open_source(tmp_path / "x.vrt").fingerprint() != before
