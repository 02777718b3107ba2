"""How wide the blur of an image is."""

import math
from dataclasses import dataclass
from typing import Annotated, Any, cast

import numpy as np
import pyro.distributions as dist
import torch

from pyro_vble._arguments import Count, Seed, checked, one_of
from pyro_vble._tensors import RealTensor
from pyro_vble.guides import VBLE
from pyro_vble.physics import GaussianBlur, NoiseCalibration, calibrate_noise
from pyro_vble.physics.edges import find_edges, widths_along_axes
from pyro_vble.physics.problems import gaussian_noise
from pyro_vble.restoration import restore

# What edges of scenes are off by of themselves: seldom are they steps.
_NATURAL = 0.1
# Of the restorations: windows, the prior of the width, the offset that a kernel may have, and steps.
_WINDOW, _MEDIAN, _SPREAD, _RADIUS, _STEPS = 128, 1.0, 0.5, 8, 150
_METHODS = ("edges", "restoration")


@dataclass(frozen=True)
class MTFCalibration:
    """The blur of an image, as a Gaussian's.

    Attributes:
        method: Of :func:`calibrate_mtf`.
        width: Standard deviations along the axes of rows and of columns, in pixels.
        width_error: Their standard errors.
        count: How many edges, or restored windows, they are of.
    """

    method: str
    width: tuple[float, float]
    width_error: tuple[float, float]
    count: int

    @property
    def mtf(self) -> tuple[float, float]:
        """Modulation transfer of such Gaussians at Nyquist's frequency, 1/2 cycle a pixel, along both axes."""
        rows, columns = (math.exp(-((math.pi * w) ** 2) / 2) for w in self.width)
        return rows, columns

    @property
    def mtf_error(self) -> tuple[float, float]:
        """Their standard errors."""
        three = zip(self.mtf, self.width, self.width_error, strict=True)
        rows, columns = (m * math.pi**2 * w * error for m, w, error in three)
        return rows, columns


@checked
def calibrate_mtf(
    image: RealTensor,
    method: Annotated[str, one_of(*_METHODS)] = "restoration",
    *,
    prior: Any = "cae-aerial",
    noise: Any = None,
    num_windows: Count = 4,
    seed: Seed = 0,
) -> MTFCalibration:
    r"""Estimate the width of an image's blur, taken for a Gaussian's, from the image itself.

    ``"edges"``: straight steps of any direction are fitted by :math:`a + b\,\Phi(d / w)`, d the distance from the edge,
    and :math:`w^2 = w_r^2 n_r^2 + w_c^2 n_c^2` over their normals n regressed on the sharpest of them. It is the
    **whole** blur, of scene, optics, detector and processing, along both axes.

    ``"restoration"``: windows of 128x128 are restored with the width as a further unknown
    (``physics_priors={"width": LogNormal(0, 0.5)}``), and the median is returned. It is the blur **beyond that of the
    images that the prior was trained on**, one for both axes: what an operator that restores with this prior needs.

    Which to trust. ``"edges"`` where there are steps: of squares with noise of .01 it finds widths of .6 to 1.2 pixels
    to 2 %. Aerial images of 0.6 m have few; on five of them what was added, and the scene's own .8 pixels, came out to
    13 %, too much rather than too little, so that errors hold 10 % more than the regression's. ``"restoration"`` with a
    prior of such images: an aerial one blurred by .8 and 1.2 pixels came out as .88 and 1.16. But it is no better than
    prior and window are alike: with cae-bsd a photograph blurred by .7 and 1.4 came out as .84 and 1.11, and one aerial
    window in four, smooth of itself, was .5 too wide, with a posterior deviation of .01 that does not say so. Hence the
    median of several windows, and errors of how they differ, at least 10 %.

    References:
        | Reichenbach, Park and Narayanswamy, Characterizing digital image acquisition devices (1991), for edges
        | https://doi.org/10.1117/12.55783

    Args:
        image: Images (*, C, H, W) or (H, W) in [0, 1], as they were measured; NaN where missing.
        method: "edges" or "restoration".
        prior: For restorations: a prior, or its name.
        noise: For restorations: a noise level, or a deepinv noise model; by default what
            :func:`~pyro_vble.physics.calibrate_noise` finds.
        num_windows: How many windows are restored, those of most contrast.
        seed: Of fits and bootstraps.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If there are too few edges, or no window without missing values.

    Example:
        >>> import torch
        >>> import pyro_vble as pv
        >>> from pyro_vble.physics import GaussianBlur
        >>> square = torch.zeros(1, 1, 96, 96)
        >>> for k in range(64):  # a square that is turned a little, so that its edges lie everywhere between pixels
        ...     square[0, 0, 16 + k, 16 + k // 8 : 64 + k // 8] = 1
        >>> found = pv.calibrate_mtf(GaussianBlur(1.5).A(square), "edges")
        >>> abs(found.width[1] - 1.5) < 0.15
        True
    """
    if image.dim() < 2:
        raise ValueError(f"image must be (*, C, H, W) or (H, W); received shape {tuple(image.shape)}.")
    images = image.detach().float().reshape(-1, *(image.shape[-3:] if image.dim() > 2 else (1, *image.shape[-2:])))
    if method == "edges":
        return _by_edges(images, 0 if seed is None else seed)
    return _by_restoration(images, prior, noise, num_windows, seed)


def _by_edges(images: torch.Tensor, seed: int) -> MTFCalibration:
    found = [find_edges(one.mean(0).double().cpu().numpy()) for one in images]
    edges = type(found[0])(*(np.concatenate([getattr(one, name) for one in found]) for name in vars(found[0])))
    widths, errors, count = widths_along_axes(edges, abs(seed))
    if not np.isfinite(widths).all():
        raise ValueError(
            f"Too few straight edges: {count}; use a larger image, one of buildings and fields, or "
            'method="restoration".'
        )
    rows, columns = (float(np.hypot(error, _NATURAL * w)) for error, w in zip(errors, widths, strict=True))
    return MTFCalibration("edges", (float(widths[0]), float(widths[1])), (rows, columns), count)


def _by_restoration(images: torch.Tensor, prior: Any, noise: Any, num_windows: int, seed: int | None) -> MTFCalibration:
    if noise is None:
        noise = cast(NoiseCalibration, calibrate_noise(images)).noise_model()
    noise = noise if isinstance(noise, torch.nn.Module) else gaussian_noise(noise)
    windows = _windows(images, num_windows)
    physics = GaussianBlur(_MEDIAN, radius=_RADIUS, noise_model=noise)
    priors = {"width": dist.LogNormal(math.log(_MEDIAN), _SPREAD)}
    posterior = restore(
        windows, physics, prior, VBLE, physics_priors=priors, num_steps=_STEPS, seed=seed, progress=False
    )
    own = posterior.sample_latents(200, seed=0)["width"]
    widths = own.mean(0).double().cpu().numpy()
    width = float(np.median(widths))
    # A robust deviation of the windows' widths, as the median's error has it; one window has but its own.
    apart = 1.4826 * float(np.median(np.abs(widths - width))) * 1.2533 / len(widths) ** 0.5
    error = max(apart, float(own.std(0).median()), _NATURAL * width)
    return MTFCalibration("restoration", (width, width), (error, error), len(widths))


def _windows(images: torch.Tensor, count: int) -> torch.Tensor:
    """The windows of most contrast, without missing values, (n, C, side, side)."""
    side = min(_WINDOW, *images.shape[-2:])
    cut = images.unfold(2, side, side).unfold(3, side, side).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
    cut = cut[cut.isfinite().flatten(1).all(1)]
    if not len(cut):
        raise ValueError(
            f"A window of {side}x{side} pixels without missing values is needed; received none; crop the image."
        )
    contrast = sum(cut.diff(dim=dim).square().flatten(1).mean(1) for dim in (-1, -2))
    return cut[torch.as_tensor(contrast).argsort(descending=True, stable=True)[:count]]
