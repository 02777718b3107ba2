"""Blur and decimation of images with any padding, and the exact adjoints of each step."""

import torch
from scipy.fft import next_fast_len
from torch import Tensor
from torch.nn import functional as F

#: What may be beyond an image.
PADDINGS = ("reflect", "replicate", "circular", "constant", "valid")
# Products a pixel of the image up to which a direct convolution is taken, not one by Fourier transforms. Measured at
# 3x600x600 on one core, forwards and backwards: 25 products are faster direct, 49 are as fast, 121 are not.
_DIRECT = 49


def correlate(x: Tensor, kernel: Tensor, step: int) -> Tensor:
    r"""Where a kernel lies wholly in the images, each ``step``-th value: :math:`y_i = \sum_j k_j x_{s i + j}`.

    Args:
        x: Images (B, C, H, W).
        kernel: (1, 1 or C, h, w), as deepinv has filters; at most as large as the images.
        step: s.
    """
    if _is_direct(kernel, step):
        return F.conv2d(x, _grouped(kernel, x), stride=step, groups=x.shape[1])
    size = _fast(x.shape[-2:])
    passed = torch.fft.rfft2(x, s=size) * torch.fft.rfft2(kernel, s=size).conj()
    # What the transforms' period wraps around lies behind the last whole kernel.
    rows, columns = (own - side + 1 for own, side in zip(x.shape[-2:], kernel.shape[-2:], strict=True))
    return torch.fft.irfft2(passed, s=size)[..., :rows:step, :columns:step]


def correlate_adjoint(y: Tensor, kernel: Tensor, step: int) -> Tensor:
    """The adjoint of :func:`correlate`: images of (h' - 1) s + h rows."""
    if _is_direct(kernel, step):
        return F.conv_transpose2d(y, _grouped(kernel, y), stride=step, groups=y.shape[1])
    rows, columns = ((own - 1) * step + side for own, side in zip(y.shape[-2:], kernel.shape[-2:], strict=True))
    spread = y.new_zeros(*y.shape[:2], rows, columns)
    within = (rows - kernel.shape[-2] + 1, columns - kernel.shape[-1] + 1)
    spread[..., : within[0] : step, : within[1] : step] = y
    size = _fast((rows, columns))
    passed = torch.fft.rfft2(spread, s=size) * torch.fft.rfft2(kernel, s=size)
    return torch.fft.irfft2(passed, s=size)[..., :rows, :columns]


def extend(x: Tensor, reach: tuple[int, int], padding: str) -> Tensor:
    """Images with what is beyond them: ``reach`` rows above and below, and columns left and right."""
    if padding == "valid":
        return x
    if padding == "constant":
        return F.pad(x, (reach[1], reach[1], reach[0], reach[0]))
    for axis, own in zip((-2, -1), reach, strict=True):
        x = x.index_select(axis, _source(x.shape[axis], own, padding, x.device))
    return x


def extend_adjoint(x: Tensor, reach: tuple[int, int], padding: str) -> Tensor:
    """The adjoint of :func:`extend`: what is beyond the image is added to where it came from."""
    if padding == "valid":
        return x
    for axis, own in zip((-2, -1), reach, strict=True):
        length = x.shape[axis] - 2 * own
        if padding == "constant":
            x = x.narrow(axis, own, length)
        else:
            shape = [length if d == axis % x.dim() else side for d, side in enumerate(x.shape)]
            x = x.new_zeros(shape).index_add(axis, _source(length, own, padding, x.device), x)
    return x


def _source(length: int, reach: int, padding: str, device: torch.device) -> Tensor:
    """Where the values of an extended line come from in the line itself, however short it is."""
    place = torch.arange(-reach, length + reach, device=device)
    if padding == "circular":
        return place % length
    if padding == "replicate" or length == 1:
        return place.clamp(0, length - 1)
    period = 2 * (length - 1)
    place = place % period
    return torch.minimum(place, period - place)


def _grouped(kernel: Tensor, x: Tensor) -> Tensor:
    """A kernel for each band of the images, as a grouped convolution has them."""
    return kernel.transpose(0, 1).expand(x.shape[1], -1, -1, -1)


def _is_direct(kernel: Tensor, step: int) -> bool:
    return kernel.shape[-2] * kernel.shape[-1] <= _DIRECT * step**2


def _fast(size: tuple[int, int] | torch.Size) -> tuple[int, int]:
    """The next sizes that Fourier transforms are fast at."""
    # SciPy's compiled function has no types.
    rows, columns = (next_fast_len(side, real=True) for side in size)
    return rows, columns  # pyright: ignore[reportReturnType]
