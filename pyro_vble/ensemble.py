"""Several independent fits of one measurement, as one posterior."""

import itertools
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import torch
from torch import Tensor

from pyro_vble._arguments import BrokenRuleError, Rule, checked
from pyro_vble.inference.draws import Draws
from pyro_vble.posterior import Posterior, _versions
from pyro_vble.seeding import derived_seed


def _fits(value: Any) -> tuple[Posterior, ...]:
    if not isinstance(value, tuple | list) or not all(isinstance(fit, Posterior) for fit in value):
        raise BrokenRuleError("type")
    if not value or any(fit.image_shape != value[0].image_shape or fit.y.shape != value[0].y.shape for fit in value):
        raise BrokenRuleError("value")
    return tuple(value)


@checked
class EnsemblePosterior(Posterior):
    r"""The mixture of independent fits, each with the same weight.

    .. math:: q(x, z, h) = \frac 1K \sum_k q_k(x, z, h)

    Every fit gives as many samples, in chunks by turns, and every statistic is the mixture's: where the fits disagree,
    error bars widen. ``to_arviz`` makes each fit a chain, so that R-hat tells whether they agree.

    Args:
        fits: The fits, of one measurement.

    Raises:
        TypeError: If they are no list of posteriors.
        ValueError: If there is none, or their measurements have different shapes.
    """

    def __init__(
        self, fits: Annotated[Any, Rule("a list of posteriors of one measurement, at least one", _fits)]
    ) -> None:
        first, shortest = fits[0], min(len(fit.elbo) for fit in fits)
        super().__init__(
            first.model,
            first.guide,
            first.y,
            elbo=torch.stack([fit.elbo[:shortest] for fit in fits]).mean(0),
            precision=first.precision,
            seed=first.seed,
        )
        self._fits = fits

    def __repr__(self) -> str:
        """A line: number of fits, guide, shape."""
        return f"EnsemblePosterior({len(self._fits)} fits of {type(self.guide).__name__}, {self.image_shape})"

    @property
    def fits(self) -> tuple[Posterior, ...]:
        """The independent fits this consists of: the chains of ``to_arviz``."""
        return self._fits

    @property
    def mmse_z(self) -> Tensor:
        """The decodings D(z̄) of the fits, averaged, (B, C, H, W)."""
        return self._out(torch.stack([fit.mmse_z for fit in self._fits]).mean(0))

    def draws(self, n: Any = 1, *, seed: Any = None) -> Iterator[Draws]:
        """Not of a mixture: its density is not a guide's. Use those of ``fits``."""
        raise NotImplementedError(
            "The density of a mixture of fits is none of its guides'; use the draws of posterior.fits[k]."
        )

    def _chunked(self, num_samples: int, seed: int | None, make: Callable[[Posterior, int], Any]) -> Iterator[Any]:
        """What ``make`` makes of n draws of all fits together, their chunks by turns."""
        parts = [
            fit._chunked(count, derived_seed(seed, "fit", k), make)
            for k, (fit, count) in enumerate(zip(self._fits, _turns(num_samples, len(self._fits)), strict=True))
            if count
        ]
        for chunks in itertools.zip_longest(*parts):
            yield from (chunk for chunk in chunks if chunk is not None)

    def _guide_trace(self, n: int) -> Any:
        raise NotImplementedError("A mixture of fits has no single guide; use those of posterior.fits.")

    def _key(self, num_samples: int, seed: int | None) -> tuple[int | None, ...]:
        return (num_samples, seed, *(version for fit in self._fits for version in _versions(fit.guide)))


def _turns(n: int, fits: int) -> list[int]:
    """How many of n draws each fit makes."""
    return [n // fits + (k < n % fits) for k in range(fits)]
