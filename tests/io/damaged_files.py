"""Damaged image files, read in a process of their own: ``python damaged_files.py FOLDER COUNT SEED``.

Prints what every reading ended in that is no ValueError or OSError, and the number of readings by outcome last.
"""

import collections
import io
import sys
import warnings
from pathlib import Path

import imagecodecs
import numpy as np
import rasterio
import tifffile
from PIL import Image

from pyro_vble.io.images import read_image, read_kernel, read_mask
from pyro_vble.training import read_images


def whole_files() -> dict[str, bytes]:
    """Small files of all formats, by name."""
    generator = np.random.default_rng(0)
    colour = generator.integers(0, 256, (33, 31, 3), dtype=np.uint8)
    smooth = (np.add.outer(np.arange(33), np.arange(31)) * 3).astype(np.uint8)
    image = Image.fromarray(colour)
    files = {}

    def pillow(name, picture, **options):
        file = io.BytesIO()
        picture.save(file, {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "tif": "TIFF"}[name.split(".")[1]], **options)
        files[name] = file.getvalue()

    def tiff(name, array, **options):
        file = io.BytesIO()
        tifffile.imwrite(file, array, **options)
        files[name] = file.getvalue()

    def npy(name, array):
        file = io.BytesIO()
        np.save(file, array)
        files[name] = file.getvalue()

    exif = Image.Exif()
    exif[0x0112] = 6
    pillow("rgb.png", image, exif=exif)
    pillow("smooth.png", Image.fromarray(smooth))
    pillow("palette.png", image.quantize(16), transparency=3)
    pillow("alpha.png", image.convert("RGBA"))
    files["deep.png"] = imagecodecs.png_encode(colour.astype(np.uint16) * 200)
    pillow("rgb.jpg", image, exif=exif)
    pillow("progressive.jpg", image, progressive=True)
    pillow("cmyk.jpg", image.convert("CMYK"))
    pillow("lossy.webp", image)
    pillow("lossless.webp", image.convert("RGBA"), lossless=True)
    pillow("fax.tif", Image.fromarray(smooth > 90), compression="group4")
    pillow("palette.tif", image.quantize(16))
    pillow("ycbcr.tif", image.convert("YCbCr"))
    pillow("jpeg.tif", image, compression="jpeg")
    tiff("plain.tif", colour, photometric="rgb")
    tiff("lzw.tif", colour, photometric="rgb", compression="lzw", predictor=True)
    tiff("tiled.tif", colour.astype(">u2"), photometric="rgb", tile=(16, 16), compression="zlib", bigtiff=True)
    tiff("imagej.tif", colour.transpose(2, 0, 1).copy(), imagej=True, metadata={"axes": "CYX"})
    tiff("ome.tif", colour.transpose(2, 0, 1).copy(), ome=True, metadata={"axes": "CYX"}, photometric="minisblack")
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.MemoryFile() as memory:
        size = {"driver": "GTiff", "count": 3, "height": 33, "width": 31, "dtype": "uint8"}
        transform = rasterio.Affine(2, 0, 5, 0, -2, 9)
        with memory.open(**size, nodata=7, crs="EPSG:32631", transform=transform, compress="deflate") as file:
            file.write(colour.transpose(2, 0, 1))
            file.write_mask(smooth > 5)
            file.update_tags(1, WAVELENGTH="490")
        files["located.tif"] = bytes(memory.getbuffer())
    npy("bytes.npy", colour)
    npy("floats.npy", smooth.astype(np.float32) / 255)
    return files


def damaged(content: bytes, generator: np.random.Generator) -> bytes:
    """A file with flipped bits, other bytes, a piece missing, twice or of zeros, or its end cut off."""
    file = bytearray(content)
    for _ in range(int(generator.integers(1, 4))):
        # Half of the damage is where headers are.
        reach = len(file) if generator.random() < 0.5 else min(len(file), 200)
        place, length = int(generator.integers(reach)), int(generator.integers(1, 40))
        kind = generator.integers(6)
        if kind == 0:
            file[place] ^= 1 << int(generator.integers(8))
        elif kind == 1:
            file[place : place + 4] = generator.choice([0, 255, 127, 128], 4).astype(np.uint8).tobytes()
        elif kind == 2:
            del file[place : place + length]
        elif kind == 3:
            file[place:place] = file[place : place + length]
        elif kind == 4:
            file[place : place + length] = bytes(min(length, len(file) - place))
        else:
            del file[place:]
        if not file:
            break
    return bytes(file)


def main(folder: Path, count: int, seed: int) -> None:
    """Read damaged files and tell what happened."""
    warnings.simplefilter("ignore")
    generator = np.random.default_rng(seed)
    files = whole_files()
    outcomes: collections.Counter[str] = collections.Counter()
    for name, content in files.items():
        (folder / name).write_bytes(content)
        read_image(folder / name)
        (folder / name).unlink()
    names = list(files)
    for trial in range(count):
        name = names[trial % len(names)]
        path = folder / f"{trial}-{name}"
        path.write_bytes(damaged(files[name], generator))
        print(path.name, file=sys.stderr, flush=True)  # the last one, should the process die
        for read in (read_image, read_mask, read_kernel, read_images):
            try:
                read(path)
                outcomes["read"] += 1
            except (ValueError, OSError) as error:
                outcomes["refused"] += 1
                if not str(error) or "\n" in str(error):
                    print(f"{path.name}, {read.__name__}: no one line: {error!r}")
            except BaseException as error:
                print(f"{path.name}, {read.__name__}: {error!r}")
        path.unlink()
    print(dict(outcomes))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
