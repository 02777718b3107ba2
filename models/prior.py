"""What every generative prior offers."""

import itertools
from abc import ABC, abstractmethod
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vble._arguments import Count, Flag, ImageSize, checked
from pyro_vble._deprecated import warn_moved
from pyro_vble.models.batching import Bands

# How torch says that there is not memory enough, or that no machine has as much.
_NO_MEMORY = (
    "allocate memory",
    "out of memory",
    "Storage size calculation overflowed",
    "numel: integer multiplication",
)


def check_prior(prior: object) -> None:
    """Raise TypeError unless ``prior`` is a generative prior."""
    if not isinstance(prior, Prior):
        raise TypeError(
            "prior must be a generative prior such as pyro_vble.models.CAE or VAE (restore also takes a name or path "
            f"for load_prior); received {type(prior).__name__}; wrap a CompressAI network as CAE(network, alpha=...)."
        )


class Prior(nn.Module, ABC):
    r"""A generative model of images, p(x|z) p(z) with p(x|z) = N(D(z), σ(z)²), as a Pyro program.

    A prior describes itself by its latents' program, ``latent``, the two halves of its decoder, ``decode_mean`` and
    ``decode_std``, and its encoder, ``encode``. Everything else follows.
    """

    #: Variational family of the latents that guides take when none is named.
    default_family: str = "gaussian"
    #: Standard deviation that a guide's factors start from, where nothing tells a better one.
    initial_std: float
    #: Number of bands of the network's images.
    bands: int
    #: Name by which ``load_prior`` finds it again, if it has one.
    name: str | None = None
    #: Standard deviation of p(x|z): a module from z, a number, or None where it follows from something else.
    decoder_std: nn.Module | float | None

    def __init__(self) -> None:
        super().__init__()
        self.decoder_std = None

    @abstractmethod
    def latent(self, image_shape: tuple[int, int, int]) -> Tensor:
        """Pyro program of the latents of one image (C, H, W): samples the latent sites and returns z."""

    @abstractmethod
    def decode_mean(self, z: Tensor, image_shape: tuple[int, int, int] | None = None) -> Tensor:
        """D(z), the mean of p(x|z), of shape (*, C, H, W)."""

    @abstractmethod
    def decode_std(self, z: Tensor, image_shape: tuple[int, int, int] | None = None) -> Tensor:
        """The standard deviation of p(x|z), broadcastable to D(z)."""

    @abstractmethod
    def encode(self, x: Tensor) -> dict[str, Tensor]:
        """Latent centres by site for images (B, C, H, W), differentiable."""

    @abstractmethod
    def validate_image_shape(self, image_shape: tuple[int, int, int]) -> None:
        """Raise ValueError if the prior cannot make images (C, H, W)."""

    def latent_moments(
        self, latents: dict[str, Tensor], image_shape: tuple[int, int, int]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Mean and variance of every latent site given those that it depends on, differentiable in them; none here.

        Guides start their widths from the variance, and linearised draws need both.
        """
        return {}

    @torch.no_grad()
    def latent_variance(self, latents: dict[str, Tensor], image_shape: tuple[int, int, int]) -> dict[str, Tensor]:
        """Variance of p(z|h) at these latents by site, where it is known."""
        moments = self.latent_moments(latents, image_shape)
        return {"z": moments["z"][1]} if "z" in moments else {}

    def forward(self, image_shape: tuple[int, int, int], latent_image: bool = True) -> Tensor:
        """The generative model of an image (C, H, W): sites of the latents, then "x".

        With ``latent_image`` x is sampled from p(x|z); without, it is the deterministic D(z).
        """
        return self.image(self.latent(image_shape), image_shape, latent_image)

    def image(self, z: Tensor, image_shape: tuple[int, int, int], latent_image: bool = True) -> Tensor:
        """Pyro program of an image given its latent z: the site "x" alone."""
        mean = self.decode_mean(z, image_shape)
        if not latent_image:
            return pyro.deterministic("x", mean, event_dim=3)
        std = self.decode_std(z, image_shape).expand_as(mean)
        return pyro.sample("x", dist.Normal(mean, std).to_event(3))

    def decode(self, z: Tensor, image_shape: tuple[int, int, int] | None = None) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of p(x|z), each (*, C, H, W).

        Without ``image_shape`` the image has the network's bands and the full size that belongs to z.
        """
        mean = self.decode_mean(z, image_shape)
        return mean, self.decode_std(z, image_shape).expand_as(mean)

    @checked
    @torch.no_grad()
    def sample(self, n: Count, size: ImageSize | None = None, *, latent_image: Flag = True) -> Tensor:
        """Draw n images (n, C, H, W) from the generative model, ancestrally: latents first, then x.

        Args:
            n: Number of images.
            size: (H, W), or (C, H, W) for another number of bands than the network's. A prior of one size needs none.
            latent_image: Draw x from p(x|z); otherwise return D(z).

        Raises:
            TypeError: If an argument is of a wrong type.
            ValueError: If the prior cannot make images of that size.
            MemoryError: If there is not memory enough for so many of them.
        """
        shape = self._image_shape(size)
        self.validate_image_shape(shape)
        try:
            with pyro.plate("image", n, dim=-1):
                return self(shape, latent_image)
        except RuntimeError as error:
            if not any(words in str(error) for words in _NO_MEMORY):
                raise
            raise MemoryError(
                f"Memory ran out drawing {n} images of shape {shape}; draw fewer, or smaller ones."
            ) from error

    def _image_shape(self, size: tuple[int, ...] | None) -> tuple[int, int, int]:
        if size is None:
            raise ValueError("size is needed, this prior makes images of any size; received None; pass size=(H, W).")
        if len(size) == 3:
            return size
        height, width = size
        return self.bands, height, width

    def _bands(self, image_shape: tuple[int, int, int] | None) -> Bands:
        return Bands(self.bands if image_shape is None else image_shape[0], self.bands)

    def tensor_options(self) -> dict[str, Any]:
        """Data type and device of latents."""
        like = next(itertools.chain(self.parameters(), self.buffers()), torch.empty(0))
        return {"dtype": like.dtype, "device": like.device}

    @property
    def std_decoder(self) -> nn.Module | None:
        """Old name of ``decoder_std``, where that is a module."""
        warn_moved("Prior.std_decoder", "Prior.decoder_std")
        return self.decoder_std if isinstance(self.decoder_std, nn.Module) else None

    @property
    def settings(self) -> dict[str, Any]:
        """What besides the weights makes this prior: numbers and words, for a posterior's file."""
        return {}

    def with_rate_scale(self, rate_scale: float | tuple[float, ...]) -> "Prior":
        """This prior at another effective bitrate, sharing its weights.

        Raises:
            ValueError: If the prior has no bitrate to scale.
        """
        raise ValueError(
            f"rate_scale is for compressive autoencoders; received {rate_scale} for a {type(self).__name__}; leave it "
            "at 1."
        )
