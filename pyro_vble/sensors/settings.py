"""What a sensor's file holds, and the operator that it makes."""

import math
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, InstanceOf, ValidationInfo, model_validator

from pyro_vble._arguments import BrokenRuleError, Count, Rule, brief, checked
from pyro_vble.physics import (
    MeasuredMTF,
    MeasuredPSF,
    OpticalMTF,
    OpticalSensor,
    Radiometry,
    SignalDependentNoise,
    point_spread_function,
)

# A converter of more bits rounds to steps that single precision cannot tell from each other.
_MOST_BITS = 16


def _band_names(value: Any) -> list[str] | None:
    names = [value] if isinstance(value, str) else value
    if names is not None and not (isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)):
        raise BrokenRuleError("type")
    return None if names is None else list(names)


BandNames = Annotated[Any, Rule("a band's name, a list of such, or None for all bands", _band_names)]


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class Optics(_Settings):
    """A band's transfer function: that of :class:`~pyro_vble.physics.OpticalMTF`, or a measured one in a file.

    Attributes:
        along, across, cutoff, obscuration, detector, smear, jitter: As :class:`~pyro_vble.physics.OpticalMTF` has them.
        psf_file: A point-spread function, a matrix in a .npy file or as text.
        samples_per_pixel: Samples of it in a pixel of the sensor.
        mtf_file: Columns of frequency (cycles a pixel), MTF along track and, if it is another, across, as text.
    """

    along: float | None = None
    across: float | None = None
    cutoff: float | None = None
    obscuration: float = 0.0
    detector: float = 1.0
    smear: float = 0.0
    jitter: float = 0.0
    psf_file: str | None = None
    samples_per_pixel: float = 1.0
    mtf_file: str | None = None
    folder: Path = Field(default=Path(), exclude=True, repr=False)

    @model_validator(mode="before")
    @classmethod
    def _beside(cls, content: Any, info: ValidationInfo) -> Any:
        """With the folder that files are looked for in, which the content itself does not name."""
        if isinstance(content, dict) and "folder" not in content and info.context:
            return content | {"folder": info.context.get("folder", Path())}
        return content

    @model_validator(mode="after")
    def _check(self) -> "Optics":
        named = self.model_fields_set - {"folder"}
        for name, allowed in (("psf_file", {"samples_per_pixel"}), ("mtf_file", set())):
            if getattr(self, name) is not None and not named <= allowed | {name}:
                raise ValueError(
                    f"a {name} goes with nothing else of the optics but {', '.join(allowed) or 'itself'}; received "
                    f"{', '.join(sorted(named - {name}))}; leave that out"
                )
        if self.psf_file is None and "samples_per_pixel" in named:
            raise ValueError("samples_per_pixel is that of a psf_file; received none; name the file or leave it out")
        self.transfer()
        return self

    @property
    def named(self) -> tuple[str | None, str | None]:
        """Files that it is read from."""
        return self.psf_file, self.mtf_file

    def transfer(self) -> Any:
        """The transfer function, read from its file if it has one.

        Raises:
            ValueError: If a file cannot be read, or holds no transfer function.
        """
        try:
            if self.psf_file is not None:
                return MeasuredPSF(_matrix(self.folder / self.psf_file), self.samples_per_pixel)
            if self.mtf_file is not None:
                return MeasuredMTF(*_matrix(self.folder / self.mtf_file).T)
            own = ("along", "across", "cutoff", "obscuration", "detector", "smear", "jitter")
            return OpticalMTF(**{name: getattr(self, name) for name in own})
        except TypeError as error:
            raise ValueError(str(error).rstrip(".")) from error


class Noise(_Settings):
    r"""A band's noise of variance sigma0² + gain · L at the radiance L: both given, or a ratio of signal to noise.

    .. math:: K = \frac{(L / \mathrm{snr})^2 - \sigma_0^2}{L}

    All in units of radiance, after the gain and offset of the radiometry.

    Attributes:
        sigma0: Standard deviation in the dark.
        gain: K.
        snr: Ratio of signal to noise at ``radiance``, in place of the gain.
        radiance: L, where the ratio holds.
    """

    sigma0: float = Field(gt=0)
    gain: float | None = Field(default=None, ge=0)
    snr: float | None = Field(default=None, gt=0)
    radiance: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _check(self) -> "Noise":
        by_ratio = (self.snr is not None, self.radiance is not None)
        if by_ratio not in ((True, True), (False, False)) or by_ratio[0] == (self.gain is not None):
            raise ValueError(
                "noise is sigma0 with gain, or sigma0 with snr and radiance; received "
                f"gain={self.gain}, snr={self.snr}, radiance={self.radiance}; give one of the two"
            )
        if self.levels[1] < 0:
            raise ValueError(
                f"sigma0 must be at most the whole noise at this radiance, radiance / snr = {self._whole:.4g}; "
                f"received {self.sigma0:g}; make it less"
            )
        return self

    @property
    def levels(self) -> tuple[float, float]:
        """sigma0 and K, in units of radiance."""
        if self.gain is not None:
            return self.sigma0, self.gain
        return self.sigma0, (self._whole**2 - self.sigma0**2) / (self.radiance or 1.0)

    @property
    def _whole(self) -> float:
        return (self.radiance or 0.0) / (self.snr or 1.0)


class Band(_Settings):
    """One band.

    Attributes:
        pixel_size: Distance of its pixels on the ground, in metres.
        optics: Its transfer function.
        noise: Its noise.
    """

    pixel_size: float = Field(gt=0)
    optics: Optics
    noise: Noise


def _radiometry(content: Any) -> Any:
    if not isinstance(content, dict):
        return content
    try:
        return Radiometry(**content)
    except TypeError as error:
        raise ValueError(str(error).rstrip(".")) from error


class SensorSettings(_Settings):
    """A sensor: what a file's numbers mean, and the bands' resolution, optics and noise.

    Attributes:
        name: What it is called.
        description: A sentence on it.
        radiometry: What its files' numbers mean.
        bands: Its bands by name, in the order of its files.

    Example:
        >>> from pyro_vble.sensors import SensorSettings
        >>> settings = SensorSettings.model_validate({
        ...     "name": "mine",
        ...     "radiometry": {"bits": 12},
        ...     "bands": {
        ...         "pan": {
        ...             "pixel_size": 0.5,
        ...             "optics": {"along": 0.15, "across": 0.15},
        ...             "noise": {"sigma0": 2.0, "snr": 150.0, "radiance": 1000.0},
        ...         },
        ...     },
        ... })
        >>> settings.physics().radius
        10
    """

    name: str
    description: str = ""
    radiometry: Annotated[InstanceOf[Radiometry], BeforeValidator(_radiometry)]
    bands: dict[str, Band] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> "SensorSettings":
        if self.radiometry.num_bands not in (None, len(self.bands)):
            raise ValueError(
                f"radiometry must have one number for all bands or one for each of the {len(self.bands)}; received "
                f"{self.radiometry.num_bands}"
            )
        return self

    @checked
    def physics(self, scale: Count = 1, bands: BandNames = None, *, padding: str = "reflect") -> OpticalSensor:
        """The operator with its noise, for images whose pixels are 1 / ``scale`` of the sensor's.

        Where bands have the same optics and noise, or there is one, it takes images of any number of bands. A converter
        whose smallest number has the radiance 0 clips and rounds; of others the rounding is a part of the noise.

        Args:
            scale: 1 to restore, 2 to restore and double the resolution.
            bands: Which, by name, in the order of the image's; None takes all.
            padding: What is beyond the image, as :class:`~pyro_vble.physics.OpticalSensor` has it.

        Raises:
            TypeError: If bands are no names.
            ValueError: If a band is unknown, or the bands are of several resolutions.

        Example:
            >>> from pyro_vble.sensors import load_sensor
            >>> load_sensor("sentinel2-like").physics(bands=["B04", "B03", "B02"]).noise_model.sigma0.shape
            torch.Size([1, 3, 1, 1])
        """
        indices = self._indices(bands)
        chosen = [self.bands[self._names[i]] for i in indices]
        radiometry = self.radiometry.of_bands(*indices)
        white = np.broadcast_to(np.atleast_1d(radiometry.radiance), len(chosen))
        sigma0, gain = (np.array([band.noise.levels[k] for band in chosen]) / white for k in (0, 1))
        bits = _converter(radiometry)
        if bits is None:
            sigma0 = np.hypot(sigma0, np.atleast_1d(radiometry.gain) / white / math.sqrt(12))
        return OpticalSensor(
            _kernels([band.optics for band in chosen], scale),
            scale=scale,
            padding=padding,
            noise_model=SignalDependentNoise(_by_band(sigma0), _by_band(gain)),
            bits=bits,
        )

    @checked
    def radiometry_of(self, bands: BandNames = None) -> Radiometry:
        """What the numbers of some bands mean.

        Raises:
            TypeError: If bands are no names.
            ValueError: If a band is unknown, or the bands are of several resolutions.
        """
        return self.radiometry.of_bands(*self._indices(bands))

    @checked
    def pixel_size(self, bands: BandNames = None) -> float:
        """The distance of the pixels of some bands on the ground, in metres.

        Raises:
            TypeError: If bands are no names.
            ValueError: If a band is unknown, or the bands are of several resolutions.
        """
        return self.bands[self._names[self._indices(bands)[0]]].pixel_size

    @property
    def files(self) -> list[Path]:
        """Measured transfer functions that the optics of its bands name."""
        named = {band.optics.folder / file for band in self.bands.values() for file in band.optics.named if file}
        return sorted(named)

    @property
    def _names(self) -> list[str]:
        return list(self.bands)

    def _indices(self, bands: list[str] | None) -> list[int]:
        names = self._names if bands is None else bands
        unknown = [name for name in names if name not in self.bands]
        if unknown or not names:
            raise ValueError(f"bands must be some of {', '.join(self._names)}; received {brief(names)}.")
        by_size: dict[float, list[str]] = {}
        for name in names:
            by_size.setdefault(self.bands[name].pixel_size, []).append(name)
        if len(by_size) > 1:
            groups = "; ".join(f"{size:g} m: {', '.join(own)}" for size, own in by_size.items())
            raise ValueError(
                f"Bands of one measurement must be of one resolution; received {groups}; restore each resolution by "
                f"itself, with bands={next(iter(by_size.values()))!r} for example."
            )
        return [self._names.index(name) for name in names]


def _kernels(optics: list[Optics], scale: int) -> torch.Tensor:
    """One kernel where all bands have the same optics; otherwise one each, the smaller ones with zeros around."""
    distinct = optics[:1] if all(one == optics[0] for one in optics) else optics
    kernels = [torch.from_numpy(point_spread_function(one.transfer(), scale)) for one in distinct]
    largest = max(len(kernel) for kernel in kernels)
    grown = [torch.nn.functional.pad(kernel, [(largest - len(kernel)) // 2] * 4) for kernel in kernels]
    return torch.stack(grown)


def _by_band(values: np.ndarray) -> Any:
    """A number where all bands have the same, otherwise (C, 1, 1)."""
    if (values == values[0]).all():
        return float(values[0])
    return torch.tensor(values, dtype=torch.get_default_dtype()).reshape(-1, 1, 1)


def _converter(radiometry: Radiometry) -> int | None:
    """Bits of a converter that clips images to [0, 1] and rounds them."""
    zero = radiometry.offset if isinstance(radiometry.offset, tuple) else (radiometry.offset,)
    known = radiometry.bits is not None and radiometry.bits <= _MOST_BITS and not any(zero)
    return radiometry.bits if known else None


def _matrix(path: Path) -> np.ndarray:
    """The numbers in a .npy or a text file."""
    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False)
        text = path.read_text()
        return np.loadtxt(text.splitlines(), delimiter="," if "," in text else None, ndmin=2)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} must hold a matrix of numbers, as .npy or text; it does not ({error})") from error
