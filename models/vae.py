"""Variational autoencoders as generative priors."""

from typing import Annotated, Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vble._arguments import BrokenRuleError, Rule, Sizes, brief, checked, instance_of, real
from pyro_vble._tensors import shape_of_image
from pyro_vble.models.batching import batched
from pyro_vble.models.freezing import frozen
from pyro_vble.models.prior import Prior


def _std(value: Any) -> float | nn.Module:
    if isinstance(value, nn.Module):
        return value
    std = real(value)
    if not std > 0:
        raise BrokenRuleError("value")
    return std


def _encoder(value: Any) -> Any:
    if not callable(value) or isinstance(value, type):
        raise BrokenRuleError("type")
    return value


Network = Annotated[nn.Module, instance_of("a torch.nn.Module", nn.Module)]
Encoder = Annotated[Any, Rule("a torch.nn.Module, or a function", _encoder)]
NumberOrModule = Annotated[
    Any,
    Rule(
        "positive, a finite number or a torch.nn.Module", _std, "it is the standard deviation of p(x|z), in image units"
    ),
]


@checked
class VAE(Prior):
    r"""The generative model p(x|z) p(z) of a variational autoencoder, around any encoder and decoder.

    .. math:: p(z) = \mathcal N(0, I), \qquad p(x|z) = \mathcal N\big(D(z), \sigma(z)^2\big)

    with a scalar :math:`\sigma = \gamma` or one standard deviation per pixel and band, :math:`\sigma_\theta(z)`.
    Latents are vectors or feature maps: z is (*latent_shape) per image. The decoder fixes the image size.

    References:
        | Auto-encoding variational Bayes (Kingma and Welling, 2014)
        | https://arxiv.org/abs/1312.6114

    Args:
        encoder: Module from x (B, C, H, W) to the pair (mean, std) of q(z|x), each (B, *latent_shape).
        decoder: Module from z (B, *latent_shape) to D(z), (B, C, H, W).
        latent_shape: Shape of the latent of one image.
        decoder_std: Standard deviation of p(x|z): a positive number, or a module from z to (B, C, H, W).

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If decoder_std is not positive, or the decoder does not turn z into an image.

    Example:
        >>> import torch
        >>> from pyro_vble.models import VAE
        >>> class Encoder(torch.nn.Linear):
        ...     def forward(self, x):
        ...         mean = super().forward(x.flatten(1))
        ...         return mean, torch.ones_like(mean)
        >>> decoder = torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.Unflatten(1, (1, 8, 8)))
        >>> prior = VAE(Encoder(64, 4), decoder, (4,), decoder_std=0.1)
        >>> prior.sample(5).shape
        torch.Size([5, 1, 8, 8])
    """

    initial_std = 0.05
    decoder_std: nn.Module | float

    def __init__(
        self,
        encoder: Encoder,
        decoder: Network,
        latent_shape: Sizes,
        decoder_std: NumberOrModule,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.latent_shape = latent_shape
        self.decoder_std = decoder_std
        self.image_shape = self._decoded_shape()
        #: Arguments of ``convolutional_vae`` that build these networks, where it did: what a file needs to load them.
        self.architecture: dict[str, Any] | None = None
        self.bands = self.image_shape[0]

    def validate_image_shape(self, image_shape: tuple[int, int, int]) -> None:
        """Raise ValueError unless rows and columns are the decoder's."""
        if tuple(image_shape[1:]) != self.image_shape[1:]:
            raise ValueError(
                f"This VAE makes images of {self.image_shape[1]}x{self.image_shape[2]} pixels; received a problem "
                f"whose image has {image_shape[1]}x{image_shape[2]}; crop or resize the measurement, or use a CAE, "
                "which takes any size."
            )

    def latent(self, image_shape: tuple[int, int, int]) -> Tensor:
        """Sample z ~ N(0, I) for one image (C, H, W)."""
        shape = (*self._bands(image_shape).groups, *self.latent_shape)
        zero = torch.zeros((), **self.tensor_options())
        return pyro.sample("z", dist.Normal(zero.expand(shape), (zero + 1).expand(shape)).to_event(len(shape)))

    def decode_mean(self, z: Tensor, image_shape: tuple[int, int, int] | None = None) -> Tensor:
        """D(z), the mean of p(x|z): (*, [C,] *latent_shape) -> (*, C, H, W)."""
        return self._bands(image_shape).mean(batched(self.decoder, z, len(self.latent_shape)))

    def decode_std(self, z: Tensor, image_shape: tuple[int, int, int] | None = None) -> Tensor:
        """The standard deviation of p(x|z), broadcastable to the image."""
        if isinstance(self.decoder_std, nn.Module):
            std = batched(self.decoder_std, z, len(self.latent_shape))
        else:
            plates = z.shape[: z.dim() - len(self.latent_shape)]
            std = z.new_full((*plates, self.image_shape[0], 1, 1), float(self.decoder_std))
        return self._bands(image_shape).std(std)

    def encode(self, x: Tensor) -> dict[str, Tensor]:
        """The mean of the encoder's q(z|x) for images (B, C, H, W): {"z": z̄}."""
        x = self._bands(shape_of_image(x)).to_network(x)
        return {"z": batched(lambda image: self.encoder(image)[0], x)}

    def latent_moments(
        self, latents: dict[str, Tensor], image_shape: tuple[int, int, int]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Mean 0 and variance 1 of p(z)."""
        z = latents["z"].detach()
        return {"z": (torch.zeros_like(z), torch.ones_like(z))}

    @property
    def settings(self) -> dict[str, Any]:
        """The decoder's standard deviation, where it is a number."""
        return {} if isinstance(self.decoder_std, nn.Module) else {"decoder_std": float(self.decoder_std)}

    def _image_shape(self, size: tuple[int, ...] | None) -> tuple[int, int, int]:
        return self.image_shape if size is None else super()._image_shape(size)

    @torch.no_grad()
    def _decoded_shape(self) -> tuple[int, int, int]:
        # Frozen: a decoder in training mode would learn from this latent.
        rule = f"The decoder must turn z of shape (B, *{self.latent_shape}) into images (B, C, H, W)"
        try:
            out = frozen(self.decoder)(torch.zeros(1, *self.latent_shape, **self.tensor_options()))
        except Exception as error:  # a network may refuse in any way
            raise ValueError(f"{rule}; it raised {type(error).__name__}: {brief(str(error))}.") from error
        if not isinstance(out, Tensor) or out.dim() != 4 or len(out) != 1:
            raise ValueError(
                f"{rule}; it returned {brief(out)}; end it with torch.nn.Unflatten(1, (C, H, W)) if it is a vector."
            )
        return shape_of_image(out)
