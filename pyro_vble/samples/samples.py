"""The one idea of everything that has drawn an image: samples, and the statistics of them."""

import copy
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Self

import torch
from torch import Tensor

from pyro_vble._arguments import BrokenRuleError, Count, Probability, Rule, Seed, checked
from pyro_vble._streaming import Moments, joined, streamed_quantiles
from pyro_vble.inference.draws import Draws
from pyro_vble.physics import likelihood, measure, operator_arguments
from pyro_vble.seeding import as_seed, derived_seed, fresh_seed, seeded

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import numpy as np
    from arviz import InferenceData

# Samples behind a statistic, where nobody says how many and as many as one likes can be drawn.
_NUM_SAMPLES = 100


def _calibration(value: Any) -> Any:
    if not callable(getattr(value, "half_width", None)):
        raise BrokenRuleError("type")
    return value


CalibrationLike = Annotated[Any, Rule("a pyro_vble.diagnostics.Calibration, or None", _calibration)]


class Samples(ABC):
    r"""Samples x ~ q(x) ≈ p(x | y) of a batch of images, and statistics of them.

    A subclass defines ``chunks``; statistics, diagnostics, calibration, comparison, export and figures need nothing
    else. Statistics are streamed: beyond 128 samples their memory does not grow with the number. (``sample``,
    ``predictive`` and ``to_arviz`` return the draws themselves and need memory for all of them.) With a seed (its own,
    or one passed to a method) every statistic is reproducible, and statistics with the same seed and number belong to
    the same samples.

    Args:
        shape: (B, C, H, W) of the images.
        y: Measurement (B, ...), if there is one.
        physics: The operator with its noise, if it is known.
        seed: Default seed of the methods.

    Attributes:
        stored: Number of samples, if it is limited.
        calibration: A :class:`~pyro_vble.diagnostics.Calibration` of intervals and error quantiles, or None.
        output_device: Where results are put.
        made_with: What made them, in words: of a calibration it must be the same. Empty where nothing is known.
        groups: ArviZ's groups that can be made of them.
        parameters: Latent sites that are parameters of operator and noise.

    Example:
        A kind of one's own, and a statistic of it.

        >>> import torch
        >>> from pyro_vble.samples import Samples
        >>> class Noise(Samples):
        ...     def chunks(self, num_samples, *, seed=None):
        ...         generator = torch.Generator().manual_seed(self.lasting_seed(seed))
        ...         yield torch.rand(num_samples, *self.shape, generator=generator)
        >>> noise = Noise((1, 3, 8, 8), seed=0)
        >>> noise.std(400).shape, round(float(noise.std(400).mean()), 2)
        (torch.Size([1, 3, 8, 8]), 0.29)
    """

    stored: int | None = None
    calibration: Any = None
    physics: Any = None
    made_with: str = ""
    parameters: frozenset[str] = frozenset()

    def __init__(
        self, shape: Sequence[int], *, y: Tensor | None = None, physics: Any = None, seed: int | None = None
    ) -> None:
        self.shape: tuple[int, ...] = tuple(shape)
        self.y = y
        if physics is not None:
            self.physics = physics
        self.seed = as_seed(seed)
        self.output_device = torch.device("cpu") if y is None else y.device
        self._kept_moments: tuple[tuple, Moments] | None = None

    @abstractmethod
    def chunks(self, num_samples: int, *, seed: int | None = None) -> Iterator[Tensor]:
        """Samples in chunks (n, B, C, H, W), where they were computed; the same for the same seed."""

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(B, C, H, W); deprecated: ``shape``. An image's own, (C, H, W), is ``shape[1:]``."""
        warnings.warn(
            "Samples.image_shape, with the batch, is now Samples.shape; the old name goes in 0.3.",
            DeprecationWarning,
            stacklevel=2,
        )
        return self.shape

    # --- estimates ---

    @checked
    def mmse_x(self, num_samples: Count | None = None, *, seed: Seed | None = None) -> Tensor:
        """The mean of the samples, (B, C, H, W): the estimate of least mean squared error.

        Args:
            num_samples: How many samples, here and below: by default 100, or all where they are stored.
            seed: Their seed; by default its own.
        """
        return self._out(self._moments(num_samples, seed).mean.clone())  # what is kept stays ours

    @checked
    def std(self, num_samples: Count | None = None, *, seed: Seed | None = None) -> Tensor:
        """The standard deviation of every pixel, (B, C, H, W)."""
        return self._out(self._moments(num_samples, seed).std)

    @checked
    def quantile(self, q: Probability, num_samples: Count | None = None, *, seed: Seed | None = None) -> Tensor:
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
        self, probability: Probability, num_samples: Count | None = None, *, seed: Seed | None = None
    ) -> tuple[Tensor, Tensor]:
        """Lower and upper end of the central interval that holds every pixel with this probability.

        Another draw lies within with this probability; n samples can tell up to (n - 1)/(n + 1). With a calibration it
        is the conformal interval, which covered this share of the calibration images' pixels.

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
    def error_quantile(self, q: Probability, num_samples: Count | None = None, *, seed: Seed | None = None) -> Tensor:
        """The q-quantile of |sample - MMSE-x| at every pixel, (B, C, H, W): the predicted size of the error.

        Each of n samples is compared with the mean of the others, as a new one would be: n/(n - 1) times its distance
        from the mean of all. With a calibration, it is the quantile of the calibration images' errors.

        Raises:
            ValueError: If q is not a probability.
        """
        n, seed = self.number(num_samples), self.lasting_seed(seed)
        if self.calibration is not None:
            return self._out(self.calibration.half_width(self._moments(n, seed).std, q))
        mean, others = self._moments(n, seed).mean, n / max(n - 1, 1)
        return self._out(self._quantiles((q,), n, seed, lambda x: others * (x - mean).abs())[0])

    @checked
    def calibrated(self, calibration: CalibrationLike | None) -> Self:
        """These samples with ``interval`` and ``error_quantile`` calibrated; samples and ``std`` stay as they are.

        Warns where the calibration was made with another guide, prior or operator.
        """
        suits = getattr(calibration, "suits", None)
        if calibration is not None and self.made_with and callable(suits) and not suits(self.made_with):
            warnings.warn(
                f"The calibration was made with {calibration.made_with}; this posterior with {self.made_with}: "
                "its intervals need not cover what they claim.",
                stacklevel=2,
            )
        other = copy.copy(self)
        other.calibration = calibration
        return other

    # --- samples ---

    @checked
    def sample(self, n: Count = 1, *, seed: Seed | None = None) -> Tensor:
        """Draw n images, (n, B, C, H, W)."""
        return self._out(joined(self.chunks(n, seed=seed), n))

    @checked
    def predictive(self, n: Count = 1, *, seed: Seed | None = None) -> Tensor:
        """Draw n measurements from the posterior predictive p(y'|y), (n, B, ...).

        Raises:
            ValueError: If there is no operator, as after loading without one.
        """
        self._check_physics("Posterior predictive samples")
        seed = self.resolved_seed(seed)
        return self._out(joined(self._replicas(self._pieces(n, seed), seed), n))

    # --- elsewhere ---

    @property
    def groups(self) -> frozenset[str]:
        """ArviZ's groups that can be made of them."""
        measured = {"observed_data"} if self.y is not None else set()
        known = {"posterior_predictive"} if self.y is not None and self.physics is not None else set()
        return frozenset({"posterior", "constant_data"} | measured | known)

    @property
    def origin(self) -> dict[str, str]:
        """What ArviZ's attributes say of where they come from."""
        return {"made_with": self.made_with} if self.made_with else {}

    def chains(
        self, num_samples: int, *, seed: int | None = None, densities: bool = False, replicas: bool = False
    ) -> Sequence[Iterator[Draws]]:
        """Draws of every chain, in chunks: here one chain, of images alone."""
        images = self.chunks(num_samples, seed=seed)
        if not replicas:
            return [map(Draws, images)]
        again = self._replicas(self._pieces(num_samples, seed), self.resolved_seed(seed))
        return [(Draws(x, replica=y) for x, y in zip(images, again, strict=True))]

    def ancestral(self, n: int, *, seed: int | None = None, measured: bool = False) -> dict[str, Tensor]:
        """Draws from the prior, of which these samples know none."""
        raise NotImplementedError(f"{type(self).__name__} knows of no prior to draw from.")

    def to_arviz(
        self,
        num_samples: int | None = None,
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

    def to_zarr(self, path: str | os.PathLike, num_samples: int | None = None, **options: Any) -> None:
        """Stream samples to a Zarr store, in memory that does not grow with their number.

        See :func:`pyro_vble.io.zarr_store.to_zarr`; :func:`pyro_vble.open_zarr` opens it lazily.
        """
        from pyro_vble.io.zarr_store import to_zarr

        to_zarr(self, path, num_samples, **options)

    # --- for those who draw ---

    def number(self, num_samples: int | None) -> int:
        """How many samples: those told, else 100 or all that are stored."""
        return num_samples or self.stored or _NUM_SAMPLES

    def resolved_seed(self, seed: int | None) -> int | None:
        """The seed told, or its own."""
        return self.seed if seed is None else as_seed(seed)

    def lasting_seed(self, seed: int | None) -> int:
        """A seed in any case: for what goes over the same samples more than once."""
        seed = self.resolved_seed(seed)
        return fresh_seed() if seed is None else seed

    def _moments(self, num_samples: int | None, seed: int | None) -> Moments:
        """Mean and variance of the samples of a seed; the last are kept, for its other moments and errors."""
        n, seed = self.number(num_samples), self.resolved_seed(seed)
        key = (n, seed, *self._version())
        kept = self._kept_moments  # looked at once: another thread may exchange it
        if seed is not None and kept is not None and kept[0] == key:
            return kept[1]
        moments = Moments()
        for chunk in self.chunks(n, seed=seed):
            moments.update(chunk)
        self._kept_moments = key, moments
        return moments

    def _quantiles(
        self,
        levels: tuple[float, ...],
        num_samples: int | None,
        seed: int | None,
        transform: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> Tensor:
        n, seed = self.number(num_samples), self.lasting_seed(seed)
        return streamed_quantiles(lambda: map(transform, self.chunks(n, seed=seed)), torch.tensor(levels), n)

    def _pieces(self, n: int, seed: int | None) -> Iterator[Draws]:
        """Images in chunks, with what was drawn with them: here nothing."""
        return map(Draws, self.chunks(n, seed=seed))

    @torch.no_grad()
    def _replicas(self, drawn: Iterator[Draws], seed: int | None) -> Iterator[Tensor]:
        """A measurement of each image, by the parameters of operator and noise that were drawn with it."""
        for index, draws in enumerate(drawn):
            # They are one value an image, which no latent of an image is.
            parameters = {name: value for name, value in draws.latents.items() if value.dim() == 2}
            with seeded(derived_seed(seed, "replicas", index)):
                signal = measure(self.physics, draws.image, operator_arguments(self.physics, parameters))
                y = likelihood(self.physics, signal, parameters, event_dim=signal.dim() - 2).sample()
            yield y

    def _check_physics(self, what: str) -> None:
        if self.physics is None:
            raise ValueError(
                f"{what} need the forward operator, which is not saved with a posterior; pass physics=... to "
                "load_posterior."
            )

    def _version(self) -> tuple[int, ...]:
        """What tells the samples of a seed now from those of the same seed before."""
        return ()

    def _out(self, value: Tensor) -> Tensor:
        return value.to(self.output_device)
