"""What can have happened to an image: all that the commands know of each problem.

A problem more is a function that builds its operator and an entry in ``PROBLEMS``; its options are that function's
keyword-only parameters.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from pyro_vble.cli import options
from pyro_vble.cli.measured import Measured
from pyro_vble.cli.options import Entry, option_name
from pyro_vble.cli.sensors import Sensor, read_sensed, told_bands

# A Gaussian blur wider than this has more pixels than an image of any use.
_WIDEST_BLUR = 1000.0


@dataclass(frozen=True)
class Problem(Entry):
    """A kind of degradation, and the values of its options.

    Attributes:
        title: What the demo calls it: a format of ``noise`` and the options.
        operator: The function (measurement, noise level, options) -> operator. The measurement is (1, C, H, W), NaN
            where it is missing; the noise level is None where the problem knows it. Keyword-only parameters are the
            problem's options, annotated and with defaults as typer has them.
        blame: The function (options) -> what may be wrong with the operator if a measurement is not explained, or "".
        in_place_of: For an option the other one that it makes superfluous.
        enlarged_by: The option that says how many times as wide as its measurement the image is; None if they have one
            size.
        completed: The function (problem, file, measurement, noise level, --scale) -> :class:`Measured`, of a problem
            with a second measurement, which one of its options names.
        fills: Whether missing pixels are what it is about: it needs some, and fills them in.
        knows_noise: Whether it says itself what the noise is.
        reader: The function (problem, file, --scale, --nodata, whether it is a measurement or a truth) -> (problem with
            what the file says of it, image), where that takes more than the scale.
        example: Values of options for the demo.
        settings: Values of the options, by default their own defaults.
    """

    title: str
    operator: Callable[..., Any]
    blame: Callable[..., str] = lambda **_: ""
    in_place_of: Mapping[str, str] = field(default_factory=dict)
    enlarged_by: str | None = None
    completed: "Callable[..., Measured] | None" = None
    fills: bool = False
    knows_noise: bool = False
    reader: "Callable[..., tuple[Problem, Any]] | None" = None
    example: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Complete the settings by defaults."""
        defaults = {name: option.default for name, option in self.options.items()}
        object.__setattr__(self, "settings", defaults | dict(self.settings))

    @property
    def options(self) -> dict[str, inspect.Parameter]:
        """The options, by name."""
        parameters = inspect.signature(self.operator).parameters.values()
        return {own.name: own for own in parameters if own.kind is own.KEYWORD_ONLY}

    def having(self, **settings: Any) -> "Problem":
        """The problem with these values of its options."""
        return replace(self, settings={**self.settings, **settings})

    @property
    def ratio(self) -> int:
        """How many times as wide as its measurement the image is."""
        return 1 if self.enlarged_by is None else self.settings[self.enlarged_by]

    @property
    def files(self) -> list[Path]:
        """Files that its options name."""
        return [value for value in self.settings.values() if isinstance(value, Path)]

    @property
    def named_files(self) -> dict[str, Path | None]:
        """Those that must be there, by option: a sensor may be a name."""
        return {
            option_name(name): value
            for name, value in self.settings.items()
            if isinstance(value, Path) and (name != "sensor" or value.suffix)
        }

    def refuse_noise(self, noise: float | None) -> None:
        """Refuse a noise level that was given and would be ignored.

        Raises:
            ValueError: If so.
        """
        if self.knows_noise and noise is not None:
            raise ValueError(
                f"--problem {self} says itself what the noise is; received --noise {noise:g} too; leave it out, or "
                "write a sensor's file of your own."
            )

    def read(self, path: Path, scale: float | None, nodata: float | None = None) -> "tuple[Problem, Any]":
        """The problem, with what a file says of it, and the image that this happened to.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it cannot be used.
        """
        return self._read(path, scale, nodata, measured=True)

    def read_truth(self, path: Path, scale: float | None) -> "tuple[Problem, Any]":
        """The same of an image that this is to happen to."""
        return self._read(path, scale, None, measured=False)

    def _read(self, path: Path, scale: float | None, nodata: float | None, *, measured: bool) -> "tuple[Problem, Any]":
        if self.reader is not None:
            return self.reader(self, path, scale, nodata, measured=measured)
        from pyro_vble.io.images import read_image

        return self, read_image(path, scale=scale, nodata=nodata)

    def build(self, y: Any, noise: float | None) -> Any:
        """The operator of a measurement.

        Raises:
            ValueError: If it does not fit the measurement.
        """
        return self.operator(y, noise, **self.settings)

    def measured(self, source: Any, y: Any, noise: float | None, scale: float | None) -> Measured:
        """All that was measured, by an image file and by a second one if the problem has it.

        Raises:
            ValueError: If it does not fit.
        """
        if self.completed is not None:
            return self.completed(self, source, y, noise, scale)
        missing = (~y.isfinite()).repeat_interleave(self.ratio, -1).repeat_interleave(self.ratio, -2)
        return Measured(y, self.build(y, noise), source, missing)

    def shown(self, y: Any, physics: Any) -> Any:
        """Of a measurement the image (B, C, H, W) that a figure shows."""
        return y if self.completed is None else physics.split(y)[-1]

    def simulate(self, truth: Any, noise: float | None) -> tuple[Any, Any]:
        """An operator and its measurement of an image (1, C, H, W), without half of the pixels if it is about those."""
        import torch

        blank = truth[..., :: self.ratio, :: self.ratio]
        if self.fills:
            blank = torch.where(torch.rand(blank.shape[-2:]) < 0.5, blank, torch.nan)
        physics = self.build(blank, noise)
        return physics, physics(truth)


def chosen() -> Callable[..., Problem]:
    """The function (context, --problem and the options of all problems) -> the problem with its settings.

    It refuses options that were given and would be ignored, with a ValueError.
    """
    of_any = {name: option for problem in PROBLEMS.values() for name, option in problem.options.items()}

    asked = typer.Option(**options.choice(PROBLEMS, "Kind of degradation."))

    def choose(context: typer.Context, problem: Annotated[Problem, asked], **values: Any) -> Problem:
        own, given = problem.options, options.given(context)
        for name in of_any:
            if name in given and name not in own:
                owners = " or ".join(other.name for other in PROBLEMS.values() if name in other.options)
                raise ValueError(
                    f"{option_name(name)} belongs to --problem {owners}; received it with {problem}; leave it out."
                )
        for name, other in problem.in_place_of.items():
            if {name, other} <= given:
                raise ValueError(
                    f"{option_name(name)} stands in place of {option_name(other)}; received both; leave one out."
                )
        return problem.having(**{name: values[name] for name in own})

    fixed = list(inspect.signature(choose).parameters.values())[:2]
    choose.__signature__ = inspect.Signature([*fixed, *of_any.values()])
    return choose


# --- the problems ---


def _denoising(y: Any, noise: float) -> Any:
    from pyro_vble.physics.problems import denoising

    return denoising(noise)


def _blur_width(value: float) -> float:
    if not 0 < value <= _WIDEST_BLUR:
        raise typer.BadParameter(
            f"the blur's standard deviation must be positive and finite, at most {_WIDEST_BLUR:g} pixels; received "
            f"{value:g}."
        )
    return value


BlurSigma = Annotated[
    float,
    typer.Option(callback=_blur_width, help="deblur: standard deviation of a Gaussian blur, in pixels."),
]
Kernel = Annotated[
    Path | None,
    typer.Option(**options.PATH, help="deblur: point-spread function, an image or .npy, instead of --blur-sigma."),
]


def _deblurring(y: Any, noise: float, *, blur_sigma: BlurSigma = 1.0, kernel: Kernel = None) -> Any:
    from pyro_vble.physics.problems import deblurring, gaussian_kernel

    psf = gaussian_kernel(blur_sigma) if kernel is None else _kernel(kernel)
    if any(own > side for own, side in zip(psf.shape, y.shape[-2:], strict=True)):
        given = f"--blur-sigma {blur_sigma:g} makes" if kernel is None else f"--kernel {kernel} has"
        raise ValueError(
            f"A blur kernel must not be larger than the image; {given} {psf.shape[1]}x{psf.shape[0]} pixels, the "
            f"image {y.shape[-1]}x{y.shape[-2]}; use a narrower blur or a larger image."
        )
    return deblurring(noise, psf)


def _kernel(path: Path) -> Any:
    """A point-spread function without the zeros around it, its centre where it was."""
    from pyro_vble.cli.words import warn
    from pyro_vble.io.images import read_kernel

    kernel = read_kernel(path)
    if any(side % 2 == 0 for side in kernel.shape):
        warn(
            f"--kernel has {kernel.shape[1]}x{kernel.shape[0]} pixels: where a side is even its centre lies between "
            "two pixels, and the restored image is shifted by half a pixel."
        )
    nonzero = kernel.nonzero()
    if not len(nonzero):
        return kernel  # refused where it is used
    margins = [
        min(int(nonzero[:, d].min()), side - 1 - int(nonzero[:, d].max())) for d, side in enumerate(kernel.shape)
    ]
    top, left = margins
    return kernel[top : kernel.shape[0] - top, left : kernel.shape[1] - left]


Factor = Annotated[int, typer.Option(min=2, max=64, help="super-resolve: enlargement.")]


def _super_resolution(y: Any, noise: float, *, factor: Factor = 2) -> Any:
    from pyro_vble.physics.problems import super_resolution

    return super_resolution(noise, (y.shape[1], factor * y.shape[2], factor * y.shape[3]), factor)


def _inpainting(y: Any, noise: float) -> Any:
    from pyro_vble.physics.problems import inpainting

    return inpainting(noise, y[0].isfinite().float())


def _weights(text: str | None) -> str | None:
    if text is not None:
        try:
            numbers = [float(one) for one in text.split(",")]
        except ValueError:
            numbers = [math.nan]
        if not all(0 <= one < math.inf for one in numbers) or not any(numbers):
            raise typer.BadParameter(
                f"they must be numbers that are not negative, with commas between; received {text!r}."
            )
    return text


Pan = Annotated[
    Path | None,
    typer.Option(**options.PATH, help="pansharpen: the fine panchromatic image, of one band, over the same ground."),
]
PanNoise = Annotated[
    float | None,
    typer.Option(callback=options.noise_level, help="pansharpen: noise level of --pan; estimated if left out."),
]
PanWeights = Annotated[
    str | None,
    typer.Option(
        callback=_weights, help="pansharpen: what --pan sums of each band, e.g. 0.3,0.4,0.3; estimated if left out."
    ),
]
Ratio = Annotated[int, typer.Option(min=2, max=16, help="pansharpen: fine pixels in a coarse one, along a side.")]
PanMTF = Annotated[
    float, typer.Option(min=0.001, max=0.99, help="pansharpen: transfer of --pan at its Nyquist frequency.")
]
ColourMTF = Annotated[
    float, typer.Option(min=0.001, max=0.99, help="pansharpen: transfer of the bands of colour at theirs.")
]


def _pansharpening(
    y: Any,
    noise: float,
    *,
    pan: Pan = None,
    ratio: Ratio = 4,
    pan_noise: PanNoise = None,
    pan_weights: PanWeights = None,
    pan_mtf: PanMTF = 0.15,
    ms_mtf: ColourMTF = 0.3,
) -> Any:
    from pyro_vble.physics import pansharpening

    weights = None if pan_weights is None else [float(one) for one in pan_weights.split(",")]
    if weights is not None and len(weights) != y.shape[1]:
        raise ValueError(
            f"--pan-weights must be one number a band, {y.shape[1]}; received {len(weights)} in {pan_weights}."
        )
    return pansharpening(
        (y.shape[1], ratio * y.shape[2], ratio * y.shape[3]),
        ratio,
        weights=weights,
        pan_noise=noise if pan_noise is None else pan_noise,
        ms_noise=noise,
        pan_mtf=pan_mtf,
        ms_mtf=ms_mtf,
    )


def _with_pan(problem: Problem, source: Any, y: Any, noise: float, scale: float | None) -> Measured:
    from pyro_vble.cli.panchromatic import with_panchromatic

    return with_panchromatic(problem, source, y, noise, scale)


Enlarge = Annotated[int, typer.Option(min=1, max=8, help="sensor: enlargement; 2 restores on a grid twice as fine.")]
SensorBands = Annotated[
    str | None,
    typer.Option(
        help="sensor: which of its bands the image has, by name and in its order, e.g. B04,B03,B02; by default as the "
        "file names them."
    ),
]


def _sensing(
    y: Any, noise: float | None, *, sensor: Sensor = None, enlarge: Enlarge = 1, sensor_bands: SensorBands = None
) -> Any:
    return told_bands(sensor, sensor_bands, y.shape[1]).physics(enlarge)


#: The problems, each under its name.
PROBLEMS: dict[str, Problem] = {
    problem.name: problem
    for problem in (
        Problem("denoise", "nothing but noise", "Denoising (noise {noise:g})", _denoising),
        Problem(
            "deblur",
            "a blur that is known",
            "Deblurring (Gaussian of {blur_sigma:g} pixels, noise {noise:g})",
            _deblurring,
            blame=lambda kernel, **_: f"another blur than {'--kernel' if kernel else '--blur-sigma'} says",
            in_place_of={"kernel": "blur_sigma"},
            example={"blur_sigma": 1.5},
        ),
        Problem(
            "super-resolve",
            "too few pixels",
            "Super-resolution x{factor} (noise {noise:g})",
            _super_resolution,
            blame=lambda **_: "another way of downscaling than bicubic, or another --factor",
            enlarged_by="factor",
        ),
        Problem(
            "inpaint",
            "missing pixels",
            "Inpainting (half of the pixels, noise {noise:g})",
            _inpainting,
            fills=True,
        ),
        Problem(
            "pansharpen",
            "colour too coarse, and a fine panchromatic image (--pan)",
            "Pansharpening x{ratio} (noise {noise:g})",
            _pansharpening,
            blame=lambda **_: "images that do not show the same ground, or other --pan-weights, --pan-mtf or --ms-mtf",
            enlarged_by="ratio",
            completed=_with_pan,
        ),
        Problem(
            "sensor",
            "what an optical sensor does (--sensor): blur, noise, saturation, rounding",
            "Sensor {sensor}, pixels {enlarge} times as fine",
            _sensing,
            blame=lambda **_: "another sensor than --sensor says, in its blur, its noise or its numbers",
            enlarged_by="enlarge",
            knows_noise=True,
            reader=read_sensed,
            example={"sensor": Path("pleiades-like")},
        ),
    )
}
