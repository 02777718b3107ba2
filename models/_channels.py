"""How a measurement correlates the channels of a latent: where a correlated guide starts."""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from pyro_vble.distributions import ChannelCorrelation
from pyro_vble.models._information import scores_of_latent, smoothed

if TYPE_CHECKING:
    from pyro_vble.models.restoration import RestorationModel

# Rank of what is told in common. With 32 of 128 channels the ELBO of a fit is within 60 nats of that with 64.
_RANK = 32
# Scores that correlations are averaged over, simulated measurements times positions: of 128 channels, those of a fit
# that is noise-free need so many. And the most measurements, each a pass back through the decoder.
_SCORES, _MEASUREMENTS = 1024, 16
# The least part of a value's information that it shares with no other.
_OWN = 0.05


class Channels(NamedTuple):
    """Standard deviations of z, and what its channels have in common.

    Attributes:
        std: Standard deviation of each value (B, ..., M, h, w).
        gain: How much of the common part a value takes part in, of the same shape.
        factor: The common part U (B, ..., M, r), for all positions of an image.
    """

    std: Tensor
    gain: Tensor
    factor: Tensor


def channels_of(model: "RestorationModel", y: Tensor, latents: dict[str, Tensor]) -> Channels | None:
    r"""Standard deviations and correlations of z given y, as a decoder that is linear about ``latents`` has them.

    .. math:: \Sigma_p^{-1} = \mathrm{diag}(1 / \mathrm{Var}[p(z_p)]) + \mathrm{diag}(f_p)\, R\, \mathrm{diag}(f_p),
        \qquad R = \mathrm{Corr}[\partial \log p(y'|x) / \partial z] \approx \psi + U U^\top

    at every position p, f² being Fisher's information and R the correlation of simulated scores between channels, one
    for all positions of an image. None where nothing tells them.

    Args:
        model: A :class:`~pyro_vble.models.RestorationModel`.
        y: Measurement (B, ...).
        latents: Centres by site.
    """
    z = latents["z"]
    variance = model.prior.latent_variance(latents, model.image_shape(y)).get("z")
    num_draws = min(_MEASUREMENTS, -(-_SCORES // (z.shape[-2] * z.shape[-1])))
    scores = None if variance is None else scores_of_latent(model, y, z, num_draws)
    if variance is None or scores is None:
        return None
    information = smoothed(scores.square().mean(0)).clamp_min(torch.finfo(z.dtype).tiny)
    factor, own = _common_part(scores / information.sqrt())
    precision = 1 / variance + own[..., None, None] * information
    gain = (information / precision).sqrt()
    found = Channels(ChannelCorrelation(gain, factor).shrinkage / precision.sqrt(), gain, factor)
    return found if all(bool(value.isfinite().all()) for value in found) else None


def no_channels(std: Tensor) -> Channels:
    """Standard deviations, and nothing in common."""
    return Channels(std, torch.zeros_like(std), std.new_zeros(*std.shape[:-2], _rank(std.shape[-3])))


def _common_part(scores: Tensor) -> tuple[Tensor, Tensor]:
    """U and ψ of R ≈ ψ + U Uᵀ, for scores (n, B, ..., M, h, w): by principal components."""
    rows = scores.movedim(0, -3).flatten(-3)  # (B, ..., M, n·h·w)
    covariance = rows @ rows.mT
    std = covariance.diagonal(dim1=-2, dim2=-1).clamp_min(torch.finfo(scores.dtype).tiny).sqrt()
    values, vectors = torch.linalg.eigh(covariance / (std[..., :, None] * std[..., None, :]))
    values, vectors = values.flip(-1), vectors.flip(-1)
    rank = _rank(scores.shape[-3])
    rest = values[..., rank - 1 :].mean(-1, keepdim=True)
    factor = vectors[..., :rank] * (values[..., :rank] - rest).clamp_min(0).sqrt()[..., None, :]
    return factor, (1 - factor.square().sum(-1)).clamp_min(_OWN)


def _rank(channels: int) -> int:
    return min(_RANK, channels)
