"""The width of an image's blur, from its straight edges."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d, maximum_filter
from scipy.optimize import least_squares
from scipy.special import ndtr

# Half the side of the window about an edge, and the distance of edges that are looked at, in pixels.
_RADIUS, _APART = 5, 7
# Most edges that are fitted, the strongest; of the image's noise an edge's step is at least so many times.
_MOST, _CONTRAST = 600, 4.0
# An edge that is a step leaves this part of its window's variance at most; and how wide, in pixels, it may be.
_LEFT, _WIDEST = 0.06, 4.0
# The sharpest part of the edges is where the search starts: others are blurred of themselves, and wider by more than
# this part and two standard errors they are left out.
_SHARPEST, _WIDER = 0.15, 0.15
_FEWEST, _RESAMPLED, _PASSES = 20, 200, 20


@dataclass(frozen=True)
class Edges:
    """Straight edges of an image.

    Attributes:
        widths: Standard deviation of the Gaussian that a step is blurred by, across each edge, in pixels, (n,).
        errors: Its standard error, (n,).
        normals: Directions across (row, column), of length 1, (n, 2).
    """

    widths: np.ndarray
    errors: np.ndarray
    normals: np.ndarray


def find_edges(image: np.ndarray) -> Edges:
    """The straight, isolated steps of an image (H, W), NaN where missing.

    Each is fitted by a step of any direction and place convolved with a Gaussian of any width.
    """
    if min(image.shape) < 2 * _RADIUS + 2:
        return Edges(np.zeros(0), np.zeros(0), np.zeros((0, 2)))
    known = np.isfinite(image)
    filled = np.where(known, image, np.nanmean(image) if known.any() else 0.0)
    slopes = [
        gaussian_filter1d(gaussian_filter1d(filled, 1.0, axis=axis, order=1), 1.0, axis=1 - axis) for axis in (0, 1)
    ]
    strength = np.hypot(*slopes)
    # A second difference along both axes sees no step but at its corners.
    mixed = filled[1:, 1:] - filled[1:, :-1] - filled[:-1, 1:] + filled[:-1, :-1]
    noise = float(np.median(np.abs(mixed))) / 0.6745 / 2
    peaks = strength == maximum_filter(strength, size=_APART)
    inner = np.zeros_like(peaks)
    inner[_RADIUS:-_RADIUS, _RADIUS:-_RADIUS] = True
    rows, columns = np.nonzero(peaks & inner)
    order = np.argsort(-strength[rows, columns], kind="stable")[:_MOST]
    found = []
    for row, column in zip(rows[order], columns[order], strict=True):
        window = (slice(row - _RADIUS, row + _RADIUS + 1), slice(column - _RADIUS, column + _RADIUS + 1))
        if not known[window].all():
            continue
        angle = math.atan2(float(slopes[0][row, column]), float(slopes[1][row, column]))
        fitted = _fitted(image[window], angle, noise)
        if fitted is not None:
            found.append(fitted)
    table = np.array(found).reshape(-1, 3)
    normals = np.stack([np.sin(table[:, 2]), np.cos(table[:, 2])], 1)
    return Edges(table[:, 0], table[:, 1], normals)


def widths_along_axes(edges: Edges, seed: int = 0) -> tuple[np.ndarray, np.ndarray, int]:
    r"""Widths of a Gaussian blur along rows' and columns' axes, their standard errors, and how many edges tell them.

    .. math:: w^2 = w_r^2 n_r^2 + w_c^2 n_c^2

    by regression over the sharpest edges.
    """
    squares = edges.widths**2
    errors = 2 * edges.widths * edges.errors
    design = edges.normals**2
    if len(squares) < _FEWEST:
        return np.full(2, np.nan), np.full(2, np.nan), len(squares)
    start = np.full(2, np.quantile(squares, _SHARPEST))
    found, kept = _envelope(squares, errors, design, start)
    random, again = np.random.default_rng(seed), []
    for _ in range(_RESAMPLED):
        chosen = random.integers(len(squares), size=len(squares))
        again.append(_envelope(squares[chosen], errors[chosen], design[chosen], found)[0])
    widths = np.sqrt(np.maximum(found, 0))
    spread = np.std(np.sqrt(np.maximum(np.array(again), 0)), axis=0)
    return widths, spread, int(kept.sum())


def _envelope(
    squares: np.ndarray, errors: np.ndarray, design: np.ndarray, start: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Squared widths along the axes that the sharpest edges agree on, and which edges these are."""
    found, kept = start, np.ones(len(squares), dtype=bool)
    for _ in range(_PASSES):
        expected = design @ found
        # As far below as above: what lies there by chance balances what is left out.
        now = np.abs(squares - expected) < 2 * errors + _WIDER * expected
        if int(now.sum()) < 3:
            break
        weight = 1 / np.hypot(errors[now], _WIDER * expected[now])
        # A trace of the mean width where edges of one direction tell nothing of the other.
        rows = np.concatenate([design[now] * weight[:, None], 1e-3 * np.array([[1.0, -1.0]])])
        new = np.linalg.lstsq(rows, np.append(squares[now] * weight, 0.0), rcond=None)[0]
        new = np.maximum(new, 0)
        if bool((now == kept).all()) and np.allclose(new, found, rtol=1e-6):
            break
        found, kept = new, now
    return found, kept


def _fitted(window: np.ndarray, angle: float, noise: float) -> tuple[float, float, float] | None:
    """Width, its standard error and direction of the step in a window; None if it is no step."""
    t = np.arange(-_RADIUS, _RADIUS + 1.0)
    rows, columns = np.meshgrid(t, t, indexing="ij")
    total = float(((window - window.mean()) ** 2).sum())
    if total == 0:
        return None

    def profile(parameters: np.ndarray) -> np.ndarray:
        direction, offset, log_width = parameters
        distance = rows * np.sin(direction) + columns * np.cos(direction) - offset
        return ndtr(distance / np.exp(np.clip(log_width, -4.0, 4.0))).ravel()

    def residual(parameters: np.ndarray) -> np.ndarray:
        # Heights on both sides are linear, and solved for.
        design = np.stack([np.ones(window.size), profile(parameters)], 1)
        solved = np.linalg.lstsq(design, window.ravel(), rcond=None)[0]
        return design @ solved - window.ravel()

    result = least_squares(residual, [angle, 0.0, 0.0], method="lm", max_nfev=60)
    left = float((result.fun**2).sum())
    direction, offset, log_width = result.x
    width = float(np.exp(log_width))
    design = np.stack([np.ones(window.size), profile(result.x)], 1)
    step = abs(np.linalg.lstsq(design, window.ravel(), rcond=None)[0][1])
    if left > _LEFT * total or not 0.2 < width < _WIDEST or abs(offset) > 2 or step < _CONTRAST * noise:
        return None
    try:
        covariance = np.linalg.inv(result.jac.T @ result.jac) * left / (window.size - 5)
    except np.linalg.LinAlgError:
        return None
    return width, width * float(np.sqrt(covariance[2, 2])), float(direction)
