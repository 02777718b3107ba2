"""How good a prior is, on images that did not train it."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from pyro import poutine
from torch import Tensor

from pyro_vble._deprecated import moved
from pyro_vble._one_at_a_time import one_at_a_time
from pyro_vble._precision import full_precision
from pyro_vble._tensors import shape_of_image
from pyro_vble.inference.precision import network_precision
from pyro_vble.models import CAE, DecoderStd, Prior, networks
from pyro_vble.seeding import seeded
from pyro_vble.training.crops import dequantized
from pyro_vble.training.objective import NegativeELBO, SiteOfImages, encoder_of

# Enough pixels for a decile's mean to be exact to a tenth of a percent.
_MOST_PER_IMAGE = 100_000


@dataclass(frozen=True)
class Evaluation:
    """Means over images.

    Attributes:
        num_images: Number of images.
        loss: Negative ELBO, bits per pixel.
        psnr: PSNR of D(z̄), z̄ the encoder's centre, in dB.
        rate: KL(q(z,h|x) || p(z,h)), bits per pixel.
        psnr_quantised: PSNR of the image that the prior decodes as a codec, in dB; None for a VAE.
        bpp_quantised: Bits per pixel of that, by its entropy model; None for a VAE.
    """

    num_images: int
    loss: float
    psnr: float
    rate: float
    psnr_quantised: float | None = None
    bpp_quantised: float | None = None


@one_at_a_time
@torch.no_grad()
def evaluate(prior: Prior, images: Iterable[Tensor], *, precision: str = "float32", seed: int = 0) -> Evaluation:
    """Autoencode images with a prior: distortion, rate and evidence.

    Args:
        prior: The prior, on the device to compute on.
        images: Images (C, H, W) or (1, C, H, W) in [0, 1], of any sizes.
        precision: "float32", or "bfloat16" for the networks.
        seed: Seed of the draws behind rate and loss.

    Raises:
        ValueError: If there is no image, or the precision is unknown.

    Example:
        >>> import torch
        >>> from pyro_vble import load_prior
        >>> from pyro_vble.training import evaluate
        >>> evaluate(load_prior("cae-bsd"), [torch.full((3, 64, 64), 0.5)]).psnr > 30
        True
    """
    device = _checked_device(prior, precision)
    negative_elbo = NegativeELBO(prior)
    rows = []
    with seeded(seed), network_precision(precision, device):
        for x in _floats(images, device):
            with SiteOfImages() as site:
                terms = site.terms(negative_elbo(x))
            row = [terms.loss, terms.rate, _psnr(prior.decode_mean(prior.encode(x)["z"], shape_of_image(x)), x)]
            if isinstance(prior, CAE) and x.shape[1] == prior.bands:
                row += _quantised(prior, x)
            rows.append([float(value) for value in row])
    if not rows:
        raise ValueError("An evaluation needs at least one image; received none.")
    if len({len(row) for row in rows}) > 1:
        rows = [row[:3] for row in rows]
    means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    loss, rate, psnr, *quantised = means
    return Evaluation(len(rows), loss, psnr, rate, *quantised)


@dataclass(frozen=True)
class VarianceRatios:
    """Squared error over predicted variance, by decile of the predicted standard deviation.

    Attributes:
        std: Root mean predicted variance of each decile, in image units.
        ratio: Mean squared error over mean predicted variance of each decile; 1 is calibrated.
    """

    std: tuple[float, ...]
    ratio: tuple[float, ...]


@one_at_a_time
@torch.no_grad()
def calibration(
    prior: Prior,
    images: Iterable[Tensor],
    *,
    dequantize: bool = False,
    precision: str = "float32",
    seed: int = 0,
) -> VarianceRatios:
    r"""Whether the standard deviation of p(x|z) is the error that D(z) makes, at latents drawn from the encoder.

    .. math:: r_d = \frac{\sum_{i \in d} (x_i - D(z)_i)^2}{\sum_{i \in d} \sigma_\theta(z)_i^2}

    with the pixels sorted by :math:`\sigma_\theta(z)_i` into ten equal parts d.

    Args:
        prior: The prior, on the device to compute on.
        images: Images (C, H, W) or (1, C, H, W) in [0, 1].
        dequantize: Add uniform noise as wide as a step of 8 bits, for priors trained so.
        precision: "float32", or "bfloat16" for the networks.
        seed: Seed of the draws, and of the pixels taken of images with more than 100,000 values.

    Raises:
        ValueError: If there is no image, or the precision is unknown.

    Example:
        >>> import torch
        >>> from pyro_vble import load_prior
        >>> from pyro_vble.training import calibration
        >>> len(calibration(load_prior("cae-bsd"), [torch.rand(3, 64, 64)]).ratio)
        10
    """
    device = _checked_device(prior, precision)
    guide = encoder_of(prior)
    errors, variances = [], []
    with seeded(seed), network_precision(precision, device):
        for x in _floats(images, device):
            x = dequantized(x) if dequantize else x
            mean, std = prior.decode(poutine.block(guide)(x)["z"], shape_of_image(x))
            chosen = slice(None) if x.numel() <= _MOST_PER_IMAGE else torch.randint(x.numel(), (_MOST_PER_IMAGE,))
            errors.append((x - mean).square().flatten()[chosen].cpu())
            variances.append(std.square().flatten()[chosen].cpu())
    if not errors:
        raise ValueError("A calibration needs at least one image; received none.")
    error, variance = torch.cat(errors), torch.cat(variances)
    # Ties, as with one standard deviation for all pixels, fall into any decile: by chance, not by place.
    with seeded(seed):
        shuffled = torch.randperm(len(variance))
    order = shuffled[variance[shuffled].argsort(stable=True)]
    parts = [
        (error[part].double().mean(), variance[part].double().mean()) for part in order.tensor_split(10) if len(part)
    ]
    return VarianceRatios(tuple(float(v.sqrt()) for _, v in parts), tuple(float(e / v) for e, v in parts))


def predicts_std(prior: Prior) -> bool:
    """Whether the prior predicts a standard deviation for every pixel."""
    return isinstance(prior.decoder_std, DecoderStd)


def evaluate_with_calibration(
    prior: Prior, images: Callable[[], Iterable[Tensor]], *, dequantize: bool = False, precision: str = "float32"
) -> tuple[Evaluation, VarianceRatios | None]:
    """Evaluation of a prior on images, given anew at every call, and calibration if it has error bars of its own."""
    evaluation = evaluate(prior, images(), precision=precision)
    if not predicts_std(prior):
        return evaluation, None
    return evaluation, calibration(prior, images(), dequantize=dequantize, precision=precision)


def _checked_device(prior: Prior, precision: str) -> torch.device:
    if precision not in ("float32", "bfloat16"):
        raise ValueError(f"precision must be float32 or bfloat16; received {precision!r}.")
    return prior.tensor_options()["device"]


def _floats(images: Iterable[Tensor], device: torch.device) -> Iterable[Tensor]:
    for image in images:
        yield (image if image.dim() == 4 else image[None]).to(device)


def _quantised(prior: CAE, x: Tensor) -> list[float]:
    """PSNR and bits per pixel of the codec, whose entropy models know no reduced precision."""
    rows, columns = x.shape[-2:]
    training = prior.network.training
    try:
        with full_precision(x):
            scale = float(prior.rate_scale)
            decoded, bits = networks.quantized_autoencoding(prior.network.eval(), scale * prior.padded(x))
    finally:
        prior.network.train(training)
    return [_psnr(decoded[..., :rows, :columns] / scale, x), bits / (rows * columns)]


def _psnr(estimate: Tensor, x: Tensor) -> float:
    mse = float((estimate.clamp(0, 1) - x).square().mean())
    return math.inf if mse == 0 else -10 * math.log10(mse)


__getattr__ = moved(__name__, {"Calibration": "pyro_vble.training:VarianceRatios"})
