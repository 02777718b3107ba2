"""Figures as a paper would print them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from pyro_vble._arguments import PathName, Positive, brief, checked
from pyro_vble._tensors import RealTensor
from pyro_vble.io.atomic import atomic_path

__all__ = ["RestorationRow", "restoration_figure", "side_by_side"]


@dataclass(frozen=True)
class RestorationRow:
    """What one row of the figure shows, all (C, H, W).

    Attributes:
        label: Name of the guide.
        estimate: MMSE-x.
        samples: Posterior samples, (2, C, H, W).
        error_quantile: Predicted 90 % quantile of the error.
        note: Text under the estimate, such as its PSNR.
        coverage_note: Text under the error quantile, such as the coverage.
    """

    label: str
    estimate: Tensor
    samples: Tensor
    error_quantile: Tensor
    note: str = ""
    coverage_note: str = ""


@checked
def restoration_figure(
    path: PathName,
    measurement: RealTensor,
    rows: list,
    *,
    truth: RealTensor | None = None,
    measurement_note: str = "",
    title: str = "",
) -> None:
    """Draw truth, measurement, estimate, two samples, true error and predicted error quantile, one row a guide.

    Without a truth its two columns are left out. Errors are averaged over bands and share one colour scale, so that the
    predicted error can be compared with the true one by eye.

    Args:
        path: Where to write; the suffix chooses the format.
        measurement: (C, H', W').
        rows: One for each guide.
        truth: (C, H, W).
        measurement_note: Text under the measurement.
        title: Title of the figure, as it is: dollars in it are no mathematics.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If there is no row, or an image has another shape than the others.
    """
    _check(measurement, rows, truth)
    from matplotlib.figure import Figure

    columns = ["measurement", "MMSE-x", "sample 1", "sample 2", "90 % error quantile"]
    if truth is not None:
        columns = ["truth", *columns[:-1], "true error |x - MMSE-x|", columns[-1]]
    maps = [row.error_quantile for row in rows]
    errors = [] if truth is None else [(truth - row.estimate).abs() for row in rows]
    top = float(np.quantile(np.concatenate([_grey(m).ravel() for m in maps + errors]), 0.995))

    height, width = rows[0].estimate.shape[-2:]
    cell = 2.4
    figure = Figure(
        figsize=(cell * len(columns) + 0.9, (cell * height / width + 0.3) * len(rows) + 0.7),
        layout="constrained",
        dpi=130,
    )
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    for i, row in enumerate(rows):
        content = {
            "truth": (truth, ""),
            "measurement": (measurement, measurement_note),
            "MMSE-x": (row.estimate, row.note),
            "sample 1": (row.samples[0], ""),
            "sample 2": (row.samples[1], ""),
            "true error |x - MMSE-x|": (errors[i] if errors else None, ""),
            "90 % error quantile": (row.error_quantile, row.coverage_note),
        }
        for axis, name in zip(axes[i], columns, strict=True):
            image, note = content[name]
            axis.set(xticks=[], yticks=[])
            if i == 0:
                axis.set_title(name, fontsize=10)
            axis.set_xlabel(note, fontsize=9)
            if "error" in name:
                drawn = axis.imshow(_grey(image), cmap="magma", vmin=0, vmax=top, interpolation="nearest")
            else:
                axis.imshow(_colour(image), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes[i, 0].set_ylabel(row.label, fontsize=11)
    figure.colorbar(drawn, ax=axes[:, -1], label="error (image in [0, 1])", fraction=0.06, pad=0.03)
    if title:
        figure.suptitle(title, fontsize=11, parse_math=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary)


@checked
def side_by_side(
    images: Mapping[str, RealTensor], errors: Mapping[str, RealTensor] | None = None, *, side: Positive = 2.6
) -> Any:
    """Draw images beside each other under their titles, and beside them errors on one scale of colours.

    Args:
        images: By title, (C, H, W), or a batch (B, C, H, W) of which the first is drawn; on [0, 1].
        errors: The same of errors or standard deviations, which are averaged over bands.
        side: Height of a picture, in inches.

    Returns:
        A Matplotlib figure of pyplot's, which a notebook shows.

    Raises:
        TypeError: If an image is not a real tensor.
        ValueError: If there is none, or one is not (C, H, W).

    Example:
        >>> import matplotlib, torch
        >>> matplotlib.use("agg")
        >>> from pyro_vble.figures import side_by_side
        >>> x = torch.rand(1, 3, 8, 12)
        >>> len(side_by_side({"truth": x, "restored": x[0]}, {"error": 0.1 * x}).axes)  # the last is the colour bar
        4
    """
    errors = errors or {}
    pictures: list[tuple[str, Tensor, float | None]] = [(title, _first(x), None) for title, x in images.items()]
    values = [_grey(_first(error)).ravel() for error in errors.values()]
    # Not the largest: a few outliers would darken the rest.
    top = float(np.nanquantile(np.concatenate(values), 0.998)) if values else 0.0
    pictures += [(title, _first(error), top) for title, error in errors.items()]
    if not pictures:
        raise ValueError("images must hold one at least; received none.")
    from matplotlib import pyplot

    widths = [image.shape[-1] / image.shape[-2] for _, image, _ in pictures]
    size = (side * sum(widths) + (0.8 if errors else 0.0), side + 0.4)
    figure, axes = pyplot.subplots(
        1, len(pictures), figsize=size, width_ratios=widths, squeeze=False, layout="constrained"
    )
    for axis, (title, image, scale) in zip(axes[0], pictures, strict=True):
        axis.set(xticks=[], yticks=[])
        axis.set_title(title, fontsize=10)
        if scale is None:
            axis.imshow(_colour(image), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        else:
            drawn = axis.imshow(_grey(image), cmap="magma", vmin=0, vmax=scale, interpolation="nearest")
    if errors:
        figure.colorbar(drawn, ax=axes[0, len(images) :], fraction=0.06, pad=0.03)
    return figure


def _first(image: Tensor) -> Tensor:
    first = image[0] if image.dim() == 4 and len(image) else image
    if first.dim() != 3:
        raise ValueError(f"Each image must be (C, H, W) or (B, C, H, W); received shape {tuple(image.shape)}.")
    return first


@checked
def error_bar_figure(path: PathName, std: RealTensor, *, label: str = "standard deviation", title: str = "") -> None:
    """Draw a map of error bars with its colour bar, averaged over bands; missing pixels are grey.

    Args:
        path: Where to write; the suffix chooses the format.
        std: (C, H, W), NaN where missing.
        label: What the colour bar is of, with its unit.
        title: Title of the figure, as it is: dollars in it are no mathematics.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If std is no image.

    Example:
        >>> import pathlib, tempfile, torch
        >>> from pyro_vble.figures import error_bar_figure
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     error_bar_figure(f"{folder}/bars.png", torch.rand(1, 20, 30), label="standard deviation (white is 255)")
        ...     pathlib.Path(folder, "bars.png").is_file()
        True
    """
    if std.dim() != 3:
        raise ValueError(f"std must be one image (C, H, W); received shape {tuple(std.shape)}.")
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    shown = _grey(std)
    known = shown[np.isfinite(shown)]
    top = float(np.quantile(known, 0.995)) if known.size else 1.0
    height, width = shown.shape
    across = 6.0 * max(0.4, min(1.0, width / height))
    figure = Figure(figsize=(across + 1.3, across * height / width + 0.5), layout="constrained", dpi=150)
    axis = figure.subplots()
    axis.set(xticks=[], yticks=[])
    colours = colormaps["magma"].with_extremes(bad="grey")
    drawn = axis.imshow(shown, cmap=colours, vmin=0, vmax=top or 1.0, interpolation="nearest")
    beyond = "max" if known.size and known.max() > top else "neither"
    figure.colorbar(drawn, ax=axis, label=label, extend=beyond, fraction=0.05, pad=0.03)
    if title:
        axis.set_title(title, fontsize=10, parse_math=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary)


def _check(measurement: Tensor, rows: list[RestorationRow], truth: Tensor | None) -> None:
    if not rows or not all(isinstance(row, RestorationRow) for row in rows):
        raise ValueError(f"rows must be one RestorationRow a guide, at least one; received {brief(rows)}.")
    if measurement.dim() != 3:
        raise ValueError(f"measurement must be one image (C, H', W'); received shape {tuple(measurement.shape)}.")
    shape = tuple(rows[0].estimate.shape)
    images = {"truth": truth}
    for row in rows:
        images |= {f"{row.label}'s estimate": row.estimate, f"{row.label}'s error_quantile": row.error_quantile}
        images |= {f"{row.label}'s sample {k + 1}": sample for k, sample in enumerate(row.samples)}
        if len(row.samples) < 2:
            raise ValueError(f"{row.label}'s samples must be two; received {len(row.samples)}.")
    for name, image in images.items():
        if image is not None and (len(shape) != 3 or tuple(image.shape) != shape):
            raise ValueError(f"{name} must be one image (C, H, W), all of one shape; received {brief(image)}.")


def _colour(image: Tensor) -> np.ndarray:
    """(H, W, 3) or (H, W) in [0, 1], missing pixels grey; of other numbers of bands the first, or first three."""
    array = np.nan_to_num(image.detach().cpu().float().numpy(), nan=0.5).clip(0, 1)
    return array[:3].transpose(1, 2, 0) if len(array) >= 3 else array[0]


def _grey(image: Tensor) -> np.ndarray:
    return image.detach().cpu().float().mean(0).numpy()
