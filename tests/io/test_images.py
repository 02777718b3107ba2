import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

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
