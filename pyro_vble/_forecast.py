"""How long a restoration will take and how much memory, found out before it begins."""

import itertools
import math
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vble.memory import free_memory
from pyro_vble.physics import problems
from pyro_vble.restoration import restore

#: Up to so many pixels nobody waits long, and any machine has memory enough: they are done before one has tried it out.
QUICK = 2**18
# Sides of the squares that are restored for a trial: what the larger takes more than the smaller is the pixels' share.
_SIDES = (64, 256)
_TRIAL_STEPS, _TRIAL_SAMPLES = 4, 4
# Peak of a fit over what autograd keeps at one time, as measured with the default guide (see `forecast`).
_OVERHEAD = 1.5
# Arrays of the image's size that guide, optimiser and likelihood hold beside it, and those beside the samples.
_FIT_IMAGES, _SAMPLING_IMAGES = 20, 60
# Those that each further guide keeps: centre and width of the image, and its latents.
_GUIDE_IMAGES = 3
# Samples are sorted up to so many; beyond it a histogram a pixel is filled, of so many bytes a value, in two passes.
_SORTED, _HISTOGRAM = 128, 700
# Statistics of more values than this are drawn again for each kind of them.
_KEPT_VALUES = 50_000_000


@dataclass(frozen=True)
class Forecast:
    """What a restoration is expected to take.

    Attributes:
        seconds: Time on this machine as busy as it is now; NaN where it was not tried out.
        needed: Bytes beside those the process has.
        free: Bytes that may still be had; None if nobody tells.
    """

    seconds: float
    needed: float
    free: int | None

    @property
    def fits(self) -> bool:
        """Whether memory may do; False only where it surely does not."""
        return self.free is None or self.needed < 1.25 * self.free

    def __str__(self) -> str:
        """In words, such as "about 12 min and 2.4 GB"."""
        memory = f"{self.needed / 1e9:.1f} GB of memory"
        return memory if math.isnan(self.seconds) else f"{in_words(self.seconds)} and {memory}"


def forecast(
    image_shape: tuple[int, int, int],
    prior: Any,
    guide: Callable,
    *,
    steps: int,
    samples: int,
    fits: int = 1,
    device: torch.device,
    precision: str = "auto",
) -> Forecast:
    """Forecast time and memory of restoring one image, from small squares that are restored for a trial.

    With the default guide and prior in float32, measured peaks beside the process's own 0.9 GB were 0.12, 0.41 and 1.54
    GB in fits of 256x256, 512x512 and 1024x1024 pixels of three bands, and 2.06 GB with the statistics of 100 samples
    of the last; a step took 5 to 9 seconds a megapixel on one core, a sample 1.4 to 3.3.

    Args:
        image_shape: (C, H, W) of the restored image.
        prior: The prior.
        guide: The guide, as ``restore`` takes it.
        steps: Steps of a fit.
        samples: Samples of each statistic.
        fits: Number of fits, one after another.
        device: Where it will run; the time is tried out on a CPU only.
        precision: Precision of the networks.
    """
    pixels = math.prod(image_shape[1:])
    bands = image_shape[0]
    small, large = (_Trial(bands, side, prior, guide, device, precision) for side in _SIDES)
    per_pixel = max(0.0, large.kept - small.kept) / (_SIDES[1] ** 2 - _SIDES[0] ** 2)
    value = 8 if precision == "float64" else 4
    fit = (_OVERHEAD * per_pixel + (_FIT_IMAGES + _GUIDE_IMAGES * (fits - 1)) * bands * value) * pixels
    held = samples * value if samples <= _SORTED else _HISTOGRAM
    sampling = bands * (held + (_SAMPLING_IMAGES + _GUIDE_IMAGES * (fits - 1)) * value) * pixels
    seconds = math.nan
    if device.type == "cpu":
        passes = (1 if samples * bands * pixels <= _KEPT_VALUES else 2) + 2 * (samples > _SORTED)
        seconds = (fits * steps * large.step + samples * passes * large.sample) * pixels / _SIDES[1] ** 2
    return Forecast(seconds, max(fit, sampling), free_memory(device))


class _Trial:
    """The restoration of a small square.

    Attributes:
        kept: Bytes that autograd keeps for one step.
        step: Seconds of one step.
        sample: Seconds of one sample.
    """

    def __init__(
        self, bands: int, side: int, prior: Any, guide: Callable, device: torch.device, precision: str
    ) -> None:
        kept = _Kept()
        ends: list[float] = []

        def timed(steps: Iterable) -> Iterator:
            for step in steps:
                yield step
                ends.append(time.perf_counter())

        def restored(num_steps: int) -> Any:
            y = torch.full((1, bands, side, side), 0.5)
            physics = problems.denoising(0.1)
            settings = {"num_steps": num_steps, "seed": 0, "device": device, "precision": precision}
            return restore(y, physics, prior, guide=guide, tolerance=None, progress=timed, **settings)

        with torch.autograd.graph.saved_tensors_hooks(kept.keep, lambda held: held.value):
            restored(1)
        self.kept = kept.most
        ends.clear()
        posterior = restored(_TRIAL_STEPS)
        self.step = min(b - a for a, b in itertools.pairwise(ends))
        begun = time.perf_counter()
        posterior.sample(_TRIAL_SAMPLES)
        self.sample = (time.perf_counter() - begun) / _TRIAL_SAMPLES


class _Kept:
    """Bytes that autograd keeps at one time.

    What it has let go of is counted out again: another tensor may lie where it lay, or may not.

    Attributes:
        most: The most that it has kept.
    """

    def __init__(self) -> None:
        self.most = self._now = 0
        self._uses: Counter[int] = Counter()

    def keep(self, value: Tensor) -> "_Held":
        """Count a tensor in, until nobody holds what is returned."""
        storage = value.untyped_storage()
        place, size = storage.data_ptr(), storage.nbytes()
        self._now += 0 if self._uses[place] else size
        self._uses[place] += 1
        self.most = max(self.most, self._now)
        held = _Held(value)
        weakref.finalize(held, self._let_go, place, size).atexit = False
        return held

    def _let_go(self, place: int, size: int) -> None:
        self._uses[place] -= 1
        self._now -= 0 if self._uses[place] else size


@dataclass(eq=False)
class _Held:
    value: Tensor


def in_words(seconds: float) -> str:
    """A time to one or two digits.

    Example:
        >>> from pyro_vble._forecast import in_words
        >>> in_words(41.0), in_words(130.0), in_words(7300.0)
        ('about 40 s', 'about 2 min', 'about 2.0 h')
    """
    if seconds < 90:
        return f"about {max(10, round(seconds, -1)):.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"
