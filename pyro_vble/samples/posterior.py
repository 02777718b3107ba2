"""The posterior of a fitted guide."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_vble._arguments import Count, Seed, checked
from pyro_vble._one_at_a_time import program_lock
from pyro_vble.guides.abilities import guide_name
from pyro_vble.guides.parameters import parameter_scope, parameters_of
from pyro_vble.inference.draws import Draws, draw, latents_of
from pyro_vble.inference.precision import network_precision
from pyro_vble.inference.result import Fit
from pyro_vble.models.identity import prior_in_words
from pyro_vble.models.restoration import RestorationModel
from pyro_vble.physics import describe
from pyro_vble.samples.fitted import Fitted
from pyro_vble.seeding import derived_seed, seeded

if TYPE_CHECKING:
    from pyro_vble.diagnostics.conformal import Calibration

_T = TypeVar("_T")

# Pixels decoded at once: on CPU small batches stay in cache, on CUDA large ones fill the device.
_PIXELS_AT_ONCE = {"cpu": 4 * 256 * 256, "cuda": 64 * 256 * 256}
# Draws whose mean stands for the median of a guide that does not know its own.
_CENTRE_DRAWS = 64


class Posterior(Fitted):
    r"""The fitted posterior q(x, z, h) ≈ p(x, z, h | y) of a batch of images.

    To the statistics of :class:`~pyro_vble.samples.Samples` it adds what a guide and a model know: MMSE-z, latents,
    densities, a file.

    Args:
        model: The :class:`~pyro_vble.models.RestorationModel`.
        guide: The fitted guide.
        y: Measurement (B, ...).
        elbo: ELBO of every step of the fit, in nats (tempered, if the KL weight was not 1).
        precision: Precision of the networks in sampling.
        seed: Default seed of the methods.
        calibration: A :class:`~pyro_vble.diagnostics.Calibration` of intervals and error quantiles.
        maker: What made the guide, (model, y) -> guide, where its class alone does not: for a file.

    Attributes:
        interrupted: Whether its fit was ended from the keyboard.
    """

    def __init__(
        self,
        model: RestorationModel,
        guide: Callable[[Tensor], Any],
        y: Tensor,
        *,
        elbo: Tensor | None = None,
        precision: str = "float32",
        seed: int | None = None,
        calibration: "Calibration | None" = None,
        maker: Callable | None = None,
    ) -> None:
        super().__init__(model, y, elbo=elbo, precision=precision, seed=seed)
        self.guide = guide
        self.calibration = calibration
        self.maker = maker

    @classmethod
    def of(cls, fit: Fit, maker: Callable | None = None) -> Self:
        """The posterior that a fit ended in."""
        how = {"elbo": fit.elbo, "precision": fit.precision, "seed": fit.seed, "maker": maker}
        posterior = cls(fit.model, fit.guide, fit.y, **how)
        posterior.interrupted = fit.interrupted
        return posterior

    def __repr__(self) -> str:
        """A line: guide, shape, ELBO."""
        last = f", elbo={self.elbo[-1]:,.0f} after {len(self.elbo)} steps" if len(self.elbo) else ""
        return f"Posterior({guide_name(self.guide)}, shape={self.shape}{last})"

    @property
    def fits(self) -> "tuple[Posterior, ...]":
        """The independent fits this consists of: itself."""
        return (self,)

    @property
    def mmse_z(self) -> Tensor:
        """D(z̄), the decoding of the posterior median of the latent, (B, C, H, W).

        One pass, and so in full precision: bfloat16 has only 128 levels between 1/2 and 1. Of a guide that has no
        ``median`` (a function, a normalising flow) z̄ is the mean of 64 draws of a fixed seed.
        """
        with program_lock, torch.no_grad(), network_precision("float32", self.y.device):
            return self._out(self.model.prior.decode_mean(self.centre()["z"], self.shape[1:]))

    @property
    def made_with(self) -> str:
        """Guide, prior and operator in words; empty where the operator is not known."""
        if self.physics is None:
            return ""
        prior = self.model.prior
        told = {**getattr(self.guide, "options", {}), **prior.settings}
        told = ", ".join(f"{name}={value}" for name, value in told.items())
        return f"{guide_name(self.guide)}, prior {prior_in_words(prior)} ({told}), {describe(self.physics)}"

    @property
    def origin(self) -> dict[str, str]:
        """What ArviZ's attributes say of where the draws come from."""
        return {"guide": guide_name(self.guide), "prior": str(self.model.prior.name)}

    @checked
    def draws(self, n: Count = 1, *, seed: Seed | None = None) -> Iterator[Draws]:
        """Draw n times, in chunks, each with its densities under model and guide.

        The images of a seed are those of ``sample``.

        Raises:
            ValueError: If the model has no operator, as after loading without one, or the guide's density is not one
                of each image.
        """
        one = lambda fit, n: draw(fit.model, fit.guide, fit.y, n, precision=fit.precision)  # noqa: E731
        return self.mapped(one, n, seed=seed)

    def chains(
        self, num_samples: int, *, seed: int | None = None, densities: bool = False, replicas: bool = False
    ) -> Sequence[Iterator[Draws]]:
        """Draws of the guide as one chain, with densities and measurements where they are asked for."""
        if densities:
            draws = self.draws(num_samples, seed=seed)
        else:
            draws = self.mapped(lambda fit, n: Draws(*fit.images_and_latents(n)), num_samples, seed=seed)
        if not replicas:
            return [draws]
        again = self.mapped(lambda fit, n: fit.measurements(n), num_samples, seed=seed)
        return [(dataclasses.replace(d, replica=y) for d, y in zip(draws, again, strict=True))]

    def mapped(
        self, make: "Callable[[Posterior, int], _T]", num_samples: int, *, seed: int | None = None
    ) -> Iterator[_T]:
        """What ``make`` makes of so many draws, chunk by chunk, with the random numbers of the seed.

        Each chunk has a seed of its own: what a generator yields within a scope, its consumer gets within that scope,
        so the random state cannot be forked around all chunks at once. Nor can the lock be held around all of them.
        """
        seed = self.resolved_seed(seed)
        images, bands, *size = self.shape
        pixels = images * _network_passes(bands, self.model.prior.bands) * size[0] * size[1]
        at_once = max(1, _PIXELS_AT_ONCE.get(self.y.device.type, _PIXELS_AT_ONCE["cpu"]) // pixels)
        for index, start in enumerate(range(0, num_samples, at_once)):
            # As in a fit, what Pyro validates it validates once.
            unchecked = pyro.validation_enabled(False) if index else contextlib.nullcontext()
            random = seeded(derived_seed(seed, "draws", index))
            with program_lock, torch.inference_mode(False), random, unchecked:
                made = make(self, min(at_once, num_samples - start))
            yield made

    # --- n draws at once, with the random numbers that there are: for ``mapped`` ---

    @torch.no_grad()
    def guide_trace(self, n: int) -> poutine.Trace:
        """The trace of the guide, n times."""
        with parameter_scope(self.guide), pyro.plate("samples", n, dim=-2):
            return poutine.trace(self.guide).get_trace(self.y)

    @torch.no_grad()
    def replay(self, program: Callable[[Tensor, Tensor | None], _T], n: int) -> tuple[_T, dict[str, Tensor]]:
        """What a program of the model returns on n draws of the guide, and those.

        It is given z: an image is drawn from p(x|z), for which nobody needs to know p(z).
        """
        with network_precision(self.precision, self.y.device):
            trace = self.guide_trace(n)
            latents = latents_of(trace)
            with pyro.plate("samples", n, dim=-2):
                return poutine.replay(program, trace=trace)(self.y, latents.get("z")), latents

    def latents(self, n: int) -> dict[str, Tensor]:
        """Latents by site, each (n, B, *event)."""
        return latents_of(self.guide_trace(n))

    def images_and_latents(self, n: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Images (n, B, C, H, W), and the latents they were made of."""
        x, latents = self.replay(self.model.image, n)
        return x.expand(n, *self.shape), latents

    @torch.no_grad()
    def measurements(self, n: int) -> Tensor:
        """Measurements (n, B, ...) of such images."""
        p_y, _ = self.replay(self.model.measurement, n)
        return p_y.expand((n, *self.y.shape)).sample()

    @torch.no_grad()
    def centre(self) -> dict[str, Tensor]:
        """Medians by site, (B, *event) each; of a guide that has none, means of 64 draws of a fixed seed."""
        with parameter_scope(self.guide):
            if callable(getattr(self.guide, "median", None)):
                with contextlib.suppress(NotImplementedError):
                    return dict(self.guide.median(self.y))
        with seeded(derived_seed(0, "centre")):
            return {name: value.mean(0) for name, value in self.latents(_CENTRE_DRAWS).items()}

    def _version(self) -> tuple[int, ...]:
        """Changes with every further fitting step, so that kept samples are never those of an older guide."""
        return tuple(p._version for p in parameters_of(self.guide))


def _network_passes(bands: int, own: int) -> int:
    """How often an image goes through the network: band by band, unless it has the network's bands or one."""
    return 1 if bands in (1, own) else bands
