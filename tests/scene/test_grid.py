"""Cells partition the image, and what they have a say in sums to one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_vble.scene.grid import Grid, Window

FEW = settings(max_examples=60, deadline=None, derandomize=True)


@st.composite
def grids(draw):
    unit = draw(st.sampled_from([64, 192]))
    cell = unit * draw(st.integers(1, 3))
    halo = unit * draw(st.integers(0, 2))
    sides = st.integers(1, 3 * cell + 5)
    return Grid(draw(sides), draw(sides), cell, halo, min(16, halo))


@FEW
@given(grids())
def test_cells_partition_the_image(grid):
    times = np.zeros((grid.height, grid.width), int)
    for place in grid.places:
        times[grid.core(*place).slices] += 1
    assert (times == 1).all()


@FEW
@given(grids(), st.sampled_from([(1, 1), (16, 64), (64, 64)]))
def test_weights_sum_to_one_at_every_step_padding_included(grid, steps):
    step, unit = steps
    whole = grid.values(grid.whole, step, unit)
    total = np.zeros((whole.height, whole.width))
    for place in grid.places:
        weight = grid.weight(place, whole, step)
        assert (weight >= 0).all()
        total += weight
    assert np.abs(total - 1).max() < 1e-12


@FEW
@given(grids(), st.sampled_from([(1, 1), (16, 64), (64, 64)]))
def test_no_cell_has_a_say_beyond_what_it_trusts_or_was_fitted_to(grid, steps):
    step, unit = steps
    whole = grid.values(grid.whole, step, unit)
    for place in grid.places:
        elsewhere = grid.weight(place, whole, step)
        trusted = grid.values(grid.trusted(*place), step, unit)
        elsewhere[trusted.slices] = 0
        assert not elsewhere.any()
        fitted = grid.values(grid.window(*place), step, unit)
        assert trusted.within(fitted) == trusted


@FEW
@given(grids(), st.data())
def test_a_window_touches_just_the_cells_that_share_pixels_with_it(grid, data):
    top = data.draw(st.integers(0, grid.height - 1))
    left = data.draw(st.integers(0, grid.width - 1))
    window = Window(
        top, data.draw(st.integers(top + 1, grid.height)), left, data.draw(st.integers(left + 1, grid.width))
    )
    sharing = [place for place in grid.places if not grid.core(*place).within(window).is_empty]
    assert list(grid.touched(window)) == sharing


def test_a_leftover_row_is_a_cell_of_its_own_that_is_fitted_with_its_halo():
    grid = Grid(129, 64, cell=64, halo=64, ramp=16)
    assert grid.core(2, 0) == Window(128, 129, 0, 64)
    assert grid.window(2, 0) == Window(64, 129, 0, 64)
    # Of 129 rows the network sees 192: 12 rows of latents, of which the last cell has 4.
    assert grid.values(grid.whole, 16, 64) == Window(0, 12, 0, 4)
    assert grid.values(grid.core(2, 0), 16, 64) == Window(8, 12, 0, 4)
    assert grid.values(grid.core(1, 0), 16, 64) == Window(4, 8, 0, 4)


def test_cells_about_others_stay_within_the_grid():
    grid = Grid(200, 300, cell=64, halo=0, ramp=0)
    assert grid.about([(0, 0)]) == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert len(grid.about([(1, 2)])) == 9
    assert grid.about([]) == set()


@pytest.mark.parametrize("by", [0, 3])
def test_windows_move_between_frames(by):
    window = Window(4, 10, 6, 9)
    assert window.grown(by, 12, 9).within(Window(0, 12, 0, 9)) == window.grown(by, 12, 9)
    assert window.finer(16).coarser(16) == window
    assert window.relative_to(window) == Window(0, 6, 0, 3)
    assert Window(3, 3, 0, 5).is_empty
    assert not window.is_empty
