import functools

import numpy as np
import pytest
import rasterio
import tifffile
import torch
from PIL import Image, ImageCms
from typer.testing import CliRunner

from pyro_vble.cli.app import app
from pyro_vble.io.atomic import atomic_path
from pyro_vble.io.images import read_image, write_image


@pytest.mark.parametrize("bands", [1, 3, 4])
@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [(".png", np.uint8), (".tif", np.uint8), (".tif", np.uint16), (".tif", np.float32), (".npy", np.float64)],
)
def test_round_trip(tmp_path, suffix, dtype, bands):
    limit = np.iinfo(dtype).max if np.dtype(dtype).kind == "u" else 1.0
    values = (torch.rand(1, bands, 9, 7) * limit).round() / limit if limit > 1 else torch.rand(1, bands, 9, 7)
    path = write_image(tmp_path / f"image{suffix}", values, dtype=dtype)
    again = read_image(path)
    assert again.dtype == dtype
    torch.testing.assert_close(again.values, values.float(), rtol=0, atol=1e-6)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_sixteen_bit_png_keeps_its_bits(tmp_path):
    from skimage.io import imsave

    values = np.arange(63, dtype=np.uint16).reshape(7, 9) * 1000
    imsave(tmp_path / "grey.png", values, check_contrast=False)
    image = read_image(tmp_path / "grey.png")
    assert image.dtype == np.uint16
    np.testing.assert_allclose(image.values[0, 0], values / 65535, rtol=1e-6)


def test_scale_nodata_and_transparency(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.array([[0, 4095], [2048, 7]], np.uint16))
    image = read_image(tmp_path / "a.tif", scale=4095, nodata=7)
    assert image.values[0, 0, 0, 1] == 1
    assert torch.isnan(image.values[0, 0, 1, 1])
    rgba = np.full((4, 5, 4), 255, np.uint8)
    rgba[1, 2, 3] = 0
    Image.fromarray(rgba).save(tmp_path / "b.png")
    values = read_image(tmp_path / "b.png").values
    assert values.shape == (1, 3, 4, 5)
    assert int(torch.isnan(values).sum()) == 3


def test_photographs_stand_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(tmp_path / "p.jpg", exif=exif)
    assert read_image(tmp_path / "p.jpg").values.shape == (1, 3, 6, 4)


def test_colour_modes_become_rgb(tmp_path):
    rgb = Image.fromarray(np.full((4, 6, 3), 128, np.uint8))
    rgb.convert("CMYK").save(tmp_path / "cmyk.jpg")
    rgb.quantize(8).save(tmp_path / "palette.png")
    for name in ("cmyk.jpg", "palette.png"):
        values = read_image(tmp_path / name).values
        assert values.shape == (1, 3, 4, 6)
        assert float((values - 128 / 255).abs().max()) < 0.02


def test_values_beyond_the_range_are_clipped(tmp_path):
    path = write_image(tmp_path / "x.png", torch.tensor([[[[-0.5, 1.5]]]]))
    assert read_image(path).values.flatten().tolist() == [0.0, 1.0]


class TestErrors:
    def test_missing_unknown_and_damaged(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            read_image(tmp_path / "none.png")
        (tmp_path / "a.doc").write_text("")
        with pytest.raises(ValueError, match=r"must be one of .*\.png"):
            read_image(tmp_path / "a.doc")
        (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
        with pytest.raises(ValueError, match="cannot be read"):
            read_image(tmp_path / "a.png")

    def test_shapes_and_types(self, tmp_path):
        np.save(tmp_path / "a.npy", np.zeros((40, 50, 60)))
        with pytest.raises(ValueError, match="up to 16 bands"):
            read_image(tmp_path / "a.npy")
        np.save(tmp_path / "b.npy", np.zeros((4, 4), complex))
        with pytest.raises(ValueError, match="real numbers"):
            read_image(tmp_path / "b.npy")
        with pytest.raises(ValueError, match=r"written as \.png"):
            write_image(tmp_path / "a.jpg", torch.zeros(1, 3, 4, 4))


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_the_nodata_value_of_a_geotiff_is_its_own(tmp_path):
    array = np.array([[0, 1], [2, 7]], np.uint16)
    tifffile.imwrite(tmp_path / "scene.tif", array, extratags=[(42113, 2, 2, b"7\0", True)])
    assert torch.isnan(read_image(tmp_path / "scene.tif").values).sum() == 1
    assert torch.isnan(read_image(tmp_path / "scene.tif", nodata=0).values[0, 0]).tolist() == [
        [True, False],
        [False] * 2,
    ]


@functools.cache  # it holds the time
def _profile(space):
    """An ICC profile whose colours are others than those of screens."""
    content = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    content[16:20] = space
    return bytes(content)


def _saved(path, array, profile):
    if path.suffix == ".tif":
        photometric = "rgb" if array.ndim == 3 else "minisblack"
        tifffile.imwrite(path, array, photometric=photometric, iccprofile=profile)
    else:
        Image.fromarray(array).save(path, icc_profile=profile)


class TestColourProfiles:
    @pytest.mark.parametrize("written", [".png", ".tif"])
    @pytest.mark.parametrize("read", [".png", ".jpg", ".webp", ".tif"])
    @pytest.mark.parametrize(("space", "shape"), [(b"RGB ", (8, 9, 3)), (b"GRAY", (8, 9))])
    def test_they_stay_with_the_image(self, tmp_path, read, written, space, shape):
        if read == ".webp" and len(shape) == 2:
            pytest.skip("WebP has colours alone")
        _saved(tmp_path / f"in{read}", np.full(shape, 90, np.uint8), _profile(space))
        image = read_image(tmp_path / f"in{read}")
        assert image.profile == _profile(space)
        path = write_image(tmp_path / f"out{written}", image.values, dtype=image.dtype, profile=image.profile)
        assert read_image(path).profile == _profile(space)

    @pytest.mark.parametrize("content", [b"stub" * 15, b"\0" * 2**24, (2**24).to_bytes(4, "big") + b"\0" * (2**24 - 4)])
    def test_what_is_none_is_not_kept(self, tmp_path, content):
        """Too short, of another length than it says, or longer than any: of a kilobyte that expands to many."""
        Image.new("RGB", (8, 8)).save(tmp_path / "x.png", icc_profile=content)
        assert read_image(tmp_path / "x.png").profile is None

    def test_one_of_other_bands_is_not_written(self, tmp_path):
        for bands, space in ((1, b"RGB "), (3, b"GRAY"), (3, b"CMYK")):
            path = write_image(tmp_path / "out.png", torch.rand(1, bands, 8, 9), profile=_profile(space))
            assert read_image(path).profile is None

    def test_one_of_colours_that_are_converted_away_is_none(self, tmp_path):
        Image.fromarray(np.full((8, 9, 4), 90, np.uint8), "CMYK").save(
            tmp_path / "x.jpg", icc_profile=_profile(b"CMYK")
        )
        assert read_image(tmp_path / "x.jpg").profile is None

    def test_the_command_keeps_them(self, tmp_path):
        _saved(tmp_path / "in.png", np.full((16, 16, 3), 90, np.uint8), _profile(b"RGB "))
        arguments = ["--problem", "denoise", "--noise", "0.1", "--steps", "1", "--samples", "2", "--draws", "0"]
        where = [str(tmp_path / "in.png"), "--output", str(tmp_path / "out")]
        assert CliRunner().invoke(app, ["restore", *where, *arguments]).exit_code == 0
        assert read_image(tmp_path / "out" / "restored.png").profile == _profile(b"RGB ")


@pytest.mark.parametrize("bands", [1, 3])
def test_a_mask_beside_a_tiff_says_what_is_missing(tmp_path, bands):
    """As GDAL writes it unless it is told to put it inside."""
    path, mask = tmp_path / "x.tif", np.full((40, 50), 255, np.uint8)
    mask[:10] = 0
    values = np.full((bands, 40, 50), 90, np.uint8)
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False),
        rasterio.open(path, "w", driver="GTiff", width=50, height=40, count=bands, dtype="uint8") as file,
    ):
        file.write(values)
        file.write_mask(mask)
    assert (tmp_path / "x.tif.msk").is_file()
    missing = read_image(path).values.isnan()
    assert bool(missing[..., :10, :].all())
    assert not bool(missing[..., 10:, :].any())
    (tmp_path / "x.tif").rename(tmp_path / "y.tif")
    tifffile.imwrite(tmp_path / "y.tif.msk", mask[:, :20])
    with pytest.raises(ValueError, match="A mask must be of its image's size, 40x50"):
        read_image(tmp_path / "y.tif")
    (tmp_path / "y.tif.msk").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"The mask beside y\.tif, .*y\.tif\.msk, cannot be read"):
        read_image(tmp_path / "y.tif")
