"""How a scene is cut: cells, which partition it, and the windows that are fitted, which overlap."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Window(NamedTuple):
    """Rows [top, bottom) and columns [left, right) of an image."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def height(self) -> int:
        """Number of rows."""
        return self.bottom - self.top

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.right - self.left

    @property
    def slices(self) -> tuple[slice, slice]:
        """Its rows and columns as indices."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def grown(self, by: int, height: int, width: int) -> "Window":
        """The window with a margin, within an image of that size."""
        top, left = max(0, self.top - by), max(0, self.left - by)
        return Window(top, min(height, self.bottom + by), left, min(width, self.right + by))

    def within(self, other: "Window") -> "Window":
        """What both have in common; of negative size if nothing."""
        top, left = max(self.top, other.top), max(self.left, other.left)
        return Window(top, min(self.bottom, other.bottom), left, min(self.right, other.right))

    def relative_to(self, other: "Window") -> "Window":
        """The window in an image that starts where another window does."""
        return Window(self.top - other.top, self.bottom - other.top, self.left - other.left, self.right - other.left)

    def coarser(self, step: int) -> "Window":
        """The cells of ``step`` pixels that it touches."""
        return Window(self.top // step, -(-self.bottom // step), self.left // step, -(-self.right // step))

    def finer(self, step: int) -> "Window":
        """The window of ``step`` times as many pixels a side."""
        return Window(*(step * side for side in self))

    @property
    def is_empty(self) -> bool:
        """Whether it holds no pixel."""
        return self.bottom <= self.top or self.right <= self.left


@dataclass(frozen=True)
class Grid:
    """Square cells that partition an image, and the window about each that is fitted for it.

    Attributes:
        height: Rows of the image.
        width: Columns.
        cell: Side of a cell, a multiple of the prior's stride, so that latents of neighbours lie on one grid.
        halo: Pixels that a window reaches beyond its cell, a multiple of the stride too.
        ramp: Pixels on either side of a border between cells over which what was fitted for one gives way to what was
            fitted for the other.

    Example:
        >>> from pyro_vble.scene.grid import Grid
        >>> grid = Grid(1000, 600, cell=512, halo=64, ramp=16)
        >>> grid.rows, grid.columns, grid.window(1, 0)
        (2, 2, Window(top=448, bottom=1000, left=0, right=576))
    """

    height: int
    width: int
    cell: int
    halo: int
    ramp: int

    @property
    def rows(self) -> int:
        """Rows of cells."""
        return -(-self.height // self.cell)

    @property
    def columns(self) -> int:
        """Columns of cells."""
        return -(-self.width // self.cell)

    @property
    def places(self) -> list[tuple[int, int]]:
        """Row and column of every cell."""
        return [(row, column) for row in range(self.rows) for column in range(self.columns)]

    @property
    def whole(self) -> Window:
        """The whole image."""
        return Window(0, self.height, 0, self.width)

    def values(self, window: Window, step: int, unit: int = 1) -> Window:
        """The values of ``step`` pixels that a window touches, in steps.

        Where it ends with the image they are those of the padding too: a network sees the image padded, below and on
        the right, to a multiple of ``unit`` pixels, and what is decoded at the edge depends on what lies beyond.
        """
        bottom = -(-window.bottom // unit) * unit if window.bottom == self.height else window.bottom
        right = -(-window.right // unit) * unit if window.right == self.width else window.right
        return Window(window.top, bottom, window.left, right).coarser(step)

    def about(self, places: Iterable[tuple[int, int]]) -> set[tuple[int, int]]:
        """Cells, and those that touch one of them at a side or a corner."""
        found = set()
        for row, column in places:
            rows = range(max(0, row - 1), min(self.rows, row + 2))
            columns = range(max(0, column - 1), min(self.columns, column + 2))
            found.update((down, along) for down in rows for along in columns)
        return found

    def core(self, row: int, column: int) -> Window:
        """The pixels of a cell."""
        top, left = row * self.cell, column * self.cell
        return Window(top, min(top + self.cell, self.height), left, min(left + self.cell, self.width))

    def window(self, row: int, column: int) -> Window:
        """The pixels that are fitted for a cell."""
        return self.core(row, column).grown(self.halo, self.height, self.width)

    def trusted(self, row: int, column: int) -> Window:
        """The pixels of which a cell's fit has a say."""
        return self.core(row, column).grown(self.ramp, self.height, self.width)

    def touched(self, window: Window) -> Iterator[tuple[int, int]]:
        """Cells that a window touches."""
        cells = window.within(self.whole).coarser(self.cell)
        for row in range(cells.top, cells.bottom):
            for column in range(cells.left, cells.right):
                yield row, column

    def weight(self, place: tuple[int, int], window: Window, step: int = 1) -> np.ndarray:
        """How much of a say a cell's fit has at every pixel of a window, or at every value of ``step`` pixels.

        Over all cells it sums to 1: it falls linearly from 1 to 0 across the borders between cells.

        Args:
            place: Row and column of the cell.
            window: Where, in units of ``step`` pixels.
            step: Pixels a value.
        """
        core = self.core(*place)
        down = self._ramps(window.top, window.bottom, step, core.top, core.bottom, self.height)
        right = self._ramps(window.left, window.right, step, core.left, core.right, self.width)
        return np.outer(down, right)

    def _ramps(self, start: int, stop: int, step: int, low: int, high: int, size: int) -> np.ndarray:
        middle = (np.arange(start, stop) + 0.5) * step
        weight = np.ones(len(middle))
        if low > 0:
            weight = np.minimum(weight, self._ramp(middle - low))
        if high < size:
            weight = np.minimum(weight, self._ramp(high - middle))
        return weight

    def _ramp(self, inside: np.ndarray) -> np.ndarray:
        if not self.ramp:
            return (inside > 0).astype(float)
        return np.clip(0.5 + inside / (2 * self.ramp), 0.0, 1.0)
