"""Figures of a report: strips of methods, samples, accuracy against time."""

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pyro_vble.figures import RestorationRow, restoration_figure
from pyro_vble.io.atomic import atomic_path

#: A method's record and pictures.
Shown = tuple[dict[str, Any], dict[str, Tensor]]
# Methods side by side; more go on beneath.
_ABREAST = 7
_CELL = 1.75
# Of the largest errors so many are beyond the colours.
_TAIL = 0.995
_MARKERS = "os^D"


def strips(path: Path, given: dict[str, Tensor], methods: dict[str, Shown], *, title: str) -> None:
    """Draw truth and measurement, and of every method estimate, true error and standard deviation.

    Errors and standard deviations share one scale.

    Args:
        path: Where to write.
        given: "truth" and "measurement", (C, H, W).
        methods: Records and pictures by label.
        title: Of the figure.
    """
    from matplotlib.figure import Figure

    names = list(methods)
    blocks = [names[k : k + _ABREAST] for k in range(0, len(names), _ABREAST)]
    columns = 1 + max(len(block) for block in blocks)
    height, width = given["truth"].shape[-2:]
    size = (_CELL * columns + 0.9, len(blocks) * (3 * _CELL * height / width + 0.75) + 0.4)
    figure = Figure(figsize=size, layout="constrained", dpi=110)
    axes = figure.subplots(3 * len(blocks), columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    top = float(
        np.quantile(np.concatenate([pictures["error"].numpy().ravel() for _, pictures in methods.values()]), _TAIL)
    )
    drawn: Any = None
    for k, block in enumerate(blocks):
        rows = axes[3 * k : 3 * k + 3]
        if k == 0:
            _show(rows[0, 0], _colour(given["truth"]), "truth")
            _show(rows[1, 0], _colour(given["measurement"]), "measurement")
        for column, name in enumerate(block, 1):
            record, pictures = methods[name]
            figures = record["figures"]
            _show(rows[0, column], _colour(pictures["estimate"]), f"{name}\n{figures['psnr']:.2f} dB")
            drawn = rows[1, column].imshow(pictures["error"].numpy(), cmap="magma", vmin=0, vmax=top)
            if "std" in pictures:
                rows[2, column].imshow(pictures["std"].numpy(), cmap="magma", vmin=0, vmax=top)
                rows[2, column].set_title(f"std; covers {100 * figures['coverage']:.0f} %", fontsize=7, pad=2)
        rows[1, 1].set_title("|error|", fontsize=7, pad=2)
    if drawn is not None:
        figure.colorbar(drawn, ax=axes[:, -1], label="error, standard deviation", fraction=0.05, shrink=0.5)
    figure.suptitle(title, fontsize=10, parse_math=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary)


def sampling(path: Path, given: dict[str, Tensor], methods: dict[str, Shown], *, title: str) -> bool:
    """Draw samples, true errors and predicted ones of the methods that have samples; whether there are any."""
    rows = []
    for name, (record, pictures) in methods.items():
        if "samples" not in pictures:
            continue
        figures = record["figures"]
        quantile = pictures["error_quantile"].expand_as(pictures["estimate"])
        notes = {"note": f"{figures['psnr']:.2f} dB", "coverage_note": f"covers {100 * figures['coverage']:.0f} %"}
        rows.append(RestorationRow(name, pictures["estimate"], pictures["samples"], quantile, **notes))
    if rows:
        restoration_figure(path, given["measurement"], rows, truth=given["truth"], title=title)
    return bool(rows)


def frontier(path: Path, means: dict[str, list[float | None]]) -> bool:
    """Draw PSNR against the seconds of a restoration, a point a method; whether there are any.

    Args:
        path: Where to write.
        means: By label PSNR and seconds.
    """
    from matplotlib.figure import Figure

    known = {name: (psnr, seconds) for name, (psnr, seconds) in means.items() if psnr is not None and seconds}
    if not known:
        return False
    figure = Figure(figsize=(7.4, 4.2), layout="constrained", dpi=110)
    axis = figure.subplots()
    for k, (name, (psnr, seconds)) in enumerate(sorted(known.items(), key=lambda one: -one[1][0])):
        axis.plot(seconds, psnr, _MARKERS[k // 10 % len(_MARKERS)], color=f"C{k % 10}", label=name)
    axis.set(xscale="log", xlabel="seconds of a restoration", ylabel="PSNR, dB")
    axis.grid(alpha=0.3)
    figure.legend(loc="outside right center", fontsize=8, frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary)
    return True


def _show(axis: Any, image: np.ndarray, title: str) -> None:
    axis.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axis.set_title(title, fontsize=8, pad=3, parse_math=False)


def _colour(image: Tensor) -> np.ndarray:
    array = np.nan_to_num(image.numpy(), nan=0.5).clip(0, 1)
    return array[:3].transpose(1, 2, 0) if len(array) >= 3 else array[0]
