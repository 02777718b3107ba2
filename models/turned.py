"""Priors seen turned: flips and quarter turns of the image, while operator and measurement stay as they are."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vble.models.freezing import is_frozen, mark_frozen
from pyro_vble.models.prior import Prior


@dataclass(frozen=True)
class Turn:
    """One of the eight symmetries of the square, for images (*, H, W) of any sides.

    Attributes:
        mirrored: Whether left and right are exchanged, before the turn.
        quarters: Quarter turns counter-clockwise, 0 to 3.

    Example:
        >>> import torch
        >>> from pyro_vble.models.turned import Turn
        >>> turn = Turn(mirrored=True, quarters=1)
        >>> x = torch.rand(3, 4, 6)
        >>> turn(x).shape, bool((turn.inverse(turn(x)) == x).all()), str(turn)
        (torch.Size([3, 6, 4]), True, 'flipped, turned by 90 degrees')
    """

    mirrored: bool = False
    quarters: int = 0

    def __call__(self, x: Tensor) -> Tensor:
        """The image turned."""
        x = x.flip(-1) if self.mirrored else x
        return torch.rot90(x, self.quarters, (-2, -1)) if self.quarters else x

    @property
    def inverse(self) -> "Turn":
        """What undoes it."""
        return self if self.mirrored else Turn(False, -self.quarters % 4)

    def after(self, other: "Turn") -> "Turn":
        """The turn of images that are turned by another first."""
        quarters = self.quarters + (-other.quarters if self.mirrored else other.quarters)
        return Turn(self.mirrored != other.mirrored, quarters % 4)

    def of_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """(C, H, W) of a turned image."""
        bands, height, width = image_shape
        return (bands, width, height) if self.quarters % 2 else (bands, height, width)

    def __str__(self) -> str:
        """In words, which a posterior's file holds."""
        words = ["flipped"] if self.mirrored else []
        words += [f"turned by {90 * self.quarters} degrees"] if self.quarters else []
        return ", ".join(words) or "upright"


UPRIGHT = Turn()
#: Groups of symmetries by name; the first of each is the image as it is.
SYMMETRIES: dict[str, tuple[Turn, ...]] = {
    "flip": (UPRIGHT, Turn(mirrored=True)),
    "dihedral": tuple(Turn(mirrored, quarters) for quarters in range(4) for mirrored in (False, True)),
}
#: All turns, by their words.
TURNS: dict[str, Turn] = {str(turn): turn for turn in SYMMETRIES["dihedral"]}


class TurnedPrior(Prior):
    r"""A prior whose images are those of another one, turned: it shares that one's networks.

    .. math:: p_g(x) = p(g^{-1} x), \qquad D_g(z) = g\,D(z), \quad \sigma_g(z) = g\,\sigma(z), \quad
        E_g(x) = E(g^{-1} x)

    Latents are the other prior's, in its own frame: of an image (C, H, W) that is turned by a quarter they are those of
    an image (C, W, H), as are padding and crop.

    Args:
        prior: The prior; one that is turned already is turned further.
        turn: g.

    Example:
        >>> import torch
        >>> from pyro_vble import load_prior
        >>> from pyro_vble.models.turned import Turn, TurnedPrior
        >>> prior = TurnedPrior(load_prior("cae-bsd"), Turn(quarters=1))
        >>> z = prior.encode(torch.rand(1, 3, 64, 128))["z"]
        >>> z.shape, prior.decode_mean(z, (3, 64, 128)).shape
        (torch.Size([1, 128, 8, 4]), torch.Size([1, 3, 64, 128]))
    """

    def __init__(self, prior: Prior, turn: Turn) -> None:
        super().__init__()
        self.turn = turn.after(turn_of(prior))
        self.prior = upright(prior)
        self.bands, self.name = self.prior.bands, self.prior.name
        self.default_family, self.initial_std = self.prior.default_family, self.prior.initial_std
        if is_frozen(self.prior):
            mark_frozen(self.eval())

    @property
    def settings(self) -> dict[str, Any]:
        """Those of the prior, and the turn."""
        return self.prior.settings | {"turn": str(self.turn)}

    @property
    def rate_scale(self) -> float | tuple[float, ...]:
        """The prior's rate scale; 1 where it has none."""
        return getattr(self.prior, "rate_scale", 1.0)

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """(C, H, W) of the images of a prior of one size; None where it makes images of any."""
        shape = getattr(self.prior, "image_shape", None)
        return None if shape is None else self.turn.of_shape(shape)

    def with_rate_scale(self, rate_scale: float | tuple[float, ...]) -> "TurnedPrior":
        """The prior at another rate scale, turned alike."""
        return TurnedPrior(self.prior.with_rate_scale(rate_scale), self.turn)

    def validate_image_shape(self, image_shape: tuple[int, int, int]) -> None:
        """Raise ValueError unless the prior makes images that have this shape when they are turned."""
        self.prior.validate_image_shape(self._own(image_shape))

    def latent(self, image_shape: tuple[int, int, int]) -> Tensor:
        """The prior's program of the latents, of the image in its own frame."""
        return self.prior.latent(self._own(image_shape))

    def latent_moments(
        self, latents: dict[str, Tensor], image_shape: tuple[int, int, int]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """The prior's own."""
        return self.prior.latent_moments(latents, self._own(image_shape))

    def latent_variance(self, latents: dict[str, Tensor], image_shape: tuple[int, int, int]) -> dict[str, Tensor]:
        """The prior's own."""
        return self.prior.latent_variance(latents, self._own(image_shape))

    def decode_mean(self, z: Tensor, image_shape: tuple[int, int, int] | None = None) -> Tensor:
        """g D(z), of shape (*, C, H, W)."""
        return self.turn(self.prior.decode_mean(z, None if image_shape is None else self._own(image_shape)))

    def decode_std(self, z: Tensor, image_shape: tuple[int, int, int] | None = None) -> Tensor:
        """g σ(z), broadcastable to the image."""
        return self.turn(self.prior.decode_std(z, None if image_shape is None else self._own(image_shape)))

    def encode(self, x: Tensor) -> dict[str, Tensor]:
        """Latent centres of g⁻¹ x, by site."""
        return self.prior.encode(self.turn.inverse(x))

    def _own(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        return self.turn.inverse.of_shape(image_shape)

    def _image_shape(self, size: tuple[int, ...] | None) -> tuple[int, int, int]:
        if size is not None and self.turn.quarters % 2:
            size = (*size[:-2], size[-1], size[-2])
        return self.turn.of_shape(self.prior._image_shape(size))


def turn_of(prior: Prior) -> Turn:
    """How a prior is turned."""
    return prior.turn if isinstance(prior, TurnedPrior) else UPRIGHT


def upright(prior: Prior) -> Prior:
    """The prior that a turned one shares its networks with; another one itself."""
    return prior.prior if isinstance(prior, TurnedPrior) else prior
