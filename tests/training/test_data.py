import gzip
import struct

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from pyro_vble.io.images import write_image
from pyro_vble.training import RandomCrops, read_images
from pyro_vble.training.data import ImageSet, downscaled
from pyro_vble.training.recipes import Data


def noise(*shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


class TestReading:
    @pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
    def test_lossless_photographs_keep_their_integers(self, tmp_path, suffix):
        array = noise(40, 50, 3)
        if suffix == ".tif":
            tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb")
        else:
            Image.fromarray(array).save(tmp_path / f"a{suffix}", lossless=True)
        images = read_images(tmp_path)
        assert images.images[0].dtype == torch.uint8
        assert np.array_equal(images.images[0].permute(1, 2, 0), array)

    def test_subfolders_and_several_folders_in_order(self, tmp_path):
        (tmp_path / "b" / "deep").mkdir(parents=True)
        (tmp_path / "a").mkdir()
        for i, name in enumerate(("b/2.png", "b/deep/3.png", "a/1.png")):
            Image.fromarray(np.full((8, 8 + i), i, np.uint8)).save(tmp_path / name)
        images = read_images([tmp_path / "b", tmp_path / "a"])
        assert [int(image.max()) for image in images.images] == [0, 1, 2]
        assert all(image.shape[0] == 3 for image in images.images)

    def test_sixteen_bits_and_eight_share_a_scale(self, tmp_path):
        deep = noise(20, 20, dtype=np.uint16)
        tifffile.imwrite(tmp_path / "deep.tif", deep)
        Image.fromarray(np.full((20, 20), 51, np.uint8)).save(tmp_path / "flat.png")
        images = read_images(tmp_path, bands=1)
        assert images.white == 65535
        assert images.images[0].dtype == images.images[1].dtype == torch.uint16
        torch.testing.assert_close(images.middle(0, 20, 4)[0, 0], torch.from_numpy(deep / 65535).float())
        torch.testing.assert_close(images.middle(1, 20, 4), torch.full((1, 1, 20, 20), 0.2))

    def test_twelve_bits_in_sixteen(self, tmp_path):
        tifffile.imwrite(tmp_path / "a.tif", np.full((20, 20), 4095, np.uint16))
        Image.fromarray(np.full((20, 20), 255, np.uint8)).save(tmp_path / "b.png")  # has a scale of its own
        images = read_images(tmp_path, scale=4095)
        assert [float(images.middle(i, 20, 4).min()) for i in range(2)] == [1.0, 1.0]

    def test_bands_beyond_the_networks_are_left_out(self, tmp_path):
        tifffile.imwrite(tmp_path / "a.tif", noise(4, 20, 20), photometric="minisblack", planarconfig="separate")
        assert np.array_equal(read_images(tmp_path).images[0], tifffile.imread(tmp_path / "a.tif")[:3])

    def test_too_few_bands_are_not_made_up(self, tmp_path):
        write_image(tmp_path / "rgb.tif", torch.rand(3, 9, 9))
        write_image(tmp_path / "four.tif", torch.rand(4, 9, 9))
        found = read_images(tmp_path, bands=4)
        assert len(found.images) == 1
        assert "3 bands are fewer than the 4" in found.skipped[str(tmp_path / "rgb.tif")]

    def test_small_images_that_differ_anywhere_have_another_fingerprint(self):
        black = torch.zeros(1, 28, 28, dtype=torch.uint8)
        bar = black.clone()
        bar[:, 12:14] = 200
        hole = {0: torch.zeros(28, 28, dtype=torch.bool).index_fill(0, torch.tensor([3]), True)}
        found = [ImageSet([black]), ImageSet([bar]), ImageSet([black], hole)]
        assert len({images.fingerprint for images in found}) == 3

    def test_a_one_band_image_of_colours_is_their_mean(self, tmp_path):
        Image.fromarray(np.tile(np.uint8([30, 60, 90]), (8, 8, 1))).save(tmp_path / "a.png")
        assert read_images(tmp_path, bands=1).images[0].unique().tolist() == [60]

    def test_gdal_nodata_and_nan_are_missing(self, tmp_path):
        array = noise(64, 64, dtype=np.uint16) // 2 + 1
        array[:, 40:] = 0
        tifffile.imwrite(tmp_path / "a.tif", array, extratags=[(42113, 2, 2, b"0\0", True)])
        holed = np.random.default_rng(0).random((64, 64)).astype(np.float32)
        holed[20, 30] = np.nan
        tifffile.imwrite(tmp_path / "b.tif", holed)
        images = read_images(tmp_path, smallest=32)
        assert torch.equal(images.missing[0], torch.from_numpy(array == 0))
        assert images.missing[1].nonzero().tolist() == [[20, 30]]
        assert float(images.middle(0, 64, 32).min()) > 0
        assert images.middle(1, 64, 32).shape == (1, 3, 32, 32)
        with pytest.raises(ValueError, match="no square of 60 pixels is free of missing ones"):
            read_images(tmp_path, smallest=60)

    @pytest.mark.parametrize("suffix", ["", ".gz"])
    def test_idx_files(self, tmp_path, suffix):
        array = noise(5, 28, 28)
        content = struct.pack(">4i", 2051, *array.shape) + array.tobytes()
        (tmp_path / f"train-images-idx3-ubyte{suffix}").write_bytes(gzip.compress(content) if suffix else content)
        (tmp_path / f"train-labels-idx1-ubyte{suffix}").write_bytes(b"not looked at")
        images = read_images(tmp_path, bands=1)
        assert np.array_equal(torch.stack(images.images)[:, 0], array)
        (tmp_path / "train-images-idx3-ubyte").write_bytes(content)
        assert len(read_images(tmp_path, bands=1).images) == 5  # unpacked beside its archive

    def test_broken_files_are_named_and_skipped(self, tmp_path):
        Image.fromarray(noise(40, 40, 3)).save(tmp_path / "good.png")
        Image.fromarray(noise(40, 40, 3)).save(tmp_path / "whole.jpg")
        (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:300])
        (tmp_path / "cut.tif").write_bytes(b"II*\0garbage")
        (tmp_path / "header-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, 5, 28, 28))
        whole = gzip.compress(struct.pack(">4i", 2051, 1, 28, 28) + noise(28, 28).tobytes())
        (tmp_path / "cut-idx3-ubyte.gz").write_bytes(whole[:100] + bytes(50) + whole[150:])
        (tmp_path / "empty.png").touch()
        Image.fromarray(noise(10, 40, 3)).save(tmp_path / "small.png")
        tifffile.imwrite(tmp_path / "counts.tif", np.full((40, 40), 3100.0, np.float32))
        (tmp_path / "notes.txt").write_text("no image")
        images = read_images(tmp_path, smallest=32)
        assert len(images.images) == 2
        named = {path.rsplit("/", 1)[1]: reason for path, reason in images.skipped.items()}
        broken = {"cut.jpg", "cut.tif", "header-idx3-ubyte", "cut-idx3-ubyte.gz", "empty.png"}
        assert named.keys() == broken | {"small.png", "counts.tif"}
        assert "fewer than the 32" in named["small.png"]
        assert "set data.scale" in named["counts.tif"]

    def test_what_would_be_black_without_a_word_is_named(self, tmp_path):
        Image.fromarray(noise(40, 40, 3)).save(tmp_path / "good.png")
        np.save(tmp_path / "wide.npy", noise(40, 40).astype(int))
        holed = np.full((40, 40), 0.5, np.float32)
        holed[:9] = -9999
        tifffile.imwrite(tmp_path / "far.tif", holed)
        tifffile.imwrite(tmp_path / "pages.tif", noise(3, 40, 40), photometric="minisblack")
        images = read_images(tmp_path)
        named = {path.rsplit("/", 1)[1]: reason for path, reason in images.skipped.items()}
        assert len(images.images) == 1
        assert named.keys() == {"wide.npy", "far.tif", "pages.tif"}
        assert "data.scale" in named["wide.npy"]
        assert "values reach -9999; if they mark missing pixels, name their value" in named["far.tif"]
        assert "3 pages" in named["pages.tif"]
        wide = read_images(tmp_path / "wide.npy", bands=1, scale=255).images[0]
        np.testing.assert_allclose(wide.numpy() / 65535, noise(1, 40, 40) / 255, atol=1e-5)

    @pytest.mark.parametrize("text", ["-3.4028234663852886e+38", "-3.4028235e+38", "-3.40282306074e+38"])
    def test_the_lowest_number_is_missing_however_it_is_written(self, tmp_path, text):
        array = np.full((40, 40), 0.5, np.float32)
        array[:, :9] = np.finfo(np.float32).min
        tifffile.imwrite(tmp_path / "a.tif", array, extratags=[(42113, "s", 0, text, True)])
        assert torch.equal(read_images(tmp_path, bands=1).missing[0], torch.from_numpy(array < 0))

    def test_samples_mean_what_their_file_says(self, tmp_path):
        grey = noise(40, 40)
        tifffile.imwrite(tmp_path / "a.tif", 255 - grey, photometric="miniswhite")
        Image.fromarray(grey).convert("P").save(tmp_path / "b.tif")
        Image.fromarray(grey).save(tmp_path / "c.png")
        images = read_images(tmp_path, bands=1)
        assert all(np.array_equal(image[0], grey) for image in images.images)

    def test_an_archive_that_claims_too_much(self, tmp_path):
        header = struct.pack(">4i", 2051, 2**31 - 1, 2**15, 2**15)
        (tmp_path / "a-idx3-ubyte.gz").write_bytes(gzip.compress(header + bytes(1000)))
        with pytest.raises(ValueError, match="claims 2147483647x32768x32768"):
            read_images(tmp_path)

    def test_arguments(self, tmp_path):
        with pytest.raises(TypeError, match="folders must be a path or a list of paths; received 5"):
            read_images(5)
        with pytest.raises(ValueError, match="scale must be a positive, finite number"):
            read_images(tmp_path, scale=float("inf"))

    def test_nothing_to_train_on(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="No folder of images"):
            read_images(tmp_path / "nowhere")
        with pytest.raises(ValueError, match=r"of 0 files in .* none can be used"):
            read_images(tmp_path)
        Image.fromarray(noise(10, 10)).save(tmp_path / "small.png")
        with pytest.raises(ValueError, match=r"of 1 files .*small.png: 10x10 pixels are fewer"):
            read_images(tmp_path, smallest=64)


@pytest.mark.parametrize(("count", "held_out"), [(1, 1), (2, 1), (50, 5), (400, 16)])
def test_the_split_holds_out_a_tenth_at_most(count, held_out):
    images = ImageSet([torch.full((1, 2, 2), i, dtype=torch.int32) for i in range(count)])
    training, validation = images.split(16)
    assert len(validation.images) == held_out
    values = {int(i[0, 0, 0]) for i in training.images} ^ {int(i[0, 0, 0]) for i in validation.images}
    assert len(values) == (count if count > 1 else 0)


class TestCrops:
    def images(self, *sizes):
        """Images whose pixels tell image, row and column."""
        return ImageSet(
            [
                torch.stack((torch.full(size, i), *torch.meshgrid(*map(torch.arange, size), indexing="ij"))).byte()
                for i, size in enumerate(sizes)
            ]
        )

    @pytest.mark.parametrize("symmetries", ["none", "horizontal", "all"])
    def test_every_crop_is_a_piece_of_an_image_in_an_allowed_orientation(self, symmetries):
        images = self.images((20, 30), (12, 9))
        crops = RandomCrops(images, Data(crop=8, batch_size=64, symmetries=symmetries))
        seen = set()
        for crop in (crops() * 255).round().long():
            number, rows, columns = crop
            assert int(number.min()) == int(number.max())
            transposed = bool(rows[0, 0] == rows[1, 0])
            row, column = (rows.T, columns.T) if transposed else (rows, columns)
            down, right = int(row[1, 0] - row[0, 0]), int(column[0, 1] - column[0, 0])
            seen.add((transposed, down, right))
            top, left = int(row.min()), int(column.min())
            image = images.images[int(number[0, 0])].long()
            piece = image[:, top : top + 8, left : left + 8]
            if down < 0:
                piece = piece.flip(1)
            if right < 0:
                piece = piece.flip(2)
            assert torch.equal(crop, piece.transpose(1, 2) if transposed else piece)
        allowed = {"none": {(False, 1, 1)}, "horizontal": {(False, 1, 1), (False, 1, -1)}}
        if symmetries == "all":
            assert len(seen) == 8
        else:
            assert seen == allowed[symmetries]

    def test_all_positions_are_equally_likely(self):
        crops = RandomCrops(self.images((10, 9), (8, 8)), Data(crop=8, batch_size=7000, symmetries="none"))
        batch = (crops() * 255).round().long()
        corners = batch[:, :, 0, 0]
        found, counts = corners.unique(dim=0, return_counts=True)
        assert len(found) == 3 * 2 + 1
        # Multinomial with 7 equal parts: five standard deviations.
        assert float((counts - 1000).abs().max()) < 5 * (7000 / 7 * 6 / 7) ** 0.5

    @pytest.mark.parametrize("factor", [1.0, 0.5])
    def test_crops_keep_clear_of_missing_pixels(self, factor):
        image = torch.full((3, 40, 60), 200, dtype=torch.uint8)
        missing = torch.zeros(40, 60, dtype=torch.bool)
        missing[18:20, 25:30] = missing[:, 58:] = True
        image[:, missing] = 0
        data = Data(crop=8, batch_size=500, downscale=(factor,), symmetries="all")
        crops = RandomCrops(ImageSet([image], {0: missing}), data)
        assert float(crops().min()) == pytest.approx(200 / 255)
        if factor == 1.0:
            # Corners of squares of 8 that lie in 40 x 58, less those that touch the hole of 2 x 5.
            assert int((crops.rows * crops.columns).sum()) == (40 - 7) * (58 - 7) - (2 + 7) * (5 + 7)

    def test_sixteen_bits(self):
        image = (54 * torch.arange(3 * 20 * 20, dtype=torch.int32)).reshape(3, 20, 20).to(torch.uint16)  # beyond 2^15
        crops = RandomCrops(ImageSet([image]), Data(crop=20, batch_size=2, symmetries="none"))
        torch.testing.assert_close(crops()[0] * 65535, image.float(), rtol=1e-5, atol=1e-2)

    def test_downscaled_copies_take_part_unless_too_small(self):
        images = self.images((32, 32), (10, 10))
        crops = RandomCrops(images, Data(crop=8, batch_size=4, downscale=(1.0, 0.5)))
        assert crops.widths.tolist() == [32, 10, 16]
        with pytest.raises(ValueError, match="No image has 64 pixels a side"):
            RandomCrops(images, Data(crop=64))

    def test_downscaling_keeps_the_mean(self):
        image = torch.from_numpy(noise(3, 64, 64))
        assert downscaled(image, 0.5).shape == (3, 32, 32)
        assert float(downscaled(image, 0.5).float().mean()) == pytest.approx(float(image.float().mean()), abs=0.5)
        flat = torch.full((3, 64, 64), 77, dtype=torch.uint8)
        assert set(downscaled(flat, 0.7).unique().tolist()) == {77}

    def test_batches_are_laid_out_channels_last_and_seeded(self):
        crops = RandomCrops(self.images((20, 30)), Data(crop=8, batch_size=3, dequantize=True))
        torch.manual_seed(1)
        first = crops()
        torch.manual_seed(1)
        assert torch.equal(first, crops())
        assert first.is_contiguous(memory_format=torch.channels_last)
        residual = first * 255 - (first * 255).round()
        assert 0 < float(residual.abs().max()) <= 0.5 + 1e-3
