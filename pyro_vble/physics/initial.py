"""A physics-aware first guess at the image, from which the encoder takes the latents' starting point."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from deepinv.optim.linear import least_squares
from deepinv.physics import LinearPhysics
from torch import Tensor
from torch.nn import functional as F

from pyro_vble.physics.joint import Jointly
from pyro_vble.physics.likelihood import before_sensor, likelihood
from pyro_vble.physics.operators import fill_unobserved, observed_mask
from pyro_vble.physics.validation import noise_level, noise_levels

# How far an image may lie from the first guess, and how long to look: the system's condition is about (tau / sigma)².
_TAU, _CG_STEPS = 0.05, 10
# A guess explains y if it leaves less than this part of what the best grey image leaves of it.
_EXPLAINS = 0.25
# A guess further down the list has to leave less than this part of what the best one before it leaves.
_BETTER = 0.5


@torch.no_grad()
def initial_image(
    physics: Any, y: Tensor, image_shape: tuple[int, int, int], parameters: Mapping[str, Tensor] | None = None
) -> Tensor:
    r"""A first guess at the image, (B, C, H, W), in [0, 1].

    .. math:: \hat x = \arg\min_x\; \sum_{i \text{ observed}} \big(A(x)_i - s_i\big)^2, \qquad
        x \in \{s,\ c\,s,\ \text{resized } s,\ c\,A^T s,\ A^\dagger s,\ \text{grey}\}

    with s the measurement in units of the signal A(x) (counts times their gain, for example), missing values
    interpolated where it is an image, and c the factor that fits best. Which of them is an image, and in which unit,
    no shape tells: each is judged by what it leaves of the measurement, image by image, before it is clipped. Later
    ones must be clearly better than earlier ones; the pseudo-inverse, which passes noise on as detail, is tried last.

    Of several measurements, it is the first guess from the one that leaves the least of all, in units of their noise.

    Args:
        physics: Forward operator; None gives a grey image.
        y: Measurement (B, ...); NaN where unobserved.
        image_shape: (C, H, W).
        parameters: Noise parameters that replace the noise model's own, one value an image.
    """
    grey = torch.full((len(y), *image_shape), 0.5, dtype=y.dtype, device=y.device)
    if physics is None:
        return grey
    if isinstance(physics, Jointly):
        return _best_of_parts(physics, y, image_shape, parameters or {})
    observed = observed_mask(physics, y)
    signal, _ = _in_signal_units(physics, y, image_shape, parameters)
    filled = fill_unobserved(signal, observed)

    def left(x: Tensor) -> Tensor:
        """What an image leaves of the measurement, (B,); infinite where A cannot say."""
        squares = torch.where(observed, physics.A(x) - filled, 0.0).square().flatten(1).sum(1)
        return torch.nan_to_num(squares, nan=torch.inf)

    grey = _scaled(physics, torch.ones_like(grey), filled, observed)
    best, least = grey, left(grey)
    enough = _EXPLAINS * least
    for make in (_image_like, _back_projected, _inverted):
        for guess in make(physics, signal, filled, observed, image_shape):
            misfit = left(guess)
            # Of images none of which explains y, one that is not much worse than grey says more than grey.
            better = misfit < (least if best is grey else _BETTER * least)
            best = torch.where(better.reshape(-1, 1, 1, 1), guess, best)
            least = torch.where(better, misfit, least)
        if bool((least <= enough).all()):
            break
    return torch.nan_to_num(best, nan=0.5).clamp(0, 1)


@torch.no_grad()
def consistent_image(
    physics: Any, y: Tensor, image_shape: tuple[int, int, int], parameters: Mapping[str, Tensor] | None = None
) -> Tensor:
    r"""The first guess drawn towards the measurement, as far as its noise allows, (B, C, H, W), in [0, 1].

    .. math:: \hat x = \arg\min_x\; \frac{\lVert M(A x - s) \rVert^2}{\sigma^2}
        + \frac{\lVert x - x_0 \rVert^2}{\tau^2}, \qquad \tau = 0.05

    by a few steps of conjugate gradients from :func:`initial_image`, x₀; M leaves out what was not observed. A blurred
    image is far from the sharp one's latents: started here, a fit needs half the steps. Where the operator is not
    linear, x₀ itself.

    Args:
        physics: Forward operator; None gives a grey image.
        y: Measurement (B, ...); NaN where unobserved.
        image_shape: (C, H, W).
        parameters: Noise parameters that replace the noise model's own, one value an image.
    """
    start = initial_image(physics, y, image_shape, parameters)
    if not isinstance(physics, LinearPhysics):
        return start
    observed = observed_mask(physics, y)
    signal, unit = _in_signal_units(physics, y, image_shape, parameters)
    root, least = _root_weights(physics, y, image_shape, parameters)
    signal = root * fill_unobserved(signal, observed)
    weight = (_TAU * unit / least) ** 2

    def forward(x: Tensor) -> Tensor:
        return root * fill_unobserved(physics.A(x), observed)

    def adjoint(v: Tensor) -> Tensor:
        return physics.A_adjoint(root * fill_unobserved(v, observed))

    # Not physics.prox_l2, which leaves its settings behind in the operator.
    options = {"solver": "CG", "gamma": weight, "init": start, "z": start, "max_iter": _CG_STEPS, "tol": 1e-2}
    try:
        drawn = least_squares(forward, adjoint, signal, **options)
    except Exception:  # an operator may have no adjoint, or one that refuses y; the first guess is as good
        return start
    if drawn.shape != start.shape or drawn.is_complex() or not bool(drawn.isfinite().all()):
        return start
    drawn = drawn.clamp(0, 1)
    misfit = [(forward(x) - signal).square().flatten(1).mean(1) for x in (drawn, start)]
    return torch.where((misfit[0] < misfit[1]).reshape(-1, 1, 1, 1), drawn, start)


@torch.no_grad()
def fill_missing(y: Tensor, observed: Tensor) -> Tensor:
    """Images (B, C, H, W) with unobserved pixels interpolated by normalised convolution.

    Gaussian windows of doubling width are tried; a pixel is filled by the first that reaches enough observations, or
    by the mean of its band.
    """
    filled, known = fill_unobserved(y, observed), observed.expand_as(y)
    sigma, reach = 0.7, max(y.shape[-2:])
    while not bool(known.all()) and sigma < 2 * reach:
        weight = _gaussian_filter(observed.expand_as(y).to(y.dtype), sigma)
        value = _gaussian_filter(fill_unobserved(y, observed), sigma)
        near = weight > 1e-3
        filled = torch.where(~known & near, value / weight.clamp_min(1e-3), filled)
        known = known | near
        sigma *= 2
    count = observed.expand_as(y).sum((-2, -1), keepdim=True)
    mean = fill_unobserved(y, observed).sum((-2, -1), keepdim=True) / count.clamp_min(1)
    return torch.where(known, filled, torch.where(count > 0, mean, 0.5))


def _best_of_parts(
    physics: Jointly, y: Tensor, image_shape: tuple[int, int, int], parameters: Mapping[str, Tensor]
) -> Tensor:
    """Of the first guesses from each of several measurements the one that leaves the least of all, image by image."""
    parts = list(zip(physics.physics_list, physics.split(y), strict=True))
    own = [physics.parameters_of(k, parameters) for k in range(len(parts))]
    levels = noise_levels(physics, y, image_shape, parameters)
    signals = [_in_signal_units(one, part, image_shape, known) for (one, part), known in zip(parts, own, strict=True)]

    def left(x: Tensor) -> Tensor:
        total = x.new_zeros(len(x))
        for (one, part), (signal, unit), level in zip(parts, signals, levels, strict=True):
            residual = torch.where(observed_mask(one, part), one.A(x) - signal, 0.0) * (unit / level)
            total = total + residual.square().flatten(1).sum(1)
        return torch.nan_to_num(total, nan=torch.inf)

    # What is missing in a part is none of its guesses' business: an image that it does not observe stays grey.
    guesses = torch.stack(
        [initial_image(one, part, image_shape, known) for (one, part), known in zip(parts, own, strict=True)]
    )
    best = torch.stack([left(guess) for guess in guesses]).argmin(0)
    return guesses[best, torch.arange(len(y), device=y.device)]


def _root_weights(
    physics: Any, y: Tensor, image_shape: tuple[int, int, int], parameters: Mapping[str, Tensor] | None
) -> tuple[Tensor | float, float]:
    """Roots of the weights of single values, 1 at the least noise; and that noise.

    Of several measurements, each has its own noise; within one, and where there is but one, it is taken as even.
    """
    if not isinstance(physics, Jointly):
        return 1.0, noise_level(physics, y, image_shape, parameters)
    levels = noise_levels(physics, y, image_shape, parameters)
    weights = [torch.full_like(part, min(levels) / level) for part, level in zip(physics.split(y), levels, strict=True)]
    return physics.join(weights), min(levels)


def _in_signal_units(
    physics: Any, y: Tensor, image_shape: tuple[int, int, int], parameters: Mapping[str, Tensor] | None
) -> tuple[Tensor, float]:
    """The measurement in units of A(x), and what one unit of the signal is in y: 1, or for counts 1/gain.

    The mean of every noise model is linear in the signal where it is not near zero.
    """
    points = [torch.full_like(torch.where(y.isnan(), 0.0, y), level) for level in (0.5, 1.0)]
    try:
        low, high = (before_sensor(likelihood(physics, p, parameters, event_dim=y.dim() - 1)).mean for p in points)
    except NotImplementedError:  # a user's density may not know its mean; then y is taken as it is
        return y, 1.0
    unit = (high - low) / 0.5
    if bool((low == points[0]).all()) and bool((unit == 1).all()):
        return y, 1.0  # bit for bit
    if not bool((unit > 0).all()) or not bool(unit.isfinite().all()):
        return y, 1.0
    return (y - low) / unit + 0.5, float(unit.median())


def _image_like(
    physics: Any, signal: Tensor, filled: Tensor, observed: Tensor, image_shape: tuple[int, int, int]
) -> Iterator[Tensor]:
    """The measurement taken for an image: as it is, enlarged, or extended about its centre; and each of them scaled."""
    if signal.dim() != 4 or signal.shape[1] != image_shape[0]:
        return
    image = fill_missing(signal, observed)
    height, width = image_shape[1:]
    guesses = [image]
    if image.shape[-2:] != (height, width):
        rows, columns = height - image.shape[-2], width - image.shape[-1]
        edges = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
        # Operators keep either the first pixel of a block or its centre; the measurement tells which.
        guesses = [F.pad(image, edges, mode="replicate")]
        guesses += [_enlarged(image, height, width, corner) for corner in (False, True)]
    yield from guesses
    for guess in guesses:
        yield _scaled(physics, guess, filled, observed)


def _back_projected(
    physics: Any, signal: Tensor, filled: Tensor, observed: Tensor, image_shape: tuple[int, int, int]
) -> Iterator[Tensor]:
    """The adjoint of the measurement, scaled."""
    guess = _tried(lambda: physics.A_adjoint(filled), image_shape)
    if guess is not None:
        yield _scaled(physics, guess, filled, observed)


def _inverted(
    physics: Any, signal: Tensor, filled: Tensor, observed: Tensor, image_shape: tuple[int, int, int]
) -> Iterator[Tensor]:
    """The pseudo-inverse of the measurement."""
    guess = _tried(lambda: physics.A_dagger(filled), image_shape)
    if guess is not None:
        yield guess


def _tried(make: Callable[[], Any], image_shape: tuple[int, int, int]) -> Tensor | None:
    """What an operator makes, if it is images."""
    try:
        guess = make()
    except Exception:  # an operator may lack it or refuse y in any way; another guess is tried
        return None
    if not isinstance(guess, Tensor) or tuple(guess.shape[1:]) != tuple(image_shape):
        return None
    return guess.real if guess.is_complex() else guess


def _scaled(physics: Any, guess: Tensor, signal: Tensor, observed: Tensor) -> Tensor:
    """Each image times the factor by which its measurement comes nearest to the signal."""
    measured = fill_unobserved(physics.A(guess), observed)
    over = (measured * signal).flatten(1).sum(1)
    factor = over / measured.square().flatten(1).sum(1).clamp_min(1e-12)
    return guess * torch.nan_to_num(factor, nan=1.0, posinf=1.0, neginf=1.0).reshape(-1, 1, 1, 1)


def _enlarged(y: Tensor, height: int, width: int, corner: bool) -> Tensor:
    """Bicubic enlargement, the pixels of y standing at the corners or at the centres of their blocks."""
    grids = []
    for large, small in ((height, y.shape[-2]), (width, y.shape[-1])):
        t = torch.arange(large, dtype=y.dtype, device=y.device) * (small / large)
        position = t if corner else t + 0.5 * (small / large - 1)
        grids.append((2 * position + 1) / small - 1)  # in the [-1, 1] of grid_sample, pixel centres inside
    rows, columns = torch.meshgrid(*grids, indexing="ij")
    grid = torch.stack((columns, rows), -1).expand(len(y), -1, -1, -1)
    return F.grid_sample(y, grid, mode="bicubic", padding_mode="border", align_corners=False)


def _gaussian_filter(x: Tensor, sigma: float) -> Tensor:
    """Separable Gaussian filter with zero border, band by band."""
    radius = max(1, round(3 * sigma))
    window = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device) / sigma) ** 2)
    window = window / window.sum()
    flat = x.reshape(-1, 1, *x.shape[-2:])
    flat = F.conv2d(flat, window.reshape(1, 1, -1, 1), padding=(radius, 0))
    flat = F.conv2d(flat, window.reshape(1, 1, 1, -1), padding=(0, radius))
    return flat.reshape(x.shape)
