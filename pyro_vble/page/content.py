"""What a page shows."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Picture:
    """An image to look at.

    Attributes:
        name: What it is called on the page, in a word or two.
        alt: What it shows, for those who do not see it.
        values: (1 or 3, H, W) in [0, 1]; NaN where missing.
        sample: Whether it is a posterior sample, which another can be blinked with.
    """

    name: str
    alt: str
    values: np.ndarray
    sample: bool = False


@dataclass(frozen=True)
class Figure:
    """A number in words.

    Attributes:
        name: What it is.
        value: The number, with its unit.
        meaning: What it tells, in a sentence; may be empty.
    """

    name: str
    value: str
    meaning: str = ""


@dataclass(frozen=True)
class Content:
    """A restoration as a page shows it. Arrays are (C, H, W) in the file's own numbers, NaN where missing.

    Attributes:
        title: The page's title.
        lead: A sentence below it.
        pictures: What can be compared; the first is shown left of the divider.
        restored: Which of the pictures is the restoration.
        value: The restoration.
        std: Its standard deviation; None of a restoration without error bars.
        lower: From the restoration down to the lower end of its interval, not negative; None as before.
        upper: From it up to the upper end; the same array where the interval is symmetric.
        probability: What the interval holds.
        bands: Name of every band.
        unit: What the numbers are, such as "in numbers of the file".
        step: Least distance of two numbers in the file; 0 of floating point.
        size: Rows and columns of the whole restoration.
        block: Side of the square of its pixels that one shown pixel stands for.
        figures: Key figures.
        notes: Sentences that a reader has to know.
    """

    title: str
    lead: str
    pictures: tuple[Picture, ...]
    restored: int
    value: np.ndarray
    std: np.ndarray | None
    lower: np.ndarray | None
    upper: np.ndarray | None
    bands: tuple[str, ...]
    size: tuple[int, int]
    probability: float = 0.9
    unit: str = ""
    step: float = 0.0
    block: int = 1
    figures: tuple[Figure, ...] = ()
    notes: tuple[str, ...] = ()
