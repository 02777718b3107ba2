"""The posterior of an image: estimates, samples and error bars."""

import contextlib
import copy
import math
import os
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_vble._arguments import BrokenRuleError, Count, Probability, Rule, Seed, checked
from pyro_vble._one_at_a_time import program_lock
from pyro_vble._streaming import Moments, joined, streamed_quantiles
from pyro_vble.guides._parameters import StoredGuide, parameter_scope, parameters_of
from pyro_vble.inference.draws import Draws, draw, latents_of
from pyro_vble.inference.precision import network_precision
from pyro_vble.seeding import as_seed, derived_seed, fresh_seed, seeded

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import numpy as np
    from arviz import InferenceData

    from pyro_vble.diagnostics.conformal import Calibration

# Pixels decoded at once: on CPU small batches stay in cache, on CUDA large ones fill the device.
_PIXELS_AT_ONCE = {"cpu": 4 * 256 * 256, "cuda": 64 * 256 * 256}
# Draws whose mean stands for the median of a guide that does not know its own.
_CENTRE_DRAWS = 64
# Up to this many values the samples of one seed are kept for the next statistic: 100 samples of a 384x384 photograph.
_KEEP_VALUES = 50_000_000


def _calibration(value: Any) -> Any:
    if not callable(getattr(value, "half_width", None)):
        raise BrokenRuleError("type")
    return value


CalibrationLike = Annotated[Any, Rule("a pyro_vble.diagnostics.Calibration, or None", _calibration)]


class Posterior:
    r"""The fitted posterior q(x, z, h) ≈ p(x, z, h | y) of a batch of images.

    Samples are drawn in chunks and statistics are streamed: beyond 128 samples their memory does not grow with their
    number. (``sample``, ``predictive`` and ``to_arviz`` return draws, which take what draws take.) With a seed
    (that of the fit, or one passed to a method) every statistic is reproducible, and those of one seed and number of
    samples belong to the same samples.

    Args:
        model: The :class:`~pyro_vble.models.RestorationModel`.
        guide: The fitted guide.
        y: Measurement (B, ...).
        elbo: ELBO of every step of the fit, in nats (tempered, if the KL weight was not 1).
        precision: Precision of the networks in sampling.
        seed: Default seed of the methods.
        calibration: A :class:`~pyro_vble.diagnostics.Calibration` of intervals and error quantiles.

    Attributes:
        interrupted: Whether its fit was ended from the keyboard.
    """

    interrupted = False

    def __init__(
        self,
        model: nn.Module,
        guide: Callable[[Tensor], Any],
        y: Tensor,
        *,
        elbo: Tensor | None = None,
        precision: str = "float32",
        seed: int | None = None,
        calibration: "Calibration | None" = None,
    ) -> None:
        self.model = model
        self.guide = guide
        self.y = y
        self.elbo = torch.empty(0) if elbo is None else elbo
        self.precision = precision
        self.seed = as_seed(seed)
        self.calibration = calibration
        self.output_device = y.device
        self._kept: tuple[tuple, list[Tensor]] | None = None
        self._kept_moments: tuple[tuple, Moments] | None = None
        self.image_shape = (len(y), *model.image_shape(y))

    def __repr__(self) -> str:
        """A line: guide, shape, ELBO."""
        last = f", elbo={self.elbo[-1]:,.0f} after {len(self.elbo)} steps" if len(self.elbo) else ""
        return f"Posterior({_name(self.guide)}, image_shape={self.image_shape}{last})"

    # --- estimates ---

    @property
    def mmse_z(self) -> Tensor:
        """D(z̄), the decoding of the posterior median of the latent, (B, C, H, W).

        One pass, and so in full precision: bfloat16 has only 128 levels between 1/2 and 1. Of a guide that has no
        ``median`` (a function, a normalising flow) z̄ is the mean of 64 draws of a fixed seed.
        """
        with program_lock, torch.no_grad(), network_precision("float32", self.y.device):
            return self._out(self.model.prior.decode_mean(self._central_z(), self.image_shape[1:]))

    @checked
    def mmse_x(self, num_samples: Count = 100, *, seed: Seed | None = None) -> Tensor:
        """The mean of posterior image samples, (B, C, H, W)."""
        return self._out(self._moments(num_samples, seed).mean.clone())  # what is kept stays ours

    @checked
    def std(self, num_samples: Count = 100, *, seed: Seed | None = None) -> Tensor:
        """The standard deviation of every pixel, (B, C, H, W)."""
        return self._out(self._moments(num_samples, seed).std)

    @checked
    def quantile(self, q: Probability, num_samples: Count = 100, *, seed: Seed | None = None) -> Tensor:
        """The q-quantile of every pixel, (B, C, H, W).

        Of n samples in order it is the one at position q (n + 1), so that another draw lies below it with probability
        q: exact for up to 128 samples; beyond, interpolated in a histogram of 256 bins per pixel.

        Raises:
            ValueError: If q is not a probability.

        References:
            | Sample quantiles in statistical packages (Hyndman and Fan, 1996), definition 6
        """
        return self._out(self._quantiles((q,), num_samples, seed)[0])

    @checked
    def interval(
        self, probability: Probability, num_samples: Count = 100, *, seed: Seed | None = None
    ) -> tuple[Tensor, Tensor]:
        """Lower and upper end of the central interval that holds every pixel with this probability.

        Another draw of the posterior lies within with just this probability, if there are samples enough to tell: n of
        them reach (n - 1)/(n + 1). With a calibration, it is that which held so many in the past.

        Raises:
            ValueError: If ``probability`` is not one.
        """
        if self.calibration is not None:
            moments = self._moments(num_samples, seed)
            half = self.calibration.half_width(moments.std, probability)
            return self._out(moments.mean - half), self._out(moments.mean + half)
        tail = (1 - probability) / 2
        low, high = self._quantiles((tail, 1 - tail), num_samples, seed)
        return self._out(low), self._out(high)

    @checked
    def error_quantile(self, q: Probability, num_samples: Count = 100, *, seed: Seed | None = None) -> Tensor:
        """The q-quantile of |sample - MMSE-x| at every pixel, (B, C, H, W): the predicted size of the error.

        Each of n samples is compared with the mean of the others, as a new one would be: n/(n - 1) times its distance
        from the mean of all. With a calibration, that of the errors of the past.

        Raises:
            ValueError: If q is not a probability.
        """
        seed = self._lasting_seed(seed)
        if self.calibration is not None:
            return self._out(self.calibration.half_width(self._moments(num_samples, seed).std, q))
        mean, others = self._moments(num_samples, seed).mean, num_samples / max(num_samples - 1, 1)
        return self._out(self._quantiles((q,), num_samples, seed, lambda x: others * (x - mean).abs())[0])

    @checked
    def calibrated(self, calibration: CalibrationLike | None) -> "Posterior":
        """This posterior with ``interval`` and ``error_quantile`` calibrated; samples and ``std`` stay as they are.

        Warns where the calibration was made with another guide, prior or operator.
        """
        if calibration is not None and calibration.made_with:
            from pyro_vble.diagnostics.conformal import made_with, was_made_with

            if self.model.physics is not None and not was_made_with(calibration, self):
                warnings.warn(
                    f"The calibration was made with {calibration.made_with}; this posterior with {made_with(self)}: "
                    "its intervals need not hold what they claim.",
                    stacklevel=2,
                )
        other = copy.copy(self)
        other.calibration = calibration
        return other

    # --- samples ---

    @checked
    def sample(self, n: Count = 1, *, seed: Seed | None = None) -> Tensor:
        """Draw n posterior images, (n, B, C, H, W)."""
        return self._out(joined(self._chunks(n, seed), n))

    @checked
    def sample_latents(self, n: Count = 1, *, seed: Seed | None = None) -> dict[str, Tensor]:
        """Draw n posterior latents by site, each (n, B, *event): those of the images that ``sample`` draws."""
        chunks = list(self._chunked(n, self._seed(seed), Posterior._latents))
        return {name: self._out(torch.cat([chunk[name] for chunk in chunks])) for name in chunks[0]}

    @checked
    def draws(self, n: Count = 1, *, seed: Seed | None = None) -> Iterator[Draws]:
        """Draw n times, in chunks, each with its densities under model and guide.

        The images of a seed are those of ``sample``.

        Raises:
            ValueError: If the model has no operator, as after loading without one, or the guide's density is not one
                of each image.
        """
        return self._chunked(n, self._seed(seed), Posterior._draws)

    @checked
    def predictive(self, n: Count = 1, *, seed: Seed | None = None) -> Tensor:
        """Draw n measurements from the posterior predictive p(y'|y), (n, B, ...).

        Raises:
            ValueError: If the model has no operator, as after loading without one.
        """
        return self._out(joined(self._predictive_chunks(n, seed), n))

    # --- elsewhere ---

    @property
    def fits(self) -> "tuple[Posterior, ...]":
        """The independent fits this consists of: the chains of ``to_arviz``."""
        return (self,)

    def to_arviz(
        self,
        num_samples: int = 200,
        *,
        region: tuple[slice, slice] | None = None,
        include: "Collection[str] | None" = None,
        truth: Tensor | None = None,
        coords: "Mapping[str, np.ndarray] | None" = None,
        seed: int | None = None,
    ) -> "InferenceData":
        """Samples as ArviZ ``InferenceData``; see :func:`pyro_vble.io.inference_data.to_inference_data`."""
        from pyro_vble.io.inference_data import to_inference_data

        options = {"region": region, "include": include, "truth": truth, "coords": coords, "seed": seed}
        return to_inference_data(self, num_samples, **options)

    def to_zarr(self, path: str | os.PathLike, num_samples: int = 1000, **options: Any) -> None:
        """Stream samples to a Zarr store, in memory that does not grow with their number.

        See :func:`pyro_vble.io.zarr_store.to_zarr`; :func:`pyro_vble.open_zarr` opens it lazily.
        """
        from pyro_vble.io.zarr_store import to_zarr

        to_zarr(self, path, num_samples, **options)

    def save(self, path: str | os.PathLike) -> None:
        """Write the posterior to one file, to be read by :func:`pyro_vble.load_posterior`.

        Raises:
            TypeError: If the guide is none of this library's.
        """
        from pyro_vble.io.posteriors import save_posterior

        save_posterior(self, path)

    # --- how samples are made ---

    def _chunks(self, num_samples: int, seed: int | None) -> Iterator[Tensor]:
        """Posterior images in chunks (n, B, C, H, W); a small set with a seed is kept for the next statistic of it."""
        seed = self._seed(seed)
        key = self._key(num_samples, seed)
        kept = self._kept  # looked at once: another thread may exchange it
        if kept is not None and kept[0] == key:
            yield from kept[1]
            return
        if seed is None or num_samples * math.prod(self.image_shape) > _KEEP_VALUES:
            yield from self._chunked(num_samples, seed, Posterior._images)
            return
        # In one tensor: chunks among the networks' own freed arrays would keep the allocator from using those again.
        samples, seen, chunks = None, 0, []
        for chunk in self._chunked(num_samples, seed, Posterior._images):
            samples = chunk.new_empty((num_samples, *self.image_shape)) if samples is None else samples
            chunks.append(samples[seen : seen + len(chunk)].copy_(chunk))
            seen += len(chunk)
            yield chunks[-1]
        self._kept = key, chunks

    def _chunked(self, num_samples: int, seed: int | None, make: "Callable[[Posterior, int], Any]") -> Iterator[Any]:
        """What ``make`` makes of n draws of a fit, chunk by chunk.

        Each chunk has a seed of its own: what a generator yields within a scope, its consumer gets within that scope,
        so the random state cannot be forked around all chunks at once. Nor can the lock be held around all of them.
        """
        pixels = self.image_shape[0] * _networks_passes(self.image_shape[1], self.model.prior.bands)
        pixels *= self.image_shape[2] * self.image_shape[3]
        size = max(1, _PIXELS_AT_ONCE.get(self.y.device.type, _PIXELS_AT_ONCE["cpu"]) // pixels)
        for index, start in enumerate(range(0, num_samples, size)):
            # As in a fit, what Pyro validates it validates once.
            unchecked = pyro.validation_enabled(False) if index else contextlib.nullcontext()
            random = seeded(derived_seed(seed, "draws", index))
            with program_lock, torch.inference_mode(False), random, unchecked:
                made = make(self, min(size, num_samples - start))
            yield made

    def _predictive_chunks(self, num_samples: int, seed: int | None) -> Iterator[Tensor]:
        """Posterior predictive measurements in chunks (n, B, ...), of the same draws as the images of the seed."""
        if self.model.physics is None:
            raise ValueError(
                "Posterior predictive samples need the forward operator, which is not saved with a posterior; pass "
                "physics=... to load_posterior."
            )
        return self._chunked(num_samples, self._seed(seed), Posterior._measurements)

    def _draws(self, n: int) -> Draws:
        return draw(self.model, self.guide, self.y, n, precision=self.precision)

    @torch.no_grad()
    def _guide_trace(self, n: int) -> poutine.Trace:
        with parameter_scope(self.guide), pyro.plate("samples", n, dim=-2):
            return poutine.trace(self.guide).get_trace(self.y)

    def _central_z(self) -> Tensor:
        with parameter_scope(self.guide):
            if callable(getattr(self.guide, "median", None)):
                with contextlib.suppress(NotImplementedError):
                    return self.guide.median(self.y)["z"]
        with seeded(derived_seed(0, "centre")):
            return self._latents(_CENTRE_DRAWS)["z"].mean(0)

    def _latents(self, n: int) -> dict[str, Tensor]:
        return latents_of(self._guide_trace(n))

    @torch.no_grad()
    def _images(self, n: int) -> Tensor:
        """Replay the generative half of the model on n draws of the guide."""
        return self._images_and_latents(n)[0]

    @torch.no_grad()
    def _images_and_latents(self, n: int) -> tuple[Tensor, dict[str, Tensor]]:
        x, latents = self._replayed(self.model.image, n)
        return x.expand(n, *self.image_shape), latents

    @torch.no_grad()
    def _measurements(self, n: int) -> Tensor:
        """Replay the model on n draws of the guide, and measure anew."""
        p_y, _ = self._replayed(self.model.measurement, n)
        return p_y.expand((n, *self.y.shape)).sample()

    def _replayed(self, program: Callable[[Tensor, Tensor], Any], n: int) -> tuple[Any, dict[str, Tensor]]:
        """What a program of the model returns on n draws of the guide, and those.

        It is given z: an image is drawn from p(x|z), for which nobody needs to know p(z).
        """
        with network_precision(self.precision, self.y.device):
            trace = self._guide_trace(n)
            latents = latents_of(trace)
            with pyro.plate("samples", n, dim=-2):
                return poutine.replay(program, trace=trace)(self.y, latents.get("z")), latents

    def _moments(self, num_samples: int, seed: int | None) -> Moments:
        """Mean and variance of the samples of a seed; the last are kept, for its other moments and errors."""
        seed = self._seed(seed)
        key = self._key(num_samples, seed)
        kept = self._kept_moments
        if seed is not None and kept is not None and kept[0] == key:
            return kept[1]
        moments = Moments()
        for chunk in self._chunks(num_samples, seed):
            moments.update(chunk)
        self._kept_moments = key, moments
        return moments

    def _quantiles(
        self,
        levels: tuple[float, ...],
        num_samples: int,
        seed: int | None,
        transform: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> Tensor:
        chunks = lambda: map(transform, self._chunks(num_samples, seed))  # noqa: E731
        return streamed_quantiles(chunks, torch.tensor(levels), num_samples)

    def _key(self, num_samples: int, seed: int | None) -> tuple[int | None, ...]:
        """What tells one set of samples from another."""
        return (num_samples, seed, *_versions(self.guide))

    def _seed(self, seed: int | None) -> int | None:
        return self.seed if seed is None else as_seed(seed)

    def _lasting_seed(self, seed: int | None) -> int:
        """A seed in any case: for what goes over the same samples more than once."""
        seed = self._seed(seed)
        return fresh_seed() if seed is None else seed

    def _out(self, value: Tensor) -> Tensor:
        return value.to(self.output_device)


def _versions(guide: Callable) -> tuple[int, ...]:
    """Changes with every further fitting step, so that kept samples are never those of an older guide."""
    return tuple(p._version for p in parameters_of(guide))


def _networks_passes(bands: int, own: int) -> int:
    """How often an image goes through the network: band by band, unless it has the network's bands or one."""
    return 1 if bands in (1, own) else bands


def _name(guide: Callable) -> str:
    guide = guide.function if isinstance(guide, StoredGuide) else guide
    return getattr(guide, "__name__", type(guide).__name__)
