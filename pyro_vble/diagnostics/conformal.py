"""Conformal calibration: intervals that cover what they claim, learnt on image pairs of the same sensor."""

import json
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor

from pyro_vble._arguments import BrokenRuleError, Count, CountOrZero, Number, PathName, Rule, brief, checked
from pyro_vble._extras import extra
from pyro_vble.io.atomic import atomic_path
from pyro_vble.io.validated import problems_of
from pyro_vble.metrics import BORDER, inner
from pyro_vble.samples import Samples

_FORMAT = "pyro-vble calibration 1"
_SCORES_PER_BIN = 500
_ROUNDING = 1e-9
_FEW_IMAGES = 5
_OR = " | "
_HASH = re.compile(r" #[0-9a-f]{8}")


def _iterable(value: Any) -> Any:
    if isinstance(value, str | bytes):
        raise BrokenRuleError("type")
    try:
        iter(value)
    except Exception:  # a tensor of one number has __iter__, and refuses when it is called
        raise BrokenRuleError("type") from None
    return value


_Score = Annotated[float, Field(ge=0)]
_Scores = Annotated[list[_Score], Field(min_length=1)]
_Many = Annotated[Any, Rule("an iterable", _iterable, "a list of one for a single one")]


class _Content(BaseModel):
    """What a calibration holds, as JSON has it."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    format: Literal["pyro-vble calibration 1"]
    edges: list[_Score]
    scores: Annotated[list[_Scores], Field(min_length=1)]
    num_images: int = Field(ge=1)
    num_pixels: int = Field(ge=1)
    left_out_90: list[Annotated[float, Field(ge=0, le=1)]] = []
    made_with: str = ""

    @model_validator(mode="after")
    def _check(self) -> "_Content":
        if not all(a < b for a, b in pairwise(self.edges)):
            raise ValueError("edges must increase")
        if len(self.scores) != len(self.edges) + 1:
            raise ValueError(f"scores must be of one group more than there are edges; there are {len(self.scores)}")
        for group, scores in enumerate(self.scores):
            if not all(a <= b for a, b in pairwise(scores)):
                raise ValueError(f"scores.{group} must be sorted")
        if len(self.left_out_90) not in (0, self.num_images):
            raise ValueError("left_out_90 must have one share for each image, or none")
        return self


@dataclass(frozen=True)
class Calibration:
    r"""Normalised errors of past restorations, by predicted standard deviation.

    .. math:: s_i = \frac{|x_i - E[x_i|y]|}{\mathrm{std}[x_i|y]}, \qquad
        I_p(i) = E[x_i|y] \pm Q_p\big(s \mid \text{group of } i\big)\, \mathrm{std}[x_i|y]

    with groups of like predicted standard deviation ("Mondrian" conformal prediction). If a new image and those of the
    calibration are exchangeable, intervals of level p hold about a share p of its pixels on average over images, from
    about ten images on: pixels of one image go together, and to be sure of p, K images would have to be asked for
    p (1 + 1/K). Single images scatter around it, by how much ``left_out_90`` tells.

    References:
        | Algorithmic learning in a random world (Vovk et al., 2005)
        | Distribution-free inference with hierarchical data (Lee, Barber and Willett, 2023)
        | https://arxiv.org/abs/2306.06342
        | Crepes: a Python package for generating conformal regressors and predictive systems (Boström, 2022)

    Attributes:
        edges: Predicted standard deviations that part the groups, one less than there are groups.
        scores: Normalised errors of each group, at evenly spaced ranks.
        num_images: Number of images it was fitted on.
        num_pixels: Number of their values.
        left_out_90: Share held by 90 % intervals of each of these images, fitted on all others; empty for one image.
        made_with: What it was fitted on: guide, prior, operator; where they differed, each of them, " | " between.

    Raises:
        ValueError: If the numbers are none of a calibration: not finite, not sorted, or of other counts.

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

    def __post_init__(self) -> None:
        """Check the numbers, wherever they come from."""
        try:
            _Content.model_validate_json(json.dumps(self.as_dict()))
        except ValidationError as error:
            raise ValueError(f"A calibration must be whole: {problems_of(error, 'calibration')}.") from error
        except TypeError as error:
            raise TypeError(f"A calibration must hold plain numbers; received others ({error}).") from error

    @classmethod
    @checked
    def fit(
        cls,
        posteriors: _Many,
        truths: _Many,
        *,
        bins: Count = 10,
        num_samples: Count = 100,
        border: CountOrZero = BORDER,
    ) -> Self:
        """Learn from posteriors of images whose truth is known.

        Args:
            posteriors: Posteriors, made as those will be that are to be calibrated: same sensor, prior, guide. They
                are gone through once, so that a generator need not hold them all.
            truths: The true image (B, C, H, W) of each.
            bins: Number of groups of like predicted standard deviation.
            num_samples: Samples of each posterior, as many as later.
            border: Pixels left out at the border.

        Raises:
            TypeError: If an argument is of a wrong type.
            ValueError: If there is no image, a truth has another shape or no known value, or a posterior no spread
                (MAP-z); if the border leaves nothing of an image.
        """
        return cls._fit(_paired(posteriors, truths), bins, num_samples, border)

    @classmethod
    @checked
    def fit_pairs(
        cls,
        restored: _Many,
        *,
        bins: Count = 10,
        num_samples: Count = 100,
        border: CountOrZero = BORDER,
        left_out: Callable[[int, Any], None] | None = None,
    ) -> Self:
        """The same, of pairs of posterior and truth, such as a generator that restores one after another.

        Args:
            restored: The pairs.
            bins, num_samples, border: As in :meth:`fit`.
            left_out: Is told in the end, image by image, its number and the calibration on all others, if there are
                any: what an interval of an image of which nothing was known would have been.
        """
        return cls._fit(restored, bins, num_samples, border, left_out)

    @classmethod
    def _fit(
        cls,
        restored: Iterable[Any],
        bins: int,
        num_samples: int,
        border: int,
        told: Callable[[int, Any], None] | None = None,
    ) -> Self:
        _regressor()  # before the fits, if it is missing
        pairs: list[tuple[np.ndarray, np.ndarray]] = []
        origins: dict[str, None] = {}  # as rate_scale="auto" chooses image by image
        for posterior, truth in map(_checked_pair, restored):
            if tuple(truth.shape) != posterior.shape:
                raise ValueError(
                    f"Each truth must have its image's shape {posterior.shape}; received {tuple(truth.shape)}."
                )
            if 2 * border >= min(truth.shape[-2:]):
                raise ValueError(
                    f"border must leave some of every image; received {border} for one of {tuple(truth.shape[-2:])} "
                    "pixels."
                )
            seed, n = posterior.lasting_seed(None), posterior.stored or num_samples
            std = posterior.std(n, seed=seed)  # mean and standard deviation of the same samples
            error = (truth - posterior.mmse_x(n, seed=seed)).abs()
            if not bool((std > 0).any()):
                raise ValueError("A posterior without spread cannot be calibrated; use VBLE or VBLExz, not MAPz.")
            origins[posterior.made_with] = None
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
                stacklevel=4,
            )
        edges, scores = _learn(pairs, bins)
        left_out = []
        for one, pair in enumerate(pairs if len(pairs) > 1 else ()):
            rest = pairs[:one] + pairs[one + 1 :]
            others = cls(*_learn(rest, bins), len(rest), sum(len(std) for std, _ in rest))
            half = others.half_width(torch.from_numpy(pair[0]), 0.9)
            left_out.append(float((torch.from_numpy(pair[1]) <= half).double().mean()))
            if told is not None:
                told(one, others)
        return cls(edges, scores, len(pairs), sum(len(std) for std, _ in pairs), tuple(left_out), _OR.join(origins))

    @checked
    def half_width(self, std: Tensor, probability: Number) -> Tensor:
        """Half width of the interval of each pixel, of its predicted standard deviation.

        Raises:
            ValueError: If ``probability`` is not between 0 and 1, or larger than so many scores can tell.
        """
        edges = torch.tensor(self.edges, dtype=std.dtype, device=std.device)
        factors = torch.tensor(self._factors(probability), dtype=std.dtype, device=std.device)
        return std * factors[torch.bucketize(std, edges)]

    @checked
    def groups(self, probability: Number) -> list[tuple[float, float, float]]:
        """Lowest and highest predicted standard deviation of each group, and half width over it."""
        bounds = (0.0, *self.edges, math.inf)
        return list(zip(bounds[:-1], bounds[1:], self._factors(probability).tolist(), strict=True))

    def suits(self, made_with: str) -> bool:
        """Whether it was made with samples of the same guide, prior and operator, as ``Samples.made_with`` tells."""
        made = self.made_with.split(_OR)
        if not self.made_with or _HASH.search(self.made_with):
            return not self.made_with or made_with in made
        # One from before arrays and priors of one's own were told by their values.
        return _without_hashes(made_with) in map(_without_hashes, made)

    @checked
    def save(self, path: PathName) -> None:
        """Write it as JSON.

        Raises:
            OSError: If it cannot be written.
        """
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(self.as_dict()) + "\n")

    @classmethod
    @checked
    def load(cls, path: PathName) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is none of a calibration; the message names file and field.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"No calibration at {path}; `pyro-vble calibrate` makes one.")
        _regressor()
        try:
            content = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"A calibration must be a JSON file; {path} is not ({brief(str(error))}).") from error
        return cls.from_dict(content, str(path))

    def as_dict(self) -> dict[str, Any]:
        """What JSON holds of it."""
        return {"format": _FORMAT} | asdict(self)

    @classmethod
    def from_dict(cls, content: Any, where: str = "this") -> Self:
        """The reverse of :meth:`as_dict`.

        Raises:
            ValueError: If it is none of a calibration; the message names ``where`` and the field.
        """
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise ValueError(f"A calibration must have the format {_FORMAT!r}; {where} has not.")
        try:
            found = _Content.model_validate_json(json.dumps(content))
        except (TypeError, ValueError, RecursionError) as error:
            what = problems_of(error, "calibration") if isinstance(error, ValidationError) else brief(str(error))
            raise ValueError(f"A calibration must be whole; {where} is not ({what}).") from error
        return cls(
            tuple(found.edges),
            tuple(map(tuple, found.scores)),
            found.num_images,
            found.num_pixels,
            tuple(found.left_out_90),
            found.made_with,
        )

    def _factors(self, probability: float) -> np.ndarray:
        """Half width over standard deviation, group by group."""
        smallest = min(map(len, self.scores))
        if not 0 < probability <= smallest / (smallest + 1):
            raise ValueError(
                f"probability must lie between 0 and {smallest / (smallest + 1):.3f}, which is what {smallest} scores "
                f"can tell; received {probability}; write 90 % as 0.9."
            )
        groups = np.arange(len(self.scores))
        # The rank is a whole number where p (n + 1) is one, whatever rounding makes of it.
        probability *= 1 - _ROUNDING
        regressor = _regressor()().fit(
            np.concatenate(self.scores), bins=np.repeat(groups, [len(s) for s in self.scores])
        )
        return regressor.predict_int(np.zeros(len(groups)), bins=groups, confidence=probability)[:, 1]


def _regressor() -> Any:
    with extra("diagnostics"):
        from crepes import ConformalRegressor
    return ConformalRegressor


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
    known = np.isfinite(error) & np.isfinite(std) & (std > 0)
    return std[known], error[known]


def _paired(posteriors: Iterable[Any], truths: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    end = object()
    for pair in zip_longest(posteriors, truths, fillvalue=end):
        if pair[0] is end or pair[1] is end:
            raise ValueError("There must be as many truths as posteriors; received more of one than of the other.")
        yield pair


def _checked_pair(pair: Any) -> tuple[Any, Tensor]:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise TypeError(f"Each must be a pair of posterior and truth; received {brief(pair)}.")
    posterior, truth = pair
    if not isinstance(posterior, Samples):
        raise TypeError(f"Each posterior must be one, as restore returns it; received {brief(posterior)}.")
    if not isinstance(truth, Tensor):
        raise TypeError(f"Each truth must be a tensor (B, C, H, W); received {brief(truth)}.")
    return posterior, truth


def _without_hashes(text: str) -> str:
    """A description as older calibrations have it, the folder of a prior's file left out."""
    return re.sub(r"prior [^()]*/([^/()]+) \(", r"prior \1 (", _HASH.sub("", text))
