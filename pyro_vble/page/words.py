"""What is said of bands and numbers."""

import numpy as np


def shown_bands(count: int, colours: tuple[str, ...] = ()) -> tuple[int, ...]:
    """Bands that are shown as red, green and blue, by what a file says or in their order; one of fewer than three.

    Example:
        >>> from pyro_vble.page.words import shown_bands
        >>> shown_bands(2), shown_bands(4), shown_bands(4, ("blue", "green", "red", "nir"))
        ((0,), (0, 1, 2), (2, 1, 0))
    """
    if {"red", "green", "blue"} <= set(colours):
        return tuple(colours.index(colour) for colour in ("red", "green", "blue"))
    return (0, 1, 2) if count >= 3 else (0,)


def named_bands(described: tuple[str | None, ...], count: int) -> tuple[str, ...]:
    """What bands are called.

    Example:
        >>> from pyro_vble.page.words import named_bands
        >>> named_bands(("B04", None), 2), named_bands((), 3)
        (('B04', 'band 2'), ('red', 'green', 'blue'))
    """
    usual = {1: ("grey",), 3: ("red", "green", "blue")}.get(count, tuple(f"band {i + 1}" for i in range(count)))
    if len(described) != count or not any(described):
        return usual
    return tuple(name or f"band {i + 1}" for i, name in enumerate(described))


def unit_of(dtype: np.dtype, ends: tuple[float, float]) -> str:
    """What numbers are, as it follows one of them."""
    if dtype == np.uint8:
        return "on the scale 0 to 255"
    return "on the scale 0 to 1" if dtype.kind == "f" and ends == (0.0, 1.0) else "in numbers of the file"


def plain(number: float) -> str:
    """A number to three or four digits, never with an exponent where there is another way.

    Example:
        >>> from pyro_vble.page.words import plain
        >>> plain(65040.2), plain(11.7321), plain(0.01234)
        ('65040', '11.7', '0.0123')
    """
    return f"{number:.0f}" if abs(number) >= 100 else f"{number:.3g}"


def notes_of(block: int, ends: tuple[float, float], dtype: np.dtype) -> tuple[str, ...]:
    """What a reader has to know of how an image is shown."""
    notes = []
    if block > 1:
        notes.append(
            f"Reduced: each pixel shown stands for {block} x {block} pixels of the file. Its value, standard deviation "
            "and interval are the averages of theirs: what is told is the error bar of a pixel, not of the average."
        )
    if dtype != np.uint8 and ends != (0.0, 1.0):
        notes.append(f"Black is {plain(ends[0])} and white {plain(ends[1])} in the pictures.")
    return tuple(notes)
