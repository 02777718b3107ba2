"""An optical sensor: blur by its point-spread function, and one value a pixel of its own."""

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from deepinv.physics import LinearPhysics
from torch import Tensor
from torch.nn import functional as F

from pyro_vble._arguments import BrokenRuleError, Count, Rule, checked, one_of, whole
from pyro_vble.physics.convolution import PADDINGS, correlate, correlate_adjoint, extend, extend_adjoint
from pyro_vble.physics.sensors import Sensor


def _kernels(value: Any) -> Tensor:
    """Kernels (1, 1 or C, h, w) that sum to 1."""
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(np.ascontiguousarray(value))
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise BrokenRuleError("type")
    kernels = value[None] if value.dim() == 2 else value
    if kernels.dim() != 3 or not kernels.numel() or not bool(kernels.isfinite().all()):
        raise BrokenRuleError("value")
    total = kernels.double().sum((-2, -1), keepdim=True)
    if not bool((total > 0).all()):
        raise BrokenRuleError("value")
    return (kernels / total).to(torch.get_default_dtype())[None]


def _bits(value: Any) -> int:
    bits = whole(value)
    if not 1 <= bits <= 16:
        raise BrokenRuleError("value")
    return bits


PointSpread = Annotated[
    Any,
    Rule("a point-spread function (h, w), or one a band (C, h, w), of finite numbers with a positive sum", _kernels,
         "point_spread_function(OpticalMTF(along=0.15, across=0.15)) makes one"),
]  # fmt: skip
Padding = Annotated[str, one_of(*PADDINGS)]
Bits = Annotated[int, Rule("a whole number of bits from 1 to 16", _bits)]


@dataclass(frozen=True)
class Quantisation:
    """What a converter of so many bits makes of values in [0, 1]: clipped, and rounded to its steps.

    Attributes:
        bits: Number of bits.

    Example:
        >>> import torch
        >>> from pyro_vble.physics.sensor import Quantisation
        >>> Quantisation(2)(torch.tensor([0.1, 0.4, 1.7]))
        tensor([0.0000, 0.3333, 1.0000])
    """

    bits: int

    @property
    def sensor(self) -> Sensor:
        """What the likelihood knows of it: with one or two bits, no more could be seen of it."""
        return Sensor(0.0, 1.0, 1 / (2**self.bits - 1))

    def __call__(self, value: Tensor) -> Tensor:
        """The value as it is read out."""
        largest = 2**self.bits - 1
        return (value * largest).round().clamp(0, largest) / largest


@checked
class OpticalSensor(LinearPhysics):
    r"""An image as a sensor sees it whose pixels are ``scale`` of the image's wide: a deepinv operator.

    .. math:: (Ax)_i = \sum_u k(u)\, x\Big(s\,i + \frac{s - 1}{2} - u\Big)

    The value i of the measurement lies in the middle of the block of s x s pixels i of the image, so that the
    georeference of one is that of the other with its pixels' size multiplied, and nothing moved: a ramp is measured as
    its means over the blocks. The sides of the kernel k are odd for an odd scale and even for an even one, as those of
    :func:`~pyro_vble.physics.point_spread_function` are; zeros around it make them odd multiples of s.

    Images are of any size that the scale divides. With the padding "valid" the measurement lacks ``radius / scale``
    values at each border: those that reach beyond the image.

    Args:
        psf: Point-spread function on the image's pixels, (h, w) or one a band (C, h, w), rows along track: what is
            seen of a point. It is normalised to the sum 1.
        scale: s; 1 restores an image on the sensor's pixels, 2 on half of them.
        padding: What is beyond the image: "reflect" (not repeating the edge), "replicate", "circular", "constant"
            (zeros), or "valid".
        noise_model: A deepinv noise model, :class:`~pyro_vble.physics.SignalDependentNoise` for example.
        bits: Bits of the converter: the measurement is clipped to [0, 1] and rounded, which the likelihood knows. None
            for one that does neither.

    Attributes:
        radius: How many pixels of the image, beyond its own block, a value of the measurement reaches.

    Raises:
        TypeError: If an argument is of a wrong kind.
        ValueError: If the psf's sides do not fit the scale, or an argument is out of range.

    Example:
        >>> import torch
        >>> from pyro_vble.physics import OpticalMTF, OpticalSensor, point_spread_function
        >>> psf = point_spread_function(OpticalMTF(along=0.15, across=0.15), scale=2)
        >>> physics = OpticalSensor(psf, scale=2, bits=12)
        >>> physics(torch.rand(2, 3, 32, 48)).shape
        torch.Size([2, 3, 16, 24])
    """

    filter: Tensor

    def __init__(
        self,
        psf: PointSpread,
        *,
        scale: Count = 1,
        padding: Padding = "reflect",
        noise_model: Any = None,
        bits: Bits | None = None,
    ) -> None:
        sides = tuple(psf.shape[-2:])
        if any((side - scale) % 2 for side in sides):
            raise ValueError(
                f"The sides of the psf must be {'odd' if scale % 2 else 'even'} for scale={scale}: its middle is that "
                f"of a block; received {sides[0]}x{sides[1]}; make it by point_spread_function(mtf, {scale})."
            )
        settings: dict[str, Any] = {
            "noise_model": noise_model,
            "sensor_model": None if bits is None else Quantisation(bits),
        }
        super().__init__(**{name: value for name, value in settings.items() if value is not None})
        self.scale, self.padding = scale, padding
        # Of a kernel in whole blocks the measurement lies on the image's blocks, with the padding "valid" too.
        rows, columns = (max(0, -(-(side - scale) // (2 * scale))) * scale for side in sides)
        self._reach = rows, columns
        above, beside = (own - (side - scale) // 2 for own, side in zip(self._reach, sides, strict=True))
        # A point is imaged as the psf: turned, it is the filter that is correlated with an image.
        self.register_buffer("filter", F.pad(psf, (beside, beside, above, above)).flip(-2, -1))

    @property
    def radius(self) -> int:
        """How many pixels of the image, beyond its own block of scale x scale, a value of the measurement reaches."""
        return max(self._reach)

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        """What is measured of images (B, C, H, W), without noise: (B, C, H / scale, W / scale).

        Raises:
            ValueError: If the scale does not divide H and W, or the psf is of another number of bands.
        """
        self._check(x, "x")
        if any(side % self.scale for side in x.shape[-2:]):
            raise ValueError(
                f"The scale {self.scale} must divide the image's rows and columns; received {tuple(x.shape[-2:])}; cut "
                "the image."
            )
        extended = extend(x, self._reach, self.padding)
        if any(side < own for side, own in zip(extended.shape[-2:], self.filter.shape[-2:], strict=True)):
            raise ValueError(
                f"Without padding the image must be at least as large as the psf, {tuple(self.filter.shape[-2:])}; "
                f'received {tuple(x.shape[-2:])}; take another padding, "reflect" for example.'
            )
        return correlate(extended, self.filter.to(x), self.scale)

    def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:
        """The adjoint of A: images of measurements (B, C, H', W')."""
        self._check(y, "y")
        return extend_adjoint(correlate_adjoint(y, self.filter.to(y), self.scale), self._reach, self.padding)

    def _check(self, x: Tensor, name: str) -> None:
        bands = self.filter.shape[1]
        if x.dim() != 4 or bands not in (1, x.shape[1]):
            expected = "(B, C, H, W)" if bands == 1 else f"(B, {bands}, H, W), as the psf has {bands} bands"
            raise ValueError(f"{name} must be of shape {expected}; received {tuple(x.shape)}.")
