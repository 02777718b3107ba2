"""The same picture in many encodings reads alike, and what is not understood is refused by name."""

import io
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
import rasterio
import tifffile
import torch
from PIL import Image

from pyro_vble.io.images import read_image, read_kernel, read_mask

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

HEIGHT, WIDTH = 40, 56
ROWS, COLUMNS = np.mgrid[:HEIGHT, :WIDTH]
# 16 levels a band, so that a palette holds all of its colours.
COLOUR = (np.dstack([ROWS // 10, COLUMNS // 14, (ROWS + COLUMNS) // 24]) * 51).astype(np.uint8)
GREY = (ROWS * 4 + COLUMNS).astype(np.uint8)
BANDS = COLOUR.transpose(2, 0, 1)


def palette(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image).quantize(256)


def by_gdal(path, array, **options):
    size = {"count": len(array), "height": array.shape[1], "width": array.shape[2], "dtype": array.dtype}
    with rasterio.open(path, "w", driver="GTiff", **size, **options) as file:
        file.write(array)


def packed(path, values, bits):
    """A grey TIFF with samples of any number of bits, by hand."""
    height, width = values.shape
    each = np.unpackbits(values.astype(">u2").view(np.uint8).reshape(height, width, 2), axis=-1)[..., 16 - bits :]
    data = np.packbits(each.reshape(height, -1), axis=-1).tobytes()
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", 9) + entries + bytes(4))


def with_chunk(png: bytes, name: bytes, content: bytes) -> bytes:
    """A PNG with one more chunk before its pixels."""
    place = png.index(b"IDAT") - 4
    chunk = struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return png[:place] + chunk + png[place:]


def png_of(image: Image.Image, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def turned_png(path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.ascontiguousarray(np.rot90(COLOUR))).save(path, exif=exif)


ENCODINGS = {
    "png": lambda p: Image.fromarray(COLOUR).save(p),
    "imagecodecs.png": lambda p: p.write_bytes(imagecodecs.png_encode(COLOUR)),
    "palette.png": lambda p: palette(COLOUR).save(p),
    "16.png": lambda p: p.write_bytes(imagecodecs.png_encode(COLOUR.astype(np.uint16) * 257)),
    "alpha.png": lambda p: Image.fromarray(COLOUR).convert("RGBA").save(p),
    "turned.png": turned_png,
    "webp": lambda p: Image.fromarray(COLOUR).save(p, lossless=True),
    "strips.tif": lambda p: tifffile.imwrite(p, COLOUR, photometric="rgb", rowsperstrip=7),
    "tiles.tif": lambda p: tifffile.imwrite(p, COLOUR, photometric="rgb", tile=(16, 16), compression="zlib"),
    "planar.tif": lambda p: tifffile.imwrite(p, BANDS, photometric="rgb", planarconfig="separate"),
    "bands.tif": lambda p: by_gdal(p, BANDS, photometric="minisblack", interleave="band"),
    "lzw.tif": lambda p: tifffile.imwrite(p, COLOUR, photometric="rgb", compression="lzw", predictor=True),
    "zstd.tif": lambda p: tifffile.imwrite(p, COLOUR, photometric="rgb", compression="zstd"),
    "deflate.tif": lambda p: by_gdal(p, BANDS, photometric="rgb", compress="deflate"),
    "palette.tif": lambda p: palette(COLOUR).save(p),
    "big-endian.tif": lambda p: tifffile.imwrite(p, COLOUR.astype(">u2") * 257, photometric="rgb", byteorder=">"),
    "bigtiff.tif": lambda p: tifffile.imwrite(p, COLOUR, photometric="rgb", bigtiff=True),
    "float.tif": lambda p: tifffile.imwrite(p, (COLOUR / 255).astype(np.float32), photometric="rgb"),
    "turned.tif": lambda p: Image.fromarray(np.ascontiguousarray(np.rot90(COLOUR))).save(p, tiffinfo={274: 6}),
    "alpha.tif": lambda p: Image.fromarray(COLOUR).convert("RGBA").save(p),
    "imagej.tif": lambda p: tifffile.imwrite(p, BANDS, imagej=True, metadata={"axes": "CYX"}),
    "ome.tif": lambda p: tifffile.imwrite(p, BANDS, ome=True, metadata={"axes": "CYX"}, photometric="minisblack"),
    "pillow-lzw.tif": lambda p: Image.fromarray(COLOUR).save(p, compression="tiff_lzw"),
    "last.npy": lambda p: np.save(p, COLOUR),
    "first.npy": lambda p: np.save(p, np.asfortranarray(BANDS)),
    "batch.npy": lambda p: np.save(p, BANDS[None]),
    "big-endian.npy": lambda p: np.save(p, (BANDS / 255).astype(">f8")),
    "named.jpg": lambda p: p.write_bytes(png_of(Image.fromarray(COLOUR))),
}


@pytest.mark.parametrize("name", ENCODINGS)
def test_one_picture_in_many_encodings(tmp_path, name):
    path = tmp_path / (name if "." in name else f"x.{name}")
    ENCODINGS[name](path)
    torch.testing.assert_close(read_image(path).values[0].double(), torch.from_numpy(BANDS / 255), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["cmyk.tif", "ycbcr.tif", "x.jpg", "in-tiff.tif"])
def test_encodings_that_lose_a_little(tmp_path, name):
    path = tmp_path / name
    smooth = np.dstack([ROWS * 5, COLUMNS * 4, ROWS + COLUMNS]).astype(np.uint8)
    image = Image.fromarray(smooth)
    if name == "in-tiff.tif":
        by_gdal(path, smooth.transpose(2, 0, 1), photometric="ycbcr", compress="jpeg", jpeg_quality=95)
    else:
        image = {"cmyk.tif": image.convert("CMYK"), "ycbcr.tif": image.convert("YCbCr")}.get(name, image)
        image.save(path, **({"quality": 97, "subsampling": 0} if name == "x.jpg" else {}))
    values = read_image(path).values[0].permute(1, 2, 0).numpy()
    assert np.abs(values - smooth / 255).max() < 0.04


@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_formats_are_turned_alike(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(GREY)
    image.save(tmp_path / "x.tif", tiffinfo={274: orientation})
    image.save(tmp_path / "x.png", exif=exif)
    image.save(tmp_path / "x.webp", exif=exif, lossless=True)
    image.save(tmp_path / "x.jpg", exif=exif, quality=100)
    with Image.open(tmp_path / "x.jpg") as file:
        from PIL import ImageOps

        expected = np.asarray(ImageOps.exif_transpose(file)) / 255
    for name in ("x.tif", "x.png", "x.webp", "x.jpg"):
        assert np.abs(read_image(tmp_path / name).values[0, 0].numpy() - expected).max() < 0.01


class TestBits:
    @pytest.mark.parametrize("bits", [1, 2, 4, 10, 12, 14])
    def test_white_is_the_largest_of_its_bits(self, tmp_path, bits):
        levels = np.linspace(0, 2**bits - 1, 1024).round().astype(np.uint16).reshape(32, 32)
        packed(tmp_path / "x.tif", levels, bits)
        image = read_image(tmp_path / "x.tif")
        torch.testing.assert_close(
            image.values[0, 0].double(), torch.from_numpy(levels / (2**bits - 1)), rtol=0, atol=1e-6
        )
        assert image.quantisation == pytest.approx(1 / (2**bits - 1) / 12**0.5)
        assert image.looks_like_bits is None

    def test_few_bits_of_a_png(self, tmp_path):
        (tmp_path / "x.png").write_bytes(png_of(Image.fromarray(GREY > 99)))
        assert read_image(tmp_path / "x.png").quantisation == pytest.approx(1 / 12**0.5)

    @pytest.mark.parametrize(
        ("largest", "bits"), [(31, None), (255, 8), (1000, 10), (3107, 12), (10000, 14), (16384, None)]
    )
    def test_fewer_bits_than_the_file_has_are_noticed(self, tmp_path, largest, bits):
        tifffile.imwrite(tmp_path / "x.tif", np.array([[0, largest]], np.uint16))
        np.save(tmp_path / "x.npy", np.array([[0, largest]], np.int16))
        (tmp_path / "x.png").write_bytes(imagecodecs.png_encode(np.array([[0, largest]], np.uint16)))
        assert [read_image(tmp_path / f"x.{s}").looks_like_bits for s in ("tif", "npy", "png")] == [bits] * 3
        image = read_image(tmp_path / "x.tif", scale=4095)
        assert image.looks_like_bits is None
        assert image.quantisation == pytest.approx(1 / 4095 / 12**0.5)

    def test_missing_values_are_not_looked_at(self, tmp_path):
        tifffile.imwrite(tmp_path / "x.tif", np.array([[65535, 4000]], np.uint16))
        assert read_image(tmp_path / "x.tif", nodata=65535).looks_like_bits == 12

    @pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.int64, np.uint64])
    def test_integers_beyond_16_bits_need_a_scale(self, tmp_path, dtype):
        np.save(tmp_path / "x.npy", np.array([[0, 255]], dtype))
        with pytest.raises(ValueError, match=r"beyond 16 bits must come with the value that is white.*255.*--scale"):
            read_image(tmp_path / "x.npy")
        assert read_image(tmp_path / "x.npy", scale=255).values.flatten().tolist() == [0.0, 1.0]
        assert read_mask(tmp_path / "x.npy").flatten().tolist() == [False, True]
        assert read_kernel(tmp_path / "x.npy").tolist() == [[0.0, 255.0]]

    @pytest.mark.parametrize("scale", [1e300, 1e-300, 1e9])
    def test_a_scale_that_does_not_fit(self, tmp_path, scale):
        np.save(tmp_path / "x.npy", np.array([[0, 255]], np.uint8))
        with pytest.raises(ValueError, match=r"scale must be of the size|must be finite in single precision"):
            read_image(tmp_path / "x.npy", scale=scale)


class TestInverted:
    def test_white_is_zero(self, tmp_path):
        tifffile.imwrite(tmp_path / "grey.tif", 255 - GREY, photometric="miniswhite")
        tifffile.imwrite(tmp_path / "deep.tif", 4095 - GREY.astype(np.uint16), photometric="miniswhite")
        np.testing.assert_allclose(read_image(tmp_path / "grey.tif").values[0, 0], GREY / 255, atol=1e-6)
        np.testing.assert_allclose(read_image(tmp_path / "deep.tif", scale=4095).values[0, 0], GREY / 4095, atol=1e-6)
        np.testing.assert_allclose(read_kernel(tmp_path / "grey.tif"), GREY / 255, atol=1e-6)

    def test_the_missing_value_is_compared_as_it_is_written(self, tmp_path):
        array = np.array([[0, 255], [7, 9]], np.uint8)
        tifffile.imwrite(tmp_path / "x.tif", array, photometric="miniswhite", extratags=[(42113, 2, 2, b"7\0", True)])
        assert read_image(tmp_path / "x.tif").values.isnan().flatten().tolist() == [False, False, True, False]


HOLED = np.ones((HEIGHT, WIDTH), bool)
HOLED[10:20, 10:30] = False
MASKS = {
    "bilevel.png": lambda p: Image.fromarray(HOLED).save(p),
    "grey.png": lambda p: Image.fromarray(HOLED.astype(np.uint8) * 255).save(p),
    "ones.png": lambda p: Image.fromarray(HOLED.astype(np.uint8)).save(p),
    "alpha.png": lambda p: Image.fromarray(np.dstack([np.full_like(GREY, 9), HOLED.astype(np.uint8) * 255])).save(p),
    "colour.png": lambda p: p.write_bytes(
        with_chunk(png_of(Image.fromarray(np.where(HOLED, 200, 7).astype(np.uint8))), b"tRNS", struct.pack(">H", 7))
    ),
    "bilevel.tif": lambda p: Image.fromarray(HOLED).save(p),
    "white-is-0.tif": lambda p: Image.fromarray(HOLED).save(p, tiffinfo={262: 0}),
    "fax.tif": lambda p: Image.fromarray(HOLED).save(p, compression="group4"),
    "fax3.tif": lambda p: Image.fromarray(HOLED).save(p, compression="group3"),
    "fax-white-is-0.tif": lambda p: Image.fromarray(HOLED).save(p, compression="group4", tiffinfo={262: 0}),
    "fax-turned.tif": lambda p: Image.fromarray(np.ascontiguousarray(np.rot90(HOLED))).save(
        p, compression="group4", tiffinfo={274: 6}
    ),
    "grey-white-is-0.tif": lambda p: tifffile.imwrite(
        p, np.where(HOLED, 0, 255).astype(np.uint8), photometric="miniswhite"
    ),
    "bool.npy": lambda p: np.save(p, HOLED),
    "nan.npy": lambda p: np.save(p, np.where(HOLED, 1.0, np.nan)),
    "int64.npy": lambda p: np.save(p, HOLED.astype(int)),
    "lossless.webp": lambda p: Image.fromarray(HOLED.astype(np.uint8) * 255).save(p, lossless=True),
}


@pytest.mark.parametrize("name", MASKS)
def test_one_mask_in_many_encodings(tmp_path, name):
    MASKS[name](tmp_path / name)
    mask = read_mask(tmp_path / name)
    assert mask.dtype == torch.bool
    assert all(np.array_equal(band, HOLED) for band in mask[0])


class TestTransparency:
    @pytest.mark.parametrize("mode", ["L", "RGB", "P"])
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    def test_a_transparent_colour_is_missing(self, tmp_path, mode, dtype):
        array = np.full((16, 16, 3), 200, dtype)
        array[4:8, 4:8] = 0
        if dtype == np.uint16:
            if mode == "P":
                pytest.skip("palettes are of 8 bits")
            image = array if mode == "RGB" else array[..., 0].copy()
            colour = struct.pack(">3H" if mode == "RGB" else ">H", *([0] * (3 if mode == "RGB" else 1)))
            (tmp_path / "x.png").write_bytes(with_chunk(imagecodecs.png_encode(image), b"tRNS", colour))
        else:
            image = Image.fromarray(array).convert("L") if mode == "L" else Image.fromarray(array)
            image = image.quantize(4) if mode == "P" else image
            image.save(tmp_path / "x.png", transparency=image.getpixel((5, 5)))
        missing = read_image(tmp_path / "x.png").values[0].isnan()
        assert missing.shape[0] == (1 if mode == "L" else 3)
        assert all(np.array_equal(band, array[..., 0] == 0) for band in missing)

    def test_nothing_transparent_in_a_kernel_counts(self, tmp_path):
        kernel = np.zeros((5, 5, 4), np.uint8)
        kernel[1:4, 1:4] = (30, 60, 90, 255)
        kernel[0, 0] = (255, 255, 255, 0)
        Image.fromarray(kernel).save(tmp_path / "x.png")
        assert read_kernel(tmp_path / "x.png").numpy() == pytest.approx((kernel[..., 3] > 0) * 60 / 255, abs=1e-6)

    def test_gdal_masks_and_alpha(self, tmp_path):
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
            by_gdal(tmp_path / "mask.tif", GREY[None])
            with rasterio.open(tmp_path / "mask.tif", "r+") as file:
                file.write_mask(HOLED)
                file.build_overviews([2])
        located = {"crs": "EPSG:32631", "transform": rasterio.Affine(2, 0, 5, 0, -2, 9)}
        opacity = np.where(HOLED, 255, 0).astype(np.uint8)[None]
        by_gdal(tmp_path / "alpha.tif", np.concatenate((BANDS, opacity)), **located)
        by_gdal(tmp_path / "infrared.tif", np.concatenate((BANDS, GREY[None])), **located)
        assert np.array_equal(read_image(tmp_path / "mask.tif").values[0, 0].isnan(), ~HOLED)
        alpha = read_image(tmp_path / "alpha.tif")
        assert alpha.values.shape[1] == alpha.raster.count == 3
        assert np.array_equal(alpha.values[0, 2].isnan(), ~HOLED)
        infrared = read_image(tmp_path / "infrared.tif")
        assert infrared.values.shape[1] == infrared.raster.count == 4
        assert not infrared.values.isnan().any()


class TestNodata:
    @pytest.mark.parametrize(
        "text", ["-3.4028234663852886e+38", "-3.40282346638529e+38", "-3.4028235e+38", "-3.40282306074e+38", "-3.4e+38"]
    )
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_all_spellings_of_the_lowest_number(self, tmp_path, text, dtype, capfd):
        array = np.full((8, 8), 0.5, dtype)
        array[:3] = np.finfo(np.float32).min
        tifffile.imwrite(tmp_path / "x.tif", array, extratags=[(42113, "s", 0, text, True)])
        for options in ({}, {"nodata": float(text)}):
            missing = read_image(tmp_path / "x.tif", **options).values[0, 0].isnan()
            assert np.array_equal(missing, array < 0)
        assert capfd.readouterr() == ("", "")

    @pytest.mark.parametrize(
        ("dtype", "nodata", "count"),
        [
            (np.uint8, -9999, 0),
            (np.uint8, 0.5, 0),
            (np.uint8, 0, 1),
            (np.int16, -1, 1),
            (np.float16, -1e5, 0),
            (np.float32, 0.1, 1),
        ],
    )
    def test_it_is_compared_in_the_files_type(self, tmp_path, dtype, nodata, count):
        np.save(
            tmp_path / "x.npy",
            np.array([[0, 1, 2, -1 if dtype == np.int16 else 0.1 if dtype == np.float32 else 3]], dtype),
        )
        assert int(read_image(tmp_path / "x.npy", nodata=nodata).values.isnan().sum()) == count


class TestLayout:
    @pytest.mark.parametrize("count", [1, 2, 3])
    def test_photographs_of_a_few_rows_or_columns(self, tmp_path, count):
        for suffix in (".png", ".webp", ".jpg", ".tif"):
            Image.fromarray(COLOUR[:count]).save(tmp_path / f"rows{suffix}")
            Image.fromarray(np.ascontiguousarray(COLOUR[:, :count])).save(tmp_path / f"columns{suffix}")
            assert read_image(tmp_path / f"rows{suffix}").values.shape == (1, 3, count, WIDTH)
            assert read_image(tmp_path / f"columns{suffix}").values.shape == (1, 3, HEIGHT, count)

    @pytest.mark.parametrize("shape", [(13, 40, 12), (200, 9, 8), (2, 1, 1)])
    def test_the_bands_of_a_tiff_are_those_it_names(self, tmp_path, shape):
        tifffile.imwrite(
            tmp_path / "x.tif", np.zeros(shape, np.uint8), photometric="minisblack", planarconfig="separate"
        )
        assert read_image(tmp_path / "x.tif").values.shape == (1, *shape)

    def test_several_images_are_refused_by_name(self, tmp_path):
        tifffile.imwrite(tmp_path / "pages.tif", np.zeros((3, 40, 56), np.uint8), photometric="minisblack")
        tifffile.imwrite(
            tmp_path / "times.tif", np.zeros((2, 40, 56), np.uint16), imagej=True, metadata={"axes": "TYX"}
        )
        tifffile.imwrite(
            tmp_path / "slices.tif", np.zeros((5, 40, 56), np.uint16), imagej=True, metadata={"axes": "ZYX"}
        )
        tifffile.imwrite(tmp_path / "sizes.tif", GREY)
        tifffile.imwrite(tmp_path / "sizes.tif", GREY[:9], append=True)
        Image.fromarray(GREY).save(tmp_path / "x.webp", save_all=True, append_images=[Image.fromarray(255 - GREY)])
        Image.fromarray(GREY).save(tmp_path / "x.png", save_all=True, append_images=[Image.fromarray(255 - GREY)])
        for name, words in {
            "pages.tif": "3 pages",
            "times.tif": "2 times",
            "slices.tif": "5 slices",
            "sizes.tif": "holds 2, of",
            "x.webp": "is an animation",
            "x.png": "is an animation",
        }.items():
            with pytest.raises(ValueError, match=words):
                read_image(tmp_path / name)


class TestRefusals:
    @pytest.mark.parametrize(
        ("photometric", "name"), [(8, "CIELab"), (32803, "colour filter array"), (34892, "raw"), (99, "99")]
    )
    def test_what_samples_mean(self, tmp_path, photometric, name):
        tifffile.imwrite(tmp_path / "x.tif", COLOUR, photometric="rgb")
        with tifffile.TiffFile(tmp_path / "x.tif", mode="r+b") as file:
            file.pages[0].tags[262].overwrite(photometric)
        with pytest.raises(ValueError, match=f"must be grey, RGB.*{name}.*convert it"):
            read_image(tmp_path / "x.tif")

    def test_headers_that_claim_too_much(self, tmp_path):
        good = png_of(Image.fromarray(COLOUR))
        header = b"IHDR" + struct.pack(">2I5B", 40000, 40000, 8, 2, 0, 0, 0)
        (tmp_path / "x.png").write_bytes(good[:12] + header + struct.pack(">I", zlib.crc32(header)) + good[33:])
        with (tmp_path / "x.npy").open("wb") as file:
            np.lib.format.write_array_header_1_0(
                file, {"descr": "<f4", "fortran_order": False, "shape": (3, 10**6, 10**6)}
            )
        with (tmp_path / "short.npy").open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (9000, 9000)})
        packed(tmp_path / "x.tif", np.zeros((4, 4)), 8)
        with tifffile.TiffFile(tmp_path / "x.tif", mode="r+b") as file:
            for tag in (256, 257, 278):
                file.pages[0].tags[tag].overwrite(2**31 - 1)
        for name in ("x.png", "x.npy", "x.tif"):
            with pytest.raises(ValueError, match=r"must have 1 to \d+ values.*cut it"):
                read_image(tmp_path / name)
        with pytest.raises(ValueError, match="must be complete"):
            read_image(tmp_path / "short.npy")

    def test_images_without_pixels(self, tmp_path):
        np.save(tmp_path / "x.npy", np.zeros((3, 0, 4)))
        with pytest.raises(ValueError, match="must have 1 to"):
            read_image(tmp_path / "x.npy")

    @pytest.mark.parametrize("scale", [-1, 0, np.inf, np.nan])
    def test_scales(self, tmp_path, scale):
        np.save(tmp_path / "x.npy", GREY)
        with pytest.raises(ValueError, match="scale must be a positive, finite number"):
            read_image(tmp_path / "x.npy", scale=scale)

    @pytest.mark.parametrize("nodata", ["a", object()])
    def test_nodata_is_a_number(self, tmp_path, nodata):
        np.save(tmp_path / "x.npy", GREY)
        with pytest.raises(TypeError, match="nodata must be a finite number"):
            read_image(tmp_path / "x.npy", nodata=nodata)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".npy"])
def test_names_that_are_no_text(tmp_path, suffix):
    plain = tmp_path / f"x{suffix}"
    np.save(plain, GREY) if suffix == ".npy" else Image.fromarray(GREY).save(plain)
    strange = tmp_path / f"ph\udcf6to{suffix}"
    try:
        strange.write_bytes(plain.read_bytes())
    except OSError:
        pytest.skip("this file system has no such names")
    assert torch.equal(read_image(strange).values, read_image(plain).values)


@pytest.mark.parametrize("quality", [30, 60, 90])
def test_the_error_of_a_jpeg_is_told_from_its_table(tmp_path, quality):
    """Of a spectrum like that of photographs, within the factor that the docstring names."""
    generator = np.random.default_rng(quality)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(256), np.fft.fftfreq(256), indexing="ij"))
    spectrum = np.fft.fft2(generator.standard_normal((256, 256))) / np.maximum(frequency, 1 / 256)
    grey = np.fft.ifft2(spectrum).real
    grey = np.clip(128 + 45 * grey / grey.std(), 0, 255).round().astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "x.jpg", quality=quality)
    image = read_image(tmp_path / "x.jpg")
    true = float((image.values[0, 0] - torch.from_numpy(grey) / 255).square().mean().sqrt())
    assert 1 / 1.8 < image.jpeg_quantisation / true < 1.8
    Image.fromarray(grey).save(tmp_path / "x.png")
    assert read_image(tmp_path / "x.png").jpeg_quantisation is None


def test_the_errors_of_a_large_jpeg_are_told_from_its_header(tmp_path, recwarn):
    from pyro_vble.io.photographs import jpeg_error_of

    Image.new("L", (14_000, 13_000)).save(tmp_path / "large.jpg", quality=30)
    Image.new("L", (64, 64)).save(tmp_path / "small.jpg", quality=30)
    (tmp_path / "damaged.jpg").write_bytes(b"\xff\xd8\xff\xe0" + b"\0" * 40)
    assert jpeg_error_of(tmp_path / "large.jpg") == jpeg_error_of(tmp_path / "small.jpg") > 0.01
    assert jpeg_error_of(tmp_path / "damaged.jpg") is None
    assert jpeg_error_of(tmp_path / "none.jpg") is None
    assert not recwarn.list
