"""Draws of the posterior of the model that is linear about a fitted guide's centre."""

import dataclasses
import itertools
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_vble.inference.conjugate_gradient import conjugate_gradient
from pyro_vble.inference.draws import Draws
from pyro_vble.inference.linearisation import Linearisation
from pyro_vble.inference.precision import network_precision
from pyro_vble.samples.kept import KeptSamples
from pyro_vble.samples.samples import Samples
from pyro_vble.seeding import derived_seed

if TYPE_CHECKING:
    from arviz import InferenceData

    from pyro_vble.samples.fitted import Fitted
    from pyro_vble.samples.posterior import Posterior


class LinearisedPosterior(Samples):
    r"""Samples that know how latents depend on one another: a guide's centre, and the model's own covariance there.

    .. math:: x = D(\bar z + \delta_z)\;[+\,\sigma\,(\bar e + \delta_e)], \qquad
        \Lambda\,\delta = \textstyle\sum_i J_i^\top \big(W_i r_i + W_i^{1/2} \varepsilon_i\big), \qquad
        \Lambda = \sum_i J_i^\top W_i J_i

    A draw perturbs what every part of the model predicts by as much as it may err, and solves for the latents: if the
    model is linear and Gaussian it is a draw of the exact posterior. See
    ``pyro_vble.inference.linearisation.Linearisation`` for the parts i. The guide gives the centre alone: its
    widths, and a KL weight that it was fitted with, play no part.

    Draws are made in chunks, so that memory does not grow with their number. What is left of their equations is told in
    the precision of y, whatever the networks sample in, and whatever solved for the latents.

    Args:
        posterior: A :class:`~pyro_vble.Posterior`, or a mixture of several.
        n: How many draws statistics take, where they are not told.
        tolerance: Largest residual of the solutions, relative to the right-hand sides of all latents; those of e count
            for at most eight times the others.
        max_iterations: Most iterations of conjugate gradients; where they do not suffice a warning says so.
        recentre: Whether draws are about the Gauss-Newton step from the guide's centre (the residuals r), or about the
            centre itself.
        seed: Default seed of the methods.

    Attributes:
        posterior: That posterior.
        iterations: Most iterations that a draw has taken so far.
        residual: Largest relative residual of a draw so far; NaN before the first.

    Raises:
        ValueError: If there is no operator, parameters of operator or noise are inferred, the prior does not tell its
            latents' moments, or the noise has no information.

    Example:
        >>> import torch, deepinv
        >>> import pyro_vble as pv
        >>> physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))
        >>> posterior = pv.restore(torch.rand(1, 3, 64, 64), physics, "cae-bsd", num_steps=2, seed=0, progress=False)
        >>> draws = posterior.linearised(4)
        >>> draws.std().shape, draws.residual <= 0.03
        (torch.Size([1, 3, 64, 64]), True)
    """

    shape: tuple[int, int, int, int]
    y: Tensor

    def __init__(
        self,
        posterior: "Fitted",
        n: int = 100,
        *,
        tolerance: float = 0.03,
        max_iterations: int = 200,
        recentre: bool = False,
        seed: int | None = None,
    ) -> None:
        seed = posterior.seed if seed is None else seed
        super().__init__(posterior.shape, y=posterior.y, physics=posterior.physics, seed=seed)
        self.output_device = posterior.output_device
        self._check_physics("Linearised draws")
        if posterior.parameters:
            raise ValueError(
                "Linearised draws need an operator and a noise that are known; received a posterior that infers "
                f"{', '.join(sorted(posterior.parameters))}; restore again with what it found set in the operator."
            )
        self.posterior = posterior
        self.n, self.tolerance, self.max_iterations, self.recentre = n, tolerance, max_iterations, recentre
        self.iterations, self.residual = 0, math.nan
        self._kept = KeptSamples()

    def __repr__(self) -> str:
        """A line: of what, how many draws."""
        return f"{type(self).__name__}({self.posterior!r}, n={self.n})"

    @property
    def made_with(self) -> str:
        """That of the posterior, and that draws are linearised."""
        return f"linearised at {self.posterior.made_with}"

    @property
    def origin(self) -> dict[str, str]:
        """What ArviZ's attributes say of where the draws come from."""
        return {**self.posterior.origin, "draws": "linearised"}

    @property
    def groups(self) -> frozenset[str]:
        """ArviZ's groups that can be made of them."""
        return super().groups | (self.posterior.groups & {"latents", "prior", "prior_predictive"})

    def number(self, num_samples: int | None) -> int:
        """How many samples: those told, else n."""
        return num_samples or self.n

    def chunks(self, num_samples: int, *, seed: int | None = None) -> Iterator[Tensor]:
        """Images in chunks (n, B, C, H, W); a small set with a seed is kept for the next statistic of it."""
        seed = self.resolved_seed(seed)
        draw = lambda: (draws.image for draws in self._drawn(self.posterior, num_samples, seed))  # noqa: E731
        return self._kept.chunks((num_samples, seed, *self._version()), num_samples, self.shape, draw)

    def chains(
        self, num_samples: int, *, seed: int | None = None, densities: bool = False, replicas: bool = False
    ) -> Sequence[Iterator[Draws]]:
        """Draws of every fit, each a chain, with their latents; they have no densities."""
        fits, seed = self.posterior.fits, self.resolved_seed(seed)
        each = math.ceil(num_samples / len(fits))
        seeds = [seed if len(fits) == 1 else derived_seed(seed, "fit", k) for k in range(len(fits))]
        chains = [self._drawn(fit, each, own) for fit, own in zip(fits, seeds, strict=True)]
        return [self._measured(chain, own) if replicas else chain for chain, own in zip(chains, seeds, strict=True)]

    def ancestral(self, n: int, *, seed: int | None = None, measured: bool = False) -> dict[str, Tensor]:
        """Draws from the prior, as the posterior's."""
        return self.posterior.ancestral(n, seed=seed, measured=measured)

    def to_arviz(self, num_samples: int | None = None, **options: Any) -> "InferenceData":
        """Draws as ArviZ ``InferenceData``, by default n; see :meth:`Samples.to_arviz`."""
        return super().to_arviz(self.n if num_samples is None else num_samples, **options)

    def to_zarr(self, path: str | os.PathLike, num_samples: int | None = None, **options: Any) -> None:
        """Stream draws to a Zarr store, by default n; see :meth:`Samples.to_zarr`."""
        super().to_zarr(path, self.n if num_samples is None else num_samples, **options)

    def _drawn(self, source: "Fitted", num_samples: int, seed: int | None) -> Iterator[Draws]:
        """Images with their latents, chunk by chunk."""
        ready: dict[int, _System] = {}  # one of every fit, for all chunks

        def make(fit: "Posterior", n: int) -> tuple[Draws, float]:
            if id(fit) not in ready:
                ready[id(fit)] = _System(fit, n, self.tolerance)
            return self._solved(ready[id(fit)], fit, n)

        worst = 0.0
        for draws, residual in source.mapped(make, num_samples, seed=seed):
            # Of NaN, which is larger than nothing, these make NaN.
            worst = worst if residual <= worst else residual
            self.residual = self.residual if residual <= self.residual else residual
            yield draws
        if not worst <= self.tolerance:
            warnings.warn(
                f"Linearised draws have a relative residual of up to {worst:.2g} after {self.max_iterations} "
                f"iterations, where {self.tolerance:g} was asked for: they are narrower than they should be; raise "
                "max_iterations.",
                stacklevel=2,
            )

    @torch.no_grad()
    def _solved(self, system: "_System", fit: "Posterior", n: int) -> tuple[Draws, float]:
        """So many draws of a fit, and their largest residual."""
        with network_precision("float32", self.y.device):
            errors = system.linear.noise()
            if self.recentre:
                errors = {name: error + system.linear.residuals()[name] for name, error in errors.items()}
            found = conjugate_gradient(
                system.linear.product,
                system.linear.right_hand_side(errors),
                system.preconditioner,
                systems=2,
                tolerance=self.tolerance,
                max_iterations=self.max_iterations,
                eliminated=system.linear.eliminated,
                rough=system.linear.rough_product,
            )
            solution = system.linear.completed(found.x, errors)
        self.iterations = max(self.iterations, found.iterations)
        latents = {name: system.centre[name] + delta[:n] for name, delta in solution.items()}
        with network_precision(fit.precision, self.y.device), pyro.plate("samples", n, dim=-2):
            x = poutine.condition(fit.model.image, data=latents)(fit.y, latents["z"])
        return Draws(x.expand(n, *self.shape), latents), float(found.residual[:n].max())

    def _measured(self, draws: Iterator[Draws], seed: int | None) -> Iterator[Draws]:
        """Draws with measurements of them."""
        draws, again = itertools.tee(draws)
        replicas = self._replicas(again, seed)
        return (dataclasses.replace(one, replica=y) for one, y in zip(draws, replicas, strict=True))

    def _version(self) -> tuple[int, ...]:
        return self.posterior._version()


class _System:
    """The linear equations of a fit."""

    def __init__(self, fit: "Posterior", copies: int, tolerance: float) -> None:
        with network_precision("float32", fit.y.device):
            self.centre = fit.centre()
            self.linear = Linearisation(fit.model, fit.y, self.centre, copies, tolerance)
            self.preconditioner = self.linear.preconditioner()
