"""What the posteriors of fitted guides have in common."""

import os
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_vble._arguments import Count, Flag, Positive, Seed, checked
from pyro_vble._streaming import joined
from pyro_vble._traces import nodes_of
from pyro_vble.models.restoration import RestorationModel
from pyro_vble.samples.kept import KeptSamples
from pyro_vble.samples.samples import Samples
from pyro_vble.seeding import derived_seed

if TYPE_CHECKING:
    from pyro_vble.samples.linearised import LinearisedPosterior
    from pyro_vble.samples.posterior import Posterior

_T = TypeVar("_T")


class Fitted(Samples):
    """Samples of one or several guides, fitted to one measurement.

    Attributes:
        model: The :class:`~pyro_vble.models.RestorationModel`.
        y: Measurement (B, ...).
        elbo: ELBO of every step of the fit, in nats (tempered, if the KL weight was not 1).
        precision: Precision of the networks in sampling.
        interrupted: Whether its fit was ended from the keyboard.
    """

    shape: tuple[int, int, int, int]
    y: Tensor
    interrupted = False

    def __init__(
        self, model: RestorationModel, y: Tensor, *, elbo: Tensor | None = None, precision: str, seed: int | None
    ) -> None:
        super().__init__((len(y), *model.image_shape(y)), y=y, seed=seed)
        self.model = model
        self.elbo = torch.empty(0) if elbo is None else elbo
        self.precision = precision
        self._kept = KeptSamples()

    @property
    def physics(self) -> Any:
        """The model's operator."""
        return self.model.physics

    @property
    @abstractmethod
    def fits(self) -> "tuple[Posterior, ...]":
        """The independent fits this consists of: the chains of ``to_arviz``."""

    @property
    @abstractmethod
    def mmse_z(self) -> Tensor:
        """D(z̄), the decoding of the posterior median of the latent, (B, C, H, W)."""

    @abstractmethod
    def mapped(
        self, make: "Callable[[Posterior, int], _T]", num_samples: int, *, seed: int | None = None
    ) -> Iterator[_T]:
        """What ``make`` makes of so many draws of a fit, chunk by chunk, with the random numbers of the seed.

        Args:
            make: From a posterior and a number of draws to anything; draws with :meth:`Posterior.replay` or
                :meth:`Posterior.guide_trace` are then those of ``sample``.
            num_samples: How many draws.
            seed: Their seed; by default the posterior's.
        """

    def chunks(self, num_samples: int, *, seed: int | None = None) -> Iterator[Tensor]:
        """Posterior images in chunks (n, B, C, H, W); a small set with a seed is kept for the next statistic of it."""
        seed = self.resolved_seed(seed)
        key = (num_samples, seed, *self._version())
        draw = lambda: self.mapped(lambda fit, n: fit.images_and_latents(n)[0], num_samples, seed=seed)  # noqa: E731
        return self._kept.chunks(key, num_samples, self.shape, draw)

    @checked
    def sample_latents(self, n: Count = 1, *, seed: Seed | None = None) -> dict[str, Tensor]:
        """Draw n posterior latents by site, each (n, B, *event): those of the images that ``sample`` draws."""
        chunks = list(self.mapped(lambda fit, n: fit.latents(n), n, seed=seed))
        return {name: self._out(torch.cat([chunk[name] for chunk in chunks])) for name in chunks[0]}

    @checked
    def predictive(self, n: Count = 1, *, seed: Seed | None = None) -> Tensor:
        """Draw n measurements from the posterior predictive p(y'|y), (n, B, ...).

        Raises:
            ValueError: If the model has no operator, as after loading without one.
        """
        self._check_physics("Posterior predictive samples")
        return self._out(joined(self.mapped(lambda fit, n: fit.measurements(n), n, seed=seed), n))

    @property
    def parameters(self) -> frozenset[str]:
        """Latent sites that are parameters of operator and noise."""
        return frozenset(self.model.physics_priors)

    @property
    def groups(self) -> frozenset[str]:
        """ArviZ's groups that can be made of it."""
        measured = {"posterior_predictive", "log_likelihood", "sample_stats", "prior_predictive"}
        known = measured if self.physics is not None else set()
        return frozenset({"posterior", "latents", "prior", "observed_data", "constant_data"} | known)

    @torch.no_grad()
    def ancestral(self, n: int, *, seed: int | None = None, measured: bool = False) -> dict[str, Tensor]:
        """Draws from the prior: "x", (n, B, C, H, W); if measured "y" and the parameters of operator and noise too."""

        def drawn(fit: "Posterior", n: int) -> dict[str, Tensor]:
            with pyro.plate("samples", n, dim=-2):
                trace = poutine.trace(fit.model.measurement if measured else fit.model.image).get_trace(fit.y)
            nodes = nodes_of(trace)
            values = {"x": nodes["x"]["value"].expand(n, *fit.shape)}
            if measured:
                values["y"] = nodes["_RETURN"]["value"].expand((n, *fit.y.shape)).sample()
                values |= {name: nodes[name]["value"].expand(n, len(fit.y)) for name in fit.parameters}
            return values

        chunks = list(self.mapped(drawn, n, seed=derived_seed(seed, "prior")))
        return {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}

    @checked
    def linearised(
        self,
        n: Count = 100,
        *,
        tolerance: Positive = 0.03,
        max_iterations: Count = 200,
        recentre: Flag = False,
        seed: Seed | None = None,
    ) -> "LinearisedPosterior":
        """Draws about the guide's centre that know how latents depend on one another.

        They take the guide's place where its factors are too narrow; see
        :class:`~pyro_vble.samples.LinearisedPosterior`.

        Args:
            n: How many draws statistics take, where they are not told.
            tolerance: Largest relative residual of the linear systems that draws are solutions of.
            max_iterations: Most iterations that a solution takes.
            recentre: Whether draws are about the Gauss-Newton step from the guide's centre, or about the centre itself.
            seed: Default seed of its methods; by default the posterior's.

        Raises:
            TypeError: If an argument is of a wrong type.
            ValueError: If there is no operator, parameters of operator or noise are inferred, the prior does not tell
                its latents' moments, or the noise has no information.
        """
        from pyro_vble.samples.linearised import LinearisedPosterior

        options = {"tolerance": tolerance, "max_iterations": max_iterations, "recentre": recentre, "seed": seed}
        return LinearisedPosterior(self, n, **options)

    def save(self, path: str | os.PathLike) -> None:
        """Write the posterior to one file, to be read by :func:`pyro_vble.load_posterior`.

        Raises:
            TypeError: If the guide cannot be built again by name.
        """
        from pyro_vble.samples.saving import save_posterior

        save_posterior(self, path)
