"""Key figures of a restoration, from metrics.json, in words."""

from collections.abc import Mapping
from typing import Any

from pyro_vble.page.content import Figure
from pyro_vble.page.words import plain

_RATIO = "What the restoration leaves of the measurement, over the noise: about 1 where it explains all of it."


def figures_of(metrics: Mapping[str, Any], stem: str = "") -> tuple[Figure, ...]:
    """What of metrics.json a page tells.

    Args:
        metrics: Its content.
        stem: Of a demo, which guide is shown, with an underscore behind it.

    Example:
        >>> from pyro_vble.page.figures import figures_of
        >>> [(one.name, one.value) for one in figures_of({"problem": "denoise", "noise": 0.1, "white": 255})]
        [('Problem', 'denoise'), ('Noise', '25.5 of 255')]
    """
    guides = metrics.get("guides")
    own = dict(metrics)
    if isinstance(guides, Mapping) and stem:
        own |= {"guide": stem.removesuffix("_"), "white": 255.0}
        own |= next((g for name, g in guides.items() if f"{name.lower()}_" == stem), {})
    return tuple(figure for figure in _all(own) if figure.value)


def _all(m: Mapping[str, Any]) -> list[Figure]:
    white = m.get("white") if isinstance(m.get("white"), int | float) else None
    wide = m.get("width_of_white", white)
    estimated = " (estimated from the image)" if m.get("noise_estimated") else ""
    seconds = m.get("seconds")
    missing = m.get("missing_pixels") or 0
    return [
        Figure("Problem", _text(m.get("problem")), _options(m.get("problem_options"))),
        Figure("Noise", _level(m.get("noise"), white, wide) + estimated * (m.get("noise") is not None)),
        Figure("Missing pixels", f"{missing:,}" if missing else ""),
        Figure(
            "Mean error bar",
            _level(m.get("mean_std"), white, wide),
            "The standard deviation, averaged over the image: a restored pixel is off by about so much.",
        ),
        Figure("Error bars", _calibrated(m)),
        Figure("Residual / noise", _number(m.get("residual_over_noise"), ".2f"), _RATIO),
        Figure("PSNR before", _decibels(m.get("psnr_before")), "Closeness to the truth; more is better."),
        Figure("PSNR after", _decibels(m.get("psnr_mmse_x"))),
        Figure("Coverage of 90 %", _number(m.get("coverage_90"), ".1%"), "Pixels whose interval holds the truth."),
        Figure("Prior", _text(m.get("prior")), "The network that knows what images look like."),
        Figure("Guide", _text(m.get("guide")), "The family of distributions that the error bars come from."),
        Figure("Samples", _text(m.get("num_samples"))),
        Figure("Time", f"{sum(seconds.values()):.0f} s" if isinstance(seconds, Mapping) else ""),
        Figure("Ended early", "yes" if m.get("interrupted") else "", "The fit was interrupted."),
        Figure("Version", f"pyro-vble {m['pyro_vble']}" if "pyro_vble" in m else ""),
    ]


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _number(value: Any, form: str) -> str:
    return format(value, form) if isinstance(value, int | float) else ""


def _decibels(value: Any) -> str:
    text = _number(value, ".2f")
    return f"{text} dB" if text else ""


def _level(value: Any, white: float | None, wide: float | None) -> str:
    """A standard deviation on [0, 1] in the file's numbers, or in hundredths of white.

    Args:
        value: The standard deviation.
        white: The number that stands for 1.
        wide: How far it lies from the one that stands for 0, which is less where there is an offset.
    """
    if not isinstance(value, int | float):
        return ""
    if white is None or wide is None or white == 1:
        return f"{plain(100 * value)} % of white"
    return f"{plain(value * wide)} of {white:g}"


def _options(options: Any) -> str:
    if not isinstance(options, Mapping):
        return ""
    told = (f"--{name.replace('_', '-')} {value}" for name, value in options.items() if value is not None)
    return " ".join(told)


def _calibrated(m: Mapping[str, Any]) -> str:
    if m.get("calibration"):
        return f"calibrated with {m['calibration']}"
    return "uncalibrated" if m.get("num_samples") else ""
