"""Several independent fits of one measurement, as one posterior."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, TypeVar

import torch
from torch import Tensor

from pyro_vble._arguments import BrokenRuleError, Count, Rule, Seed, checked
from pyro_vble.guides.abilities import guide_name
from pyro_vble.inference.draws import Draws
from pyro_vble.models.turned import Turn, turn_of
from pyro_vble.samples.fitted import Fitted
from pyro_vble.samples.posterior import Posterior
from pyro_vble.seeding import derived_seed

_T = TypeVar("_T")


def _fits(value: Any) -> tuple[Posterior, ...]:
    if not isinstance(value, tuple | list) or not all(isinstance(fit, Posterior) for fit in value):
        raise BrokenRuleError("type")
    if not value or any(fit.shape != value[0].shape or fit.y.shape != value[0].y.shape for fit in value):
        raise BrokenRuleError("value")
    return tuple(value)


@checked
class Mixture(Fitted):
    r"""The mixture of independent fits, each with the same weight; of fits under a prior turned differently, too.

    .. math:: q(x, z, h) = \frac 1K \sum_k q_k(x, z, h)

    Every fit gives as many samples, in chunks by turns, and every statistic is the mixture's: where the fits disagree,
    error bars widen. ``to_arviz`` makes each fit a chain, so that R-hat tells whether they agree. A mixture has no
    guide of its own, and no density: those are its ``fits``'.

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
        elbo = torch.stack([fit.elbo[:shortest] for fit in fits]).mean(0)
        super().__init__(first.model, first.y, elbo=elbo, precision=first.precision, seed=first.seed)
        self._fits, self.output_device = fits, first.output_device

    def __repr__(self) -> str:
        """A line: number of fits, guide, shape."""
        return f"Mixture({len(self.fits)} fits of {guide_name(self.fits[0].guide)}, shape={self.shape})"

    @property
    def fits(self) -> tuple[Posterior, ...]:
        """The independent fits this consists of: the chains of ``to_arviz``."""
        return self._fits

    @property
    def turns(self) -> tuple[Turn, ...]:
        """How the priors of the fits are turned, each turn once."""
        return tuple(dict.fromkeys(turn_of(fit.model.prior) for fit in self.fits))

    @property
    def is_turned(self) -> bool:
        """Whether the prior is averaged over several turns of the image."""
        return len(self.turns) > 1

    @property
    def groups(self) -> frozenset[str]:
        """ArviZ's groups that can be made of it; "latents" only where those of all fits have one frame."""
        return super().groups - {"latents"} if self.is_turned else super().groups

    @property
    def mmse_z(self) -> Tensor:
        """The decodings D(z̄) of the fits, averaged, (B, C, H, W)."""
        return self._out(torch.stack([fit.mmse_z for fit in self.fits]).mean(0))

    @property
    def made_with(self) -> str:
        """Guide, prior and operator in words; over how many turns of the image the prior is averaged."""
        made_with = self.fits[0].made_with
        return f"{made_with}, averaged over {len(self.turns)} symmetries" if made_with and self.is_turned else made_with

    @property
    def origin(self) -> dict[str, str]:
        """What ArviZ's attributes say of where the draws come from."""
        return self.fits[0].origin

    @checked
    def sample_latents(self, n: Count = 1, *, seed: Seed | None = None) -> dict[str, Tensor]:
        """Draw n posterior latents by site, each (n, B, *event): those of the images that ``sample`` draws.

        Raises:
            ValueError: If the prior is averaged over turns: a latent is then one of its fit's own frame.
        """
        if self.is_turned:
            raise ValueError(
                f"Latents must be of one frame of the image; received fits of {len(self.turns)}; use those of one fit, "
                "posterior.fits[k].sample_latents(n)."
            )
        return super().sample_latents(n, seed=seed)

    def draws(self, n: int = 1, *, seed: int | None = None) -> Iterator[Draws]:
        """Not of a mixture: its density is not a guide's. Use those of ``fits``."""
        raise NotImplementedError(
            "The density of a mixture of fits is none of its guides'; use the draws of posterior.fits[k]."
        )

    def chains(
        self, num_samples: int, *, seed: int | None = None, densities: bool = False, replicas: bool = False
    ) -> Sequence[Iterator[Draws]]:
        """Draws of every fit, each a chain, of the same length."""
        each, seed = math.ceil(num_samples / len(self.fits)), self.resolved_seed(seed)
        how = {"densities": densities, "replicas": replicas}
        return [
            chain
            for k, fit in enumerate(self.fits)
            for chain in fit.chains(each, seed=derived_seed(seed, "fit", k), **how)
        ]

    def mapped(
        self, make: Callable[[Posterior, int], _T], num_samples: int, *, seed: int | None = None
    ) -> Iterator[_T]:
        """What ``make`` makes of so many draws of all fits together, their chunks by turns."""
        seed, count = self.resolved_seed(seed), len(self.fits)
        shares = [num_samples // count + (k < num_samples % count) for k in range(count)]
        parts = [
            fit.mapped(make, share, seed=derived_seed(seed, "fit", k))
            for k, (fit, share) in enumerate(zip(self.fits, shares, strict=True))
            if share
        ]
        while parts:
            going = []
            for part in parts:
                for chunk in itertools.islice(part, 1):
                    yield chunk
                    going.append(part)
            parts = going

    def _version(self) -> tuple[int, ...]:
        return tuple(version for fit in self.fits for version in fit._version())
