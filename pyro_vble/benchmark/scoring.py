"""The figures of one restoration: accuracy, honesty, time, memory."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pyro_vble import metrics
from pyro_vble.benchmark.measuring import peak_memory, stopwatch
from pyro_vble.benchmark.methods import Call
from pyro_vble.benchmark.perceptual import Perceptual
from pyro_vble.diagnostics import crps, interval_score
from pyro_vble.metrics import inner
from pyro_vble.samples import Samples

# Samples of which pictures are kept.
_SHOWN = 2


@dataclass(frozen=True)
class Rules:
    """How results are measured.

    Attributes:
        samples: Number of samples behind means, intervals and scores, where a method has as many.
        probability: That of the interval.
        border: Pixels left out at the border.
        perceptual: LPIPS, or None.
    """

    samples: int
    probability: float
    border: int
    perceptual: Perceptual | None = None


@dataclass(frozen=True)
class Result:
    """What a method made of a measurement, all where it was computed.

    Attributes:
        samples: What it returned.
        count: How many samples its statistics are of.
        figures: Its figures.
        estimate: The mean of the samples, (1, C, H, W).
        spread: Whether it has error bars.
    """

    samples: Samples
    count: int
    figures: dict[str, Any]
    estimate: Tensor
    spread: bool

    def pictures(self, truth: Tensor, probability: float) -> dict[str, Tensor]:
        """What figures show of it, each (C, H, W) or (H, W) on the CPU; error bars are means over bands."""
        shown = {"estimate": self.estimate[0], "error": (self.estimate - truth)[0].abs().mean(0)}
        if self.spread:
            shown["std"] = self.samples.std(self.count)[0].mean(0)
            shown["error_quantile"] = self.samples.error_quantile(probability, self.count)[0].mean(0)
            chunk = next(self.samples.chunks(self.count, seed=self.samples.seed))
            if len(chunk) >= _SHOWN:
                shown["samples"] = chunk[:_SHOWN, 0]
        return {name: value.detach().float().cpu() for name, value in shown.items()}


def restored(
    method: Callable[[Tensor, Any], Samples], call: Call, y: Tensor, physics: Any, truth: Tensor, rules: Rules
) -> Result:
    """Restore, and measure.

    The seconds of ``samples`` samples are those until they are there, the restoration included. Where each sample is
    another run, ``seconds`` is of one run, and more samples than were drawn are reckoned, for they take as long each.

    Args:
        method: (y, physics) -> Samples.
        call: What kind of a method it is.
        y: The measurement (1, ...), where the method is to compute.
        physics: The operator.
        truth: (1, C, H, W), where y is.
        rules: How results are measured.
    """
    device, spread = y.device, call.samples != "none"
    with peak_memory(device) as peak:
        with stopwatch(device) as restoring:
            samples = method(y, physics)
        count = min(samples.number(rules.samples), samples.stored or rules.samples) if spread else 1
        with stopwatch(device) as drawing:
            estimate = samples.mmse_x(count).to(device)
    figures = accuracy(estimate, truth, rules)
    figures["seconds"], figures["seconds_samples"] = _seconds(call, restoring[0], drawing[0], count, rules.samples)
    figures["peak_memory"] = peak[0] if peak else None
    figures["samples"] = count
    figures |= honesty(samples, estimate, truth, count, rules, spread=spread and count > 1)
    return Result(samples, count, figures, estimate, spread and count > 1)


def accuracy(estimate: Tensor, truth: Tensor, rules: Rules) -> dict[str, Any]:
    """PSNR, SSIM and LPIPS of an estimate, clipped to [0, 1]."""
    shown = estimate.clamp(0, 1)
    figures: dict[str, Any] = {
        "psnr": metrics.psnr(shown, truth, border=rules.border),
        "ssim": metrics.ssim(shown, truth, border=rules.border),
    }
    if rules.perceptual is not None:
        figures["lpips"] = rules.perceptual(inner(shown, rules.border), inner(truth, rules.border))
        figures["lpips_network"] = rules.perceptual.network
    return figures


def honesty(
    samples: Samples, estimate: Tensor, truth: Tensor, count: int, rules: Rules, *, spread: bool
) -> dict[str, Any]:
    """Coverage, interval score and CRPS, and the accuracy of one sample; of a point estimate the CRPS, |error|."""
    if not spread:
        return {"crps": float(inner((estimate - truth).abs(), rules.border).mean())}
    low, high = (end.to(truth) for end in samples.interval(rules.probability, count))
    first = next(samples.chunks(count, seed=samples.seed))[0].to(truth)
    scores = {
        "interval_score": interval_score(samples, truth, rules.probability, num_samples=count),
        "crps": crps(samples, truth, num_samples=count),
    }
    return {
        "coverage": metrics.coverage((low, high), truth, border=rules.border),
        "interval_width": float(inner(high - low, rules.border).mean()),
        **{name: float(inner(score, rules.border).mean()) for name, score in scores.items()},
        **{f"{name}_sample": value for name, value in accuracy(first, truth, rules).items() if name != "lpips_network"},
    }


def _seconds(call: Call, restoring: float, drawing: float, count: int, wanted: int) -> tuple[float, float | None]:
    if call.samples == "none":
        return restoring, None
    if call.samples == "repeated":
        return restoring / count, restoring / count * wanted
    if call.samples == "chain":
        return restoring, restoring if count >= wanted else None
    return restoring, restoring + drawing
