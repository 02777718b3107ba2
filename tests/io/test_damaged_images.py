"""Damaged files end in errors that name them, and never the process."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pyro_vble.io.images import read_image
from pyro_vble.training import read_images

SEED = 20


def in_a_process(folder: Path, count: int) -> None:
    script = Path(__file__).with_name("damaged_files.py")
    root = os.fspath(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((root, os.environ.get("PYTHONPATH", "")))}
    command = [sys.executable, os.fspath(script), os.fspath(folder), str(count), str(SEED)]
    result = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment, check=False)
    lines = result.stdout.strip().splitlines()
    assert result.returncode == 0, f"seed {SEED}: {result.stderr[-800:]}"
    assert len(lines) == 1, f"seed {SEED}: {lines}"
    print(f"seed {SEED}: {lines[0]}")


def test_a_few_damaged_files(tmp_path):
    in_a_process(tmp_path, 44)


@pytest.mark.slow
def test_many_damaged_files(tmp_path):
    in_a_process(tmp_path, 1100)


def test_every_flipped_bit_of_a_pngs_pixels_is_refused(tmp_path):
    """A decoder that goes on where a checksum is wrong may read beyond its memory."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (33, 31, 3), dtype=np.uint8)).save(file, "PNG")
    content = file.getvalue()
    Image.fromarray(np.zeros((33, 31, 3), np.uint8)).save(tmp_path / "good.png")
    start, end = content.index(b"IDAT") + 4, content.index(b"IEND") - 8
    for place in np.linspace(start, end - 1, 60).astype(int):
        damaged = bytearray(content)
        damaged[place] ^= 8
        (tmp_path / "bad.png").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"must be complete .*bad\.png"):
            read_image(tmp_path / "bad.png")
    images = read_images(tmp_path)
    assert len(images.images) == 1
    assert [Path(path).name for path in images.skipped] == ["bad.png"]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".npy"])
def test_files_that_end_early_are_refused(tmp_path, suffix):
    array = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / f"x{suffix}"
    np.save(path, array) if suffix == ".npy" else Image.fromarray(array).save(path)
    content = path.read_bytes()
    for part in (0, 3, 20, len(content) // 2, len(content) - 40):
        path.write_bytes(content[:part])
        with pytest.raises(ValueError, match="must be complete"):
            read_image(path)
