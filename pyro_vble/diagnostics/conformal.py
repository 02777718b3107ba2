"""Conformal calibration: intervals that hold what they claim, learnt on image pairs of the same sensor."""

import json
import math
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vble.io.atomic import atomic_path
from pyro_vble.metrics import BORDER, inner
from pyro_vble.posterior import Posterior
from pyro_vble.seeding import fresh_seed

_FORMAT = "pyro-vble calibration 1"
_SCORES_PER_BIN = 500
_FEW_IMAGES = 5
_OR = " | "


@dataclass(frozen=True)
class Calibration:
    r"""Normalised errors of past restorations, by predicted standard deviation.

    .. math:: s_i = \frac{|x_i - E[x_i|y]|}{\mathrm{std}[x_i|y]}, \qquad
        I_p(i) = E[x_i|y] \pm Q_p\big(s \mid \text{group of } i\big)\, \mathrm{std}[x_i|y]

    with groups of like predicted standard deviation ("Mondrian" conformal prediction). If a new image and those of the
    calibration are exchangeable, intervals of level p hold a share p of its pixels on average over images; single
    images scatter around it, by how much ``left_out_90`` tells.

    References:
        | Algorithmic learning in a random world (Vovk et al., 2005)
        | Crepes: a Python package for generating conformal regressors and predictive systems (Boström, 2022)

    Attributes:
        edges: Predicted standard deviations that part the groups, one less than there are groups.
        scores: Normalised errors of each group, at evenly spaced ranks.
        num_images: Number of images it was fitted on.
        num_pixels: Number of their values.
        left_out_90: Share held by 90 % intervals of each of these images, fitted on all others; empty for one image.
        made_with: What it was fitted on: guide, prior, operator; where they differed, each of them, " | " between.

    Example:
        >>> import torch, deepinv
        >>> import pyro_vble as pv
        >>> from pyro_vble.diagnostics import Calibration
        >>> physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))
        >>> truth = torch.rand(2, 3, 64, 64)
        >>> posterior = pv.restore(physics(truth), physics, "cae-bsd", num_steps=2, seed=0, progress=False)
        >>> calibration = Calibration.fit([posterior], [truth], num_samples=20)
        >>> low, high = posterior.calibrated(calibration).interval(0.9, 20)
        >>> round(float(((low <= truth) & (truth <= high)).float().mean()), 1)
        0.9
    """

    edges: tuple[float, ...]
    scores: tuple[tuple[float, ...], ...]
    num_images: int
    num_pixels: int
    left_out_90: tuple[float, ...] = ()
    made_with: str = ""

    @classmethod
    def fit(
        cls,
        posteriors: Iterable[Posterior],
        truths: Iterable[Tensor],
        *,
        bins: int = 10,
        num_samples: int = 100,
        border: int = BORDER,
    ) -> "Calibration":
        """Learn from posteriors of images whose truth is known.

        Args:
            posteriors: Posteriors, made as those will be that are to be calibrated: same sensor, prior, guide. They
                are gone through once, so that a generator need not hold them all.
            truths: The true image (B, C, H, W) of each.
            bins: Number of groups of like predicted standard deviation.
            num_samples: Samples of each posterior, as many as later.
            border: Pixels left out at the border.

        Raises:
            ValueError: If there is no image, a truth has another shape or no known value, or a posterior no spread
                (MAP-z).
        """
        return cls.fit_pairs(zip(posteriors, truths, strict=True), bins=bins, num_samples=num_samples, border=border)

    @classmethod
    def fit_pairs(
        cls,
        restored: Iterable[tuple[Posterior, Tensor]],
        *,
        bins: int = 10,
        num_samples: int = 100,
        border: int = BORDER,
    ) -> "Calibration":
        """The same, of pairs of posterior and truth, such as a generator that restores one after another."""
        pairs: list[tuple[np.ndarray, np.ndarray]] = []
        origins: dict[str, None] = {}  # as rate_scale="auto" chooses image by image
        for posterior, truth in restored:
            if tuple(truth.shape) != posterior.image_shape:
                raise ValueError(
                    f"Each truth must have its image's shape {posterior.image_shape}; received {tuple(truth.shape)}."
                )
            seed = (
                fresh_seed() if posterior.seed is None else posterior.seed
            )  # mean and standard deviation of the same samples
            std = posterior.std(num_samples, seed=seed)
            error = (truth - posterior.mmse_x(num_samples, seed=seed)).abs()
            if not bool((std > 0).any()):
                raise ValueError("A posterior without spread cannot be calibrated; use VBLE or VBLExz, not MAPz.")
            origins[made_with(posterior)] = None
            for one in range(len(truth)):
                pair = _finite(*(inner(v[one], border).double().cpu().numpy().ravel() for v in (std, error)))
                if not len(pair[0]):
                    raise ValueError("Every truth needs a known value inside its border; received one of NaN alone.")
                pairs.append(pair)
        if not pairs:
            raise ValueError("A calibration needs images whose truth is known; received none.")
        if len(pairs) < _FEW_IMAGES:
            warnings.warn(
                f"A calibration on {len(pairs)} images knows little of how images differ; ten or more tell.",
                stacklevel=3,
            )
        edges, scores = _learn(pairs, bins)
        left_out = []
        for one, pair in enumerate(pairs if len(pairs) > 1 else ()):
            others = cls(*_learn(pairs[:one] + pairs[one + 1 :], bins), len(pairs) - 1, 0)
            half = others.half_width(torch.from_numpy(pair[0]), 0.9)
            left_out.append(float((torch.from_numpy(pair[1]) <= half).double().mean()))
        return cls(edges, scores, len(pairs), sum(len(std) for std, _ in pairs), tuple(left_out), _OR.join(origins))

    def half_width(self, std: Tensor, probability: float) -> Tensor:
        """Half width of the interval of each pixel, of its predicted standard deviation.

        Raises:
            ValueError: If ``probability`` is not between 0 and 1, or larger than so many scores can tell.
        """
        edges = torch.tensor(self.edges, dtype=std.dtype, device=std.device)
        factors = torch.tensor(self._factors(probability), dtype=std.dtype, device=std.device)
        return std * factors[torch.bucketize(std, edges)]

    def groups(self, probability: float) -> list[tuple[float, float, float]]:
        """Lowest and highest predicted standard deviation of each group, and half width over it."""
        bounds = (0.0, *self.edges, math.inf)
        return list(zip(bounds[:-1], bounds[1:], self._factors(probability).tolist(), strict=True))

    def save(self, path: str | os.PathLike) -> None:
        """Write it as JSON."""
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(self.as_dict()) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Calibration":
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is none of a calibration.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"No calibration at {path}; `pyro-vble calibrate` makes one.")
        try:
            content = json.loads(path.read_text())
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"A calibration must be a JSON file; {path} is not ({error}).") from error
        return cls.from_dict(content, str(path))

    def as_dict(self) -> dict[str, Any]:
        """What JSON holds of it."""
        return {"format": _FORMAT} | asdict(self)

    @classmethod
    def from_dict(cls, content: Any, where: str = "this") -> "Calibration":
        """The reverse of :meth:`as_dict`."""
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise ValueError(f"A calibration must have the format {_FORMAT!r}; {where} has not.")
        lists = {"edges", "left_out_90"}
        try:
            values = {k: tuple(v) if k in lists else v for k, v in content.items() if k != "format"}
            return cls(**(values | {"scores": tuple(map(tuple, content["scores"]))}))
        except (KeyError, TypeError) as error:
            raise ValueError(f"A calibration must be whole; {where} is not ({error}).") from error

    def _factors(self, probability: float) -> np.ndarray:
        """Half width over standard deviation, group by group."""
        from crepes import ConformalRegressor

        smallest = min(map(len, self.scores))
        if not 0 < probability <= smallest / (smallest + 1):
            raise ValueError(
                f"probability must lie between 0 and {smallest / (smallest + 1):.3f}, which is what {smallest} scores "
                f"can tell; received {probability}; write 90 % as 0.9."
            )
        groups = np.arange(len(self.scores))
        regressor = ConformalRegressor().fit(
            np.concatenate(self.scores), bins=np.repeat(groups, [len(s) for s in self.scores])
        )
        return regressor.predict_int(np.zeros(len(groups)), bins=groups, confidence=probability)[:, 1]


def _learn(pairs: Sequence[tuple[np.ndarray, np.ndarray]], bins: int) -> tuple[Any, Any]:
    """Edges and scores of the groups; every image counts alike, whatever its size."""
    smallest = min(len(std) for std, _ in pairs)
    chosen = [np.linspace(0, len(std) - 1, smallest).round().astype(int) for std, _ in pairs]
    std, error = (np.concatenate([p[i][c] for p, c in zip(pairs, chosen, strict=True)]) for i in (0, 1))
    edges = np.unique(np.quantile(std, np.arange(1, bins) / bins))
    group, score = np.searchsorted(edges, std), error / np.maximum(std, np.finfo(np.float64).tiny)
    scores = []
    for k in range(len(edges) + 1):
        own = score[group == k] if (group == k).any() else score
        count = min(len(own), _SCORES_PER_BIN)
        scores.append(tuple(np.quantile(own, (np.arange(count) + 0.5) / count).round(5).tolist()))
    return tuple(edges.tolist()), tuple(scores)


def _finite(std: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values whose truth is known, and whose spread is not zero."""
    known = np.isfinite(error) & (std > 0)
    return std[known], error[known]


def was_made_with(calibration: Calibration, posterior: Posterior) -> bool:
    """Whether a calibration was made with posteriors like this one."""
    return made_with(posterior) in calibration.made_with.split(_OR)


def made_with(posterior: Posterior) -> str:
    """What a posterior was made with, in words: of a calibration it must be the same."""
    from pyro_vble.physics import describe

    guide, prior = posterior.guide, posterior.model.prior
    options = {**getattr(guide, "options", {}), **getattr(prior, "settings", {})}
    told = ", ".join(f"{name}={value}" for name, value in options.items())
    return f"{type(guide).__name__}, prior {prior.name} ({told}), {describe(posterior.model.physics)}"
