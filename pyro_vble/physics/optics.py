"""What an optical sensor's chain passes of each spatial frequency, and the finite kernel that does the same."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import PchipInterpolator

from pyro_vble._arguments import BrokenRuleError, Count, NotNegative, Positive, Rule, brief, checked, real

#: Half a cycle a pixel: the highest frequency that a grid of samples shows.
NYQUIST = 0.5
# Frequencies on which a kernel is computed, an odd number: none of them is Nyquist's, which has two signs.
_FREQUENCIES = 513
_LARGEST_SIDE = 129

Array = NDArray[np.float64]


def _between(low: float, high: float, *, low_included: bool) -> Any:
    def accept(value: Any) -> float:
        number = real(value)
        if not (low <= number if low_included else low < number) or number >= high:
            raise BrokenRuleError("value")
        return number

    return accept


Contrast = Annotated[float, Rule("a number between 0 and 1, neither of them", _between(0, 1, low_included=False))]
Obscuration = Annotated[
    float,
    Rule("at least 0 and less than 1, a part of the aperture's diameter", _between(0, 1, low_included=True)),
]


def _matrix(value: Any) -> Array:
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        raise BrokenRuleError("type") from None
    if array.ndim != 2 or not array.size or not np.isfinite(array).all() or array.sum() <= 0:
        raise BrokenRuleError("value")
    return array


def _curve(value: Any) -> Array:
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        raise BrokenRuleError("type") from None
    if array.ndim != 1 or len(array) < 2 or not np.isfinite(array).all():
        raise BrokenRuleError("value")
    return array


Matrix = Annotated[Any, Rule("a matrix of finite numbers with a positive sum", _matrix)]
Curve = Annotated[Any, Rule("at least two finite numbers", _curve)]


class Transfer(Protocol):
    """The transfer function of a sensor, phase included."""

    def response(self, rows: ArrayLike, columns: ArrayLike) -> NDArray[Any]:
        """What is passed of frequencies along the rows' and the columns' axis, in cycles a pixel of the sensor."""
        ...


@checked
@dataclass(frozen=True)
class OpticalMTF:
    r"""The modulation transfer function of a push-broom sensor, from its parts and its value at Nyquist's frequency.

    .. math:: M(f) = M_\text{optics}\Big(\frac{\lVert f \rVert}{f_c}\Big)\,
        \mathrm{sinc}(d f_r)\,\mathrm{sinc}(d f_c)\,\mathrm{sinc}(s f_r)\,
        e^{-2\pi^2 j^2 \lVert f \rVert^2}\, e^{-2\pi^2 (g_r^2 f_r^2 + g_c^2 f_c^2)}

    with f in cycles a pixel of the sensor, rows along track and columns across. The widths g of the last Gaussian,
    which stands for all that the parts leave out, are such that M(1/2, 0) = ``along`` and M(0, 1/2) = ``across``.

    References:
        | Transfer function for an annular aperture (O'Neill, 1956), equation 26
        | https://doi.org/10.1364/JOSA.46.000285

    Attributes:
        along: MTF at Nyquist along track; None leaves it to the parts.
        across: The same across track.
        cutoff: Frequency from which diffraction passes nothing, in cycles a pixel: pitch · diameter / (wavelength ·
            focal length); None for optics without diffraction.
        obscuration: Diameter of the central obscuration as a part of the aperture's.
        detector: d, side of a detector, in pixels.
        smear: s, movement while a value is integrated, in pixels along track.
        jitter: j, standard deviation of the line of sight while it is integrated, in pixels.

    Raises:
        TypeError: If a number is none.
        ValueError: If one is out of range, or a value at Nyquist is more than the parts pass.

    Example:
        >>> from pyro_vble.physics.optics import OpticalMTF
        >>> mtf = OpticalMTF(along=0.15, across=0.2)
        >>> mtf.response(0.5, 0.0).round(6), mtf.response(0.0, 0.5).round(6), mtf.response(0.0, 0.0)
        (0.15, 0.2, 1.0)
    """

    along: Contrast | None = None
    across: Contrast | None = None
    cutoff: Positive | None = None
    obscuration: Obscuration = 0.0
    detector: NotNegative = 1.0
    smear: NotNegative = 0.0
    jitter: NotNegative = 0.0
    _free: tuple[float, float] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Find the widths that are left free."""
        free = (
            self._variance("along", self.along, (NYQUIST, 0.0)),
            self._variance("across", self.across, (0.0, NYQUIST)),
        )
        object.__setattr__(self, "_free", free)

    def response(self, rows: ArrayLike, columns: ArrayLike) -> Array:
        """M at frequencies in cycles a pixel, broadcast against each other."""
        rows, columns = np.asarray(rows, np.float64), np.asarray(columns, np.float64)
        along, across = self._free
        return self._parts(rows, columns) * np.exp(-2 * np.pi**2 * (along * rows**2 + across * columns**2))

    def _parts(self, rows: Array, columns: Array) -> Array:
        square = rows**2 + columns**2
        found = np.sinc(self.detector * rows) * np.sinc(self.detector * columns) * np.sinc(self.smear * rows)
        found = found * np.exp(-2 * np.pi**2 * self.jitter**2 * square)
        return found if self.cutoff is None else found * annular_mtf(np.sqrt(square) / self.cutoff, self.obscuration)

    def _variance(self, name: str, wanted: float | None, frequency: tuple[float, float]) -> float:
        """Of the Gaussian that makes what the parts pass at a frequency what is wanted."""
        if wanted is None:
            return 0.0
        passed = float(self._parts(*(np.asarray(f) for f in frequency)))
        if wanted > passed:
            raise ValueError(
                f"{name} must be at most what detector, optics, smear and jitter pass together at Nyquist's frequency, "
                f"{passed:.4g}; received {wanted:g}; make detector, smear, jitter or obscuration less, or cutoff more."
            )
        return -math.log(wanted / passed) / (2 * np.pi**2 * NYQUIST**2)


@checked
@dataclass(frozen=True, eq=False)
class MeasuredPSF:
    r"""The transfer function of a measured point-spread function.

    .. math:: H(f) = \sum_u k(u)\, e^{-2\pi i f \cdot (u - \bar u)} \Big/ \sum_u k(u)

    The centroid is moved to the middle, so that a sample lies where its pixel is.

    Attributes:
        values: k (h, w), rows along track; background subtracted.
        samples_per_pixel: Samples of k in a pixel of the sensor, along each axis; at least the scale of the kernel that
            is made of it.

    Raises:
        TypeError: If values is no matrix of numbers.
        ValueError: If its sum is not positive.

    Example:
        >>> from pyro_vble.physics.optics import MeasuredPSF
        >>> MeasuredPSF([[0, 1, 0], [1, 4, 1], [0, 1, 0]]).response(0.5, 0.0).real.round(6)
        0.5
    """

    values: Matrix
    samples_per_pixel: Positive = 1.0

    def response(self, rows: ArrayLike, columns: ArrayLike) -> NDArray[np.complex128]:
        """H at frequencies in cycles a pixel of the sensor, broadcast against each other."""
        rows, columns = np.broadcast_arrays(np.asarray(rows, np.float64), np.asarray(columns, np.float64))
        kernel = self.values / self.values.sum()
        y, x = (np.arange(side) - np.arange(side) @ kernel.sum(1 - axis) for axis, side in enumerate(kernel.shape))
        waves = [
            np.exp(-2j * np.pi * f.ravel()[:, None] * place / self.samples_per_pixel)
            for f, place in ((rows, y), (columns, x))
        ]
        return np.einsum("ny,yx,nx->n", waves[0], kernel, waves[1], optimize=True).reshape(rows.shape)


@checked
@dataclass(frozen=True, eq=False)
class MeasuredMTF:
    r"""A measured modulation transfer function, the product of a curve along track and one across.

    .. math:: M(f) = M_a(\lvert f_r \rvert)\, M_c(\lvert f_c \rvert)

    Attributes:
        frequencies: In cycles a pixel of the sensor, rising from 0, at least to Nyquist's 0.5. Between them the curves
            are interpolated monotonically (PCHIP), beyond the last they are 0.
        along: M_a at the frequencies; divided by its value at 0.
        across: M_c; that along track where it is not given.

    Raises:
        TypeError: If a curve is none of numbers.
        ValueError: If curves differ in length, or frequencies do not rise from 0 to 0.5 at least.

    Example:
        >>> from pyro_vble.physics.optics import MeasuredMTF
        >>> MeasuredMTF([0, 0.25, 0.5, 1], [1, 0.5, 0.2, 0]).response(0.5, 0.25).round(6)
        0.1
    """

    frequencies: Curve
    along: Curve
    across: Curve | None = None

    def __post_init__(self) -> None:
        """Check the curves against each other."""
        f = self.frequencies
        if f[0] != 0 or (np.diff(f) <= 0).any() or f[-1] < NYQUIST:
            raise ValueError(
                f"frequencies must rise from 0 to at least {NYQUIST} cycles a pixel; received {brief(f.tolist())}; "
                "the MTF at 0 is 1."
            )
        for name, curve in (("along", self.along), ("across", self.across)):
            if curve is not None and (len(curve) != len(f) or curve[0] == 0):
                raise ValueError(
                    f"{name} must have a value at each of the {len(f)} frequencies, the first not 0; received "
                    f"{brief(curve.tolist())}."
                )

    def response(self, rows: ArrayLike, columns: ArrayLike) -> Array:
        """M at frequencies in cycles a pixel of the sensor, broadcast against each other."""
        across = self.along if self.across is None else self.across
        return self._at(self.along, rows) * self._at(across, columns)

    def _at(self, curve: Array, frequency: ArrayLike) -> Array:
        frequency = np.abs(np.asarray(frequency, np.float64))
        inside = np.minimum(frequency, self.frequencies[-1])
        found = PchipInterpolator(self.frequencies, curve / curve[0])(inside)
        return np.where(frequency <= self.frequencies[-1], found, 0.0)


def annular_mtf(frequency: ArrayLike, obscuration: float = 0.0) -> Array:
    r"""What diffraction by a circular aperture with a central obscuration passes of a frequency.

    .. math:: M(\nu) = \frac{a(\nu) + b(\nu) + c(\nu)}{1 - \epsilon^2}

    with a and b the overlaps of the outer and of the inner circle with themselves, c that of one with the other.

    References:
        | Transfer function for an annular aperture (O'Neill, 1956), equation 26
        | https://doi.org/10.1364/JOSA.46.000285

    Args:
        frequency: nu, as a part of the cut-off, any shape.
        obscuration: epsilon, inner diameter as a part of the outer.

    Example:
        >>> from pyro_vble.physics.optics import annular_mtf
        >>> annular_mtf([0.0, 0.5, 1.0]).round(4)
        array([1.   , 0.391, 0.   ])
    """
    nu, e = np.abs(np.asarray(frequency, np.float64)), obscuration
    if not e:
        return _self_overlap(nu)
    apart = np.clip((1 + e**2 - 4 * nu**2) / (2 * e), -1, 1)
    phi = np.arccos(apart)
    between = (
        2 * e / np.pi * np.sin(phi)
        + (1 + e**2) / np.pi * phi
        - 2 * (1 - e**2) / np.pi * np.arctan((1 + e) / (1 - e) * np.tan(phi / 2))
        - 2 * e**2
    )
    # Nearer than their radii differ the inner circle lies wholly in the outer; further than their sum, outside.
    crossed = np.where(nu <= (1 - e) / 2, -2 * e**2, np.where(nu >= (1 + e) / 2, 0.0, between))
    return (_self_overlap(nu) + e**2 * _self_overlap(nu / e) + crossed) / (1 - e**2)


def _self_overlap(nu: Array) -> Array:
    """The part of a circle that it shares with itself moved by nu diameters."""
    nu = np.minimum(nu, 1.0)
    return 2 / np.pi * (np.arccos(nu) - nu * np.sqrt(1 - nu**2))


@checked
def point_spread_function(transfer: Any, scale: Count = 1, *, energy: Contrast = 0.99999) -> Array:
    r"""The finite kernel that does to an image what the transfer function does to the scene.

    .. math:: k(u) = \int_{[-1/2, 1/2]^2} H(s f)\, e^{2\pi i f \cdot u}\, df

    on the pixels of the image, s of which make a pixel of the sensor along each axis: the scene is taken for one
    without frequencies above those that the image can show, so nothing is aliased into the kernel, whose lobes may be
    negative. The sides are an odd number of the sensor's pixels, the fewest that hold the given part of the kernel's
    energy :math:`\sum_u k(u)^2`. For an even s the middle lies between four pixels of the image, as the middle of a
    pixel of the sensor does. What is cut off is made up for by the smallest change, under a window that falls to the
    edge, with which the sum is 1, the centroid is in the middle, and Nyquist's frequencies of the sensor along track,
    across it and along both are passed exactly as H says. Below them the kernel is off by at most 0.035 with the energy
    kept by default (0.02 for most sensors), most at the lowest frequencies behind an obscured aperture, whose light
    reaches furthest.

    Args:
        transfer: H: an object with a method ``response(rows, columns)``, frequencies in cycles a pixel of the sensor.
        scale: s.
        energy: Part of the energy that is kept.

    Returns:
        k, (side, side), its side odd for an odd scale and even for an even one.

    Raises:
        TypeError: If transfer has no such method.
        ValueError: If scale or energy is out of range, or a measured point-spread function has fewer samples a pixel
            than the scale.

    Example:
        >>> from pyro_vble.physics.optics import OpticalMTF, point_spread_function
        >>> psf = point_spread_function(OpticalMTF(along=0.15, across=0.15))
        >>> bool(abs(psf.sum() - 1) < 1e-9), psf.shape[0] % 2
        (True, 1)
    """
    if not callable(getattr(transfer, "response", None)):
        raise TypeError(
            f"transfer must be an object with a method response(rows, columns); received {brief(transfer)}; "
            "OpticalMTF(along=0.15, across=0.15) is one."
        )
    if isinstance(transfer, MeasuredPSF) and transfer.samples_per_pixel < scale:
        raise ValueError(
            f"scale must be at most the samples_per_pixel of the measured point-spread function, "
            f"{transfer.samples_per_pixel:g}; received {scale}; measure it more finely."
        )
    f = np.fft.fftfreq(_FREQUENCIES)
    response = transfer.response(scale * f[:, None], scale * f[None, :])
    total = float((np.abs(response) ** 2).mean())
    kernel = np.ones((1, 1))
    for side in _sides(scale):
        places = _places(side)
        waves = np.exp(2j * np.pi * np.outer(places, f)) / _FREQUENCIES
        kernel = (waves @ response @ waves.T).real
        if float((kernel**2).sum()) >= energy * total:
            break
    return _exact(kernel, transfer, scale)


def _sides(scale: int) -> Iterator[int]:
    """Odd multiples of the scale, as many as fit."""
    largest = max(_LARGEST_SIDE, 3 * scale)
    return iter(range(scale, largest + 1, 2 * scale))


def _places(side: int) -> Array:
    return np.arange(side) - (side - 1) / 2


def _exact(kernel: Array, transfer: Transfer, scale: int) -> Array:
    """The kernel with its sum, centroid and values at Nyquist made exact by the smallest weighted change."""
    places = _places(len(kernel))
    window = np.cos(np.pi * places / (len(kernel) + 1)) ** 2
    weight = np.outer(window, window).ravel()
    y, x = (grid.ravel() for grid in np.meshgrid(places, places, indexing="ij"))
    rows, wanted = [y, x], [0.0, 0.0]
    for fr, fc in ((0.0, 0.0), (NYQUIST, 0.0), (0.0, NYQUIST), (NYQUIST, NYQUIST)):
        value = complex(transfer.response(fr, fc))
        angle = 2 * np.pi * (fr * y + fc * x) / scale
        rows += [np.cos(angle), -np.sin(angle)]
        wanted += [value.real, value.imag]
    rule = np.stack(rows)
    left = np.asarray(wanted) - rule @ kernel.ravel()
    # Sines vanish where the grid cannot show them, and a small kernel cannot obey all: the pseudo-inverse does what
    # can be done.
    change = weight * (rule.T @ (np.linalg.pinv(rule * weight @ rule.T, rcond=1e-10, hermitian=True) @ left))
    return kernel + change.reshape(kernel.shape)
