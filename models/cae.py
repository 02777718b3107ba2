"""Compressive autoencoders as generative priors."""

import math
from collections.abc import Callable
from typing import Annotated, Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vble._arguments import Positive, RateScale, checked, instance_of, one_of
from pyro_vble._deprecated import renamed_arguments, renamed_attributes
from pyro_vble._precision import full_precision
from pyro_vble._tensors import shape_of_image
from pyro_vble.distributions import AutoregressiveGaussianUniform, FactorizedEntropy, GaussianUniform
from pyro_vble.models import networks
from pyro_vble.models.batching import batched
from pyro_vble.models.freezing import is_frozen, mark_frozen
from pyro_vble.models.prior import Prior

_Bound = Callable[[Tensor], Tensor]

_NO_STD = (
    "p(x|z) needs a standard deviation: received neither alpha nor decoder_std; pass the bitrate parameter the network "
    "was trained with, as in CAE(network, alpha=0.025)."
)


@renamed_arguments(variance_decoder="decoder_std")
@renamed_attributes(variance_decoder="decoder_std")
@checked
class CAE(Prior):
    r"""The generative model p(x|z) p(z|h) p(h) of a hyperprior compressive autoencoder.

    .. math::
        p(h) &= \textstyle\prod_k \big[c(h_k + \tfrac12) - c(h_k - \tfrac12)\big] \\
        p(z|h) &= \textstyle\prod_k \big[\mathcal N(\mu_k, \sigma_k^2) * \mathcal U(-\tfrac12, \tfrac12)\big](z_k),
            \qquad (\mu, \sigma) = h_s(h) \\
        p(x|z) &= \mathcal N\big(D(z), \gamma^2 I\big), \qquad \gamma^2 = \frac{C}{2 \ln 2 \cdot \alpha \cdot 255^2}

    or :math:`\mathcal N(D(z), \mathrm{diag}\,\sigma_\theta(z)^2)` with a decoder of standard deviations. C is the
    number of bands if the network was trained with the squared error averaged over bands, as CompressAI does, and 1 if
    it was summed.

    Images have any size: they are padded to the network's stride and D(z) is cropped. h is (N, h/4, w/4) and z is
    (M, h, w) per image, with h = H/16 and w = W/16; images of other than 1 or the network's bands have one latent a
    band, (C, M, h, w).

    References:
        | Variational Bayes image restoration with compressive autoencoders (Biquard et al., 2025), eq. 8 to 12
        | https://arxiv.org/abs/2311.17744
        | Variational image compression with a scale hyperprior (Ballé et al., 2018)
        | https://arxiv.org/abs/1802.01436

    Args:
        network: A CompressAI ``ScaleHyperprior``, ``MeanScaleHyperprior``,
            ``JointAutoregressiveHierarchicalPriors``, ``Cheng2020Anchor`` or ``Cheng2020Attention``.
        alpha: Bitrate parameter that the network was trained with (CompressAI's lambda). May be None if there is a
            ``decoder_std``.
        decoder_std: Standard deviation of p(x|z), a module from z (B, M, h, w) to (B, C, H, W); by default gamma.
        distortion: "mean" or "sum": how the training distortion treated the bands.
        rate_scale: s in (0, 1]: encode s·x, decode D(z)/s and σ/s, which makes the effective bitrate parameter
            s²·alpha without retraining. A tuple has one for each image of a batch.

    Raises:
        TypeError: If the network is not one of CompressAI's hyperprior networks, or an argument of a wrong type.
        ValueError: If alpha, distortion or rate_scale is out of range.

    Example:
        >>> from compressai.models import MeanScaleHyperprior
        >>> from pyro_vble.models import CAE
        >>> prior = CAE(MeanScaleHyperprior(N=8, M=12), alpha=0.025)
        >>> prior.sample(2, (64, 64)).shape
        torch.Size([2, 3, 64, 64])
        >>> round(float(prior.gamma), 4)
        0.0365
    """

    initial_std = 12**-0.5  # that of the encoder's own U(-1/2, 1/2)
    decoder_std: nn.Module | None
    _scale: Tensor

    def __init__(
        self,
        network: Any,
        alpha: Positive | None = None,
        *,
        decoder_std: Annotated[nn.Module, instance_of("a torch.nn.Module, or None", nn.Module)] | None = None,
        distortion: Annotated[str, one_of("mean", "sum")] = "mean",
        rate_scale: RateScale = 1.0,
    ) -> None:
        networks.check_hyperprior(network)
        if alpha is None and decoder_std is None:
            raise ValueError(_NO_STD)
        super().__init__()
        self.network = network
        self.decoder_std = decoder_std
        self.alpha = alpha
        self.distortion = distortion
        self.rate_scale = rate_scale
        weight = next(p for p in network.g_a.parameters() if p.dim() == 4)
        self.bands = weight.shape[1]
        self.register_buffer("_scale", weight.new_tensor(rate_scale).reshape(-1, 1, 1, 1), persistent=False)
        if networks.has_context(network):
            # The network masks this weight at every pass; the raster-order sampler reads it directly.
            context = network.context_prediction
            context.weight.data.mul_(context.mask)

    @property
    def gamma(self) -> float | None:
        """Standard deviation of p(x|z) that the bitrate parameter implies, at rate scale 1; None without alpha."""
        if self.alpha is None:
            return None
        bands = self.bands if self.distortion == "mean" else 1
        return math.sqrt(bands / (2 * math.log(2) * self.alpha * 255**2))

    @property
    def stride(self) -> int:
        """Image sizes are padded to a multiple of this."""
        return self.network.downsampling_factor

    @property
    def settings(self) -> dict[str, Any]:
        """Bitrate parameter, distortion and rate scale."""
        return {"alpha": self.alpha, "distortion": self.distortion, "rate_scale": _plain(self.rate_scale)}

    def with_rate_scale(self, rate_scale: float | tuple[float, ...]) -> "CAE":
        """This prior at rate scale s (a tuple: one for each image), sharing its weights: bitrate parameter s²·alpha."""
        scaled = CAE(
            self.network,
            self.alpha,
            decoder_std=self.decoder_std,
            distortion=self.distortion,
            rate_scale=rate_scale,
        )
        scaled.name = self.name
        if is_frozen(self):
            mark_frozen(scaled.eval())
        return scaled

    def validate_image_shape(self, image_shape: tuple[int, int, int]) -> None:
        """Any non-empty size is accepted."""
        if min(image_shape) < 1:
            raise ValueError(f"An image needs at least one band, row and column; received {tuple(image_shape)}.")

    # --- the generative model ---

    def latent(self, image_shape: tuple[int, int, int]) -> Tensor:
        """Sample h ~ p(h) and z ~ p(z|h) for one image (C, H, W); returns z."""
        h = pyro.sample("h", self.p_h(image_shape))
        return pyro.sample("z", self.p_z(h, image_shape))

    def p_h(self, image_shape: tuple[int, int, int]) -> dist.TorchDistribution:
        """The factorised entropy model of h."""
        groups = self._bands(image_shape).groups
        height, width = (-(-side // self.stride) for side in image_shape[1:])
        channels = self.network.entropy_bottleneck.channels
        p = FactorizedEntropy(self._cdf_logits, (*groups, channels, height, width), **self.tensor_options())
        return p.to_event(3 + len(groups))

    def p_z(self, h: Tensor, image_shape: tuple[int, int, int] | None = None) -> dist.TorchDistribution:
        """The Gaussian-uniform convolution of z, with parameters from h (and from earlier z, with a context model)."""
        return self._p_z(h, image_shape, self.network.gaussian_conditional.lower_bound_scale)

    def _p_z(self, h: Tensor, image_shape: tuple[int, int, int] | None, bounded: _Bound) -> dist.TorchDistribution:
        hyper = batched(self.network.h_s, h)
        groups = len(self._bands(image_shape).groups)
        if networks.has_context(self.network):
            network = self.network.entropy_parameters
            parameters = lambda features: self._location_scale(network(features), bounded)  # noqa: E731
            return AutoregressiveGaussianUniform(hyper, self.network.context_prediction, parameters).to_event(groups)
        location_scale = self._location_scale(hyper, bounded)
        return GaussianUniform(*location_scale, validate_args=False).to_event(3 + groups)

    def latent_moments(
        self, latents: dict[str, Tensor], image_shape: tuple[int, int, int]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Those of p(h), and mean and variance σ² + 1/12 of p(z|h) (with a context model, given the z before each)."""
        p_h, p_z = self.p_h(image_shape), self._p_z_given(latents, image_shape)
        return {"h": (p_h.mean, p_h.variance), "z": (p_z.mean, p_z.variance)}

    @torch.no_grad()
    def latent_variance(self, latents: dict[str, Tensor], image_shape: tuple[int, int, int]) -> dict[str, Tensor]:
        """Variance of p(z|h) alone: that of p(h) takes longer than a step of a fit, each of which asks for this."""
        return {"z": self._p_z_given(latents, image_shape).variance}

    def _p_z_given(self, latents: dict[str, Tensor], image_shape: tuple[int, int, int]) -> Any:
        """p(z|h), elementwise; with a context model, of each value given those before it."""
        # A scale at its bound has no slope, where CompressAI's own bound has one that leads away from it.
        bound = self.network.gaussian_conditional.lower_bound_scale.bound
        p_z = self._p_z(latents["h"], image_shape, lambda scale: scale.clamp_min(bound))
        own: Any = p_z.base_dist if isinstance(p_z, dist.Independent) else p_z
        return own.conditional(latents["z"].detach()) if isinstance(own, AutoregressiveGaussianUniform) else own

    def decode_mean(self, z: Tensor, image_shape: tuple[int, int, int] | None = None) -> Tensor:
        """D(z)/s, the mean of p(x|z): (*, [C,] M, h, w) -> (*, C, H, W), cropped to ``image_shape``."""
        decoded = _crop(batched(self.network.g_s, z), image_shape)
        return self._unscaled(self._bands(image_shape).mean(decoded))

    def decode_std(self, z: Tensor, image_shape: tuple[int, int, int] | None = None) -> Tensor:
        """The standard deviation of p(x|z), σ_θ(z)/s or γ/s, broadcastable to the image."""
        bands = self._bands(image_shape)
        if self.decoder_std is not None:
            std = _crop(batched(self.decoder_std, z), image_shape)
        elif self.gamma is not None:
            std = z.new_full((*z.shape[:-3], self.bands, 1, 1), self.gamma)
        else:  # taken away since
            raise ValueError(_NO_STD)
        return self._unscaled(bands.std(std))

    # --- the encoder ---

    def encode(self, x: Tensor) -> dict[str, Tensor]:
        """Centres of the encoder's q(z,h|x) = U(z̄ ± 1/2) U(h̄ ± 1/2) for images (B, C, H, W): {"h": h̄, "z": z̄}."""
        if len(self._scale) not in (1, len(x)):
            raise ValueError(
                f"A rate_scale for each image needs as many as there are images; received {len(self._scale)} for "
                f"{len(x)}; pass one, or one for each."
            )
        x = self.padded(x)
        x = self._bands(shape_of_image(x)).to_network(x if self.rate_scale == 1 else self._scale * x)
        z = batched(self.network.g_a, x)
        h = batched(self.network.h_a, z if networks.has_means(self.network) else z.abs())
        return {"h": h, "z": z}

    def padded(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) as the network sees them, rows and columns repeated to multiples of its stride."""
        return F.pad(x, (0, -x.shape[-1] % self.stride, 0, -x.shape[-2] % self.stride), mode="replicate")

    # --- pieces of the network ---

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        """Checkpoints of trainings before 0.2 call the decoder of standard deviations ``variance_decoder``."""
        old = f"{prefix}variance_decoder."
        for key in [key for key in state_dict if key.startswith(old)]:
            state_dict[f"{prefix}decoder_std.{key.removeprefix(old)}"] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _unscaled(self, x: Tensor) -> Tensor:
        return x if self.rate_scale == 1 else x / self._scale

    def _cdf_logits(self, h: Tensor) -> Tensor:
        with full_precision(h):
            return self.network.entropy_bottleneck._logits_cumulative(h, stop_gradient=False)

    def _location_scale(self, parameters: Tensor, bounded: _Bound) -> tuple[Tensor, Tensor]:
        if networks.has_means(self.network):
            scale, loc = parameters.chunk(2, dim=-3)
        else:
            scale, loc = parameters, torch.zeros_like(parameters)
        return loc, bounded(scale)


def _plain(rate_scale: float | tuple[float, ...]) -> float | list[float]:
    """A rate scale as JSON has it."""
    return list(rate_scale) if isinstance(rate_scale, tuple) else rate_scale


def _crop(x: Tensor, image_shape: tuple[int, int, int] | None) -> Tensor:
    return x if image_shape is None else x[..., : image_shape[-2], : image_shape[-1]]
