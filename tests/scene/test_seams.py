"""No seams: neither in the mean nor in samples; and a statistic that sees those that are planted."""

from functools import cache

import numpy as np
import pytest
import skimage.data
import torch
from scene.scenes import denoising, restored

import pyro_vble as pv
from pyro_vble.guides import VBLE

TILE, STEPS, NOISE = 64, 15, 0.1
# What counts as a seam: some 60 patches of the size of a latent lie along the borders, which tell a root mean square
# to 9 percent; three times that.
SEAM = 1.25


@cache
def truth() -> np.ndarray:
    return skimage.data.chelsea().mean(-1)[None, 40:168, 60:252].astype(np.float32) / 255


def measurement() -> np.ndarray:
    x = truth()
    return x + NOISE * np.random.default_rng(0).standard_normal(x.shape).astype(np.float32)


def scene(folder, bundled, **options):
    how = {"physics": denoising(NOISE), "prior": bundled, "guide": VBLE, "tile": TILE, "num_steps": STEPS}
    return restored(folder, measurement(), **{**how, "samples": 8, "precision": "float32", **options})


def whole(bundled, seed):
    y = torch.from_numpy(measurement())[None]
    options = {"num_steps": STEPS, "seed": seed, "precision": "float32", "progress": False}
    return pv.restore(y, denoising(NOISE), bundled, VBLE, **options).mmse_x(8)[0].numpy()


def across(images: np.ndarray, offset: int) -> float:
    """Mean squared difference of neighbours across the lattice of the cells' borders, moved by an offset."""
    squares = []
    for axis in (-2, -1):
        slopes = np.diff(images, axis=axis) ** 2
        lines = [border - 1 + offset for border in range(TILE, images.shape[axis], TILE)]
        squares.append(np.take(slopes, lines, axis).ravel())
    return float(np.concatenate(squares).mean())


def edge_score(images: np.ndarray) -> float:
    """How many standard deviations, over lattices that are no borders, the borders lie above those."""
    elsewhere = [across(images, offset) for offset in range(-TILE // 2, TILE // 2) if abs(offset) > 1]
    return (across(images, 0) - float(np.mean(elsewhere))) / float(np.std(elsewhere, ddof=1))


def near_borders(difference: np.ndarray) -> float:
    """Root mean square within four pixels of the cells' borders, over that elsewhere."""
    near = np.zeros(difference.shape, bool)
    for border in range(TILE, difference.shape[-2], TILE):
        near[..., border - 4 : border + 4, :] = True
    for border in range(TILE, difference.shape[-1], TILE):
        near[..., border - 4 : border + 4] = True
    return float(np.sqrt((difference[near] ** 2).mean() / (difference[~near] ** 2).mean()))


def rms(difference: np.ndarray) -> float:
    return float(np.sqrt((difference**2).mean()))


@pytest.fixture(scope="module")
def intact(tmp_path_factory, bundled):
    return scene(tmp_path_factory.mktemp("intact") / "a.scene", bundled)


def test_the_mean_has_no_seams_and_one_without_a_halo_has(tmp_path, bundled, intact):
    reference = whole(bundled, 1)
    mean = intact.results["mean"].values
    bare = scene(tmp_path / "bare.scene", bundled, halo=0).results["mean"].values
    noise = near_borders(whole(bundled, 2) - reference)  # of fits that know of no borders
    found, planted = near_borders(mean - reference), near_borders(bare - reference)
    print(f"near borders: {noise:.3f} of seeds, {found:.3f} of the scene, {planted:.3f} without a halo")
    assert found < SEAM * noise
    assert planted > SEAM * noise
    assert edge_score(mean - truth()) < 3
    assert rms(mean - truth()) < rms(bare - truth())


def test_samples_have_no_seams_and_cells_that_are_sampled_by_themselves_have(intact):
    draws = intact.sample(12)[:, 0].numpy()
    deviations = draws - draws.mean(0)
    apart = deviations.copy()
    for number, place in enumerate(sorted(intact._grid.places)):
        rows, columns = intact.cell(place).slices
        apart[:, :, rows, columns] = np.roll(deviations, number, axis=0)[:, :, rows, columns]
    print(f"edge score of samples {edge_score(deviations):.2f}, of cells by themselves {edge_score(apart):.2f}")
    assert edge_score(deviations) < 3
    assert edge_score(apart) > 6


@pytest.mark.slow
def test_a_halo_twice_as_wide_changes_less_than_another_seed(tmp_path, bundled, intact):
    mean = intact.results["mean"].values
    wide = scene(tmp_path / "wide.scene", bundled, halo=128).results["mean"].values
    other = scene(tmp_path / "other.scene", bundled, seed=1).results["mean"].values
    print(f"wider {rms(wide - mean):.5f}, other seed {rms(other - mean):.5f}")
    assert rms(wide - mean) < rms(other - mean)
