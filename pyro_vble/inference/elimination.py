"""What a measurement tells of a decoded image, when what the image has of its own is integrated out."""

import contextlib
from typing import Any

import torch
from torch import Tensor

from pyro_vble.inference.conjugate_gradient import ChannelPreconditioner, conjugate_gradient
from pyro_vble.inference.jacobian import Jacobian
from pyro_vble.inference.transposition import TransposableLayers
from pyro_vble.models.restoration import RestorationModel
from pyro_vble.physics import describe, fill_unobserved, likelihood, measure, observed_mask
from pyro_vble.physics.information import fisher_information, score
from pyro_vble.seeding import seeded

# Draws of N(0, G) that tell the diagonal of G, and the most products that a solution with G takes.
_PROBES, _MOST = 32, 500
# The solutions within a product, told by those that the product is for.
_FINER = 0.3


class Measurement:
    r"""The measurement of an image x = D + σe about some image, whitened, and without e ~ N(0, I).

    .. math:: T = W^{1/2} \frac{\partial A}{\partial x}, \qquad G = I + T \sigma^2 T^\top, \qquad
        \text{information about } D:\; T^\top G^{-1} T

    W is the Fisher information of the noise. An operator is cheap next to a decoder, and equations for what is decoded
    are better conditioned than those for e too: so they are what is solved, with G inverted within every product.

    Args:
        model: The model.
        y: Measurement (B, ...).
        x: The image (n, B, C, H, W), n times the same.
        std: σ, or None where the image has nothing of its own.
        tolerance: Of the equations that products are for.

    Raises:
        ValueError: If the noise has no information.
    """

    def __init__(self, model: RestorationModel, y: Tensor, x: Tensor, std: Tensor | None, tolerance: float) -> None:
        with torch.enable_grad(), TransposableLayers():
            x = x.detach().clone().requires_grad_()
            signal = _signal(model, x)
            information, pull = _information(model, y, signal)
            self._operator = Jacobian({"x": x}, {"y": signal})
        self._root, self._std, self._tolerance = information.sqrt(), std, _FINER * tolerance
        #: Whitened residual of y.
        self.residual = torch.where(information > 0, pull / self._root, 0.0)
        self._precondition = dict
        if std is not None:
            with seeded(0):
                drawn = [self.without_own(self.error(), torch.randn_like(x)) for _ in range(-(-_PROBES // len(x)))]
            self._precondition = ChannelPreconditioner({"y": torch.cat(drawn)}, {"y": torch.ones_like(drawn[0][0])})

    def error(self) -> Tensor:
        """White noise of the measurement."""
        return torch.randn_like(self._root)

    def forward(self, image: Tensor) -> Tensor:
        """T x."""
        return self._root * self._operator.forward({"x": image})["y"]

    def transposed(self, u: Tensor) -> Tensor:
        """Tᵀ u."""
        return self._operator.transposed({"y": self._root * u})["x"]

    def information(self, image: Tensor) -> Tensor:
        """Tᵀ G⁻¹ T x."""
        return self.transposed(self.solved(self.forward(image)))

    def without_own(self, error: Tensor, own: Tensor) -> Tensor:
        """The whitened error u - Tσe of the decoded image, for errors u of the measurement and e of the image's own."""
        return error if self._std is None else error - self.forward(self._std * own)

    def own(self, own: Tensor, rest: Tensor) -> Tensor:
        """The image's own e + σTᵀ G⁻¹ w, for what is left w of the whitened error."""
        if self._std is None:
            return own
        return own + self._std * self.transposed(self.solved(rest))

    def solved(self, u: Tensor) -> Tensor:
        """G⁻¹ u."""
        if self._std is None:
            return u
        variance = self._std.square()

        def product(vectors: dict[str, Tensor]) -> dict[str, Tensor]:
            part = vectors["y"]
            return {"y": part + self.forward(variance * self.transposed(part))}

        found = conjugate_gradient(
            product, {"y": u}, self._precondition, systems=2, tolerance=self._tolerance, max_iterations=_MOST
        )
        return found.x["y"]


def _signal(model: RestorationModel, x: Tensor) -> Tensor:
    """A(x) of copies of a batch, (n, B, ...)."""
    physics: Any = model.physics
    # All at once if it may be: an operator may hold a filter or a mask of each image, and object in any way.
    with contextlib.suppress(Exception):
        at_once = physics.A(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        if torch.allclose(at_once[-1:], measure(physics, x[-1:]), atol=1e-5):
            return at_once
    return measure(physics, x)


def _information(model: RestorationModel, y: Tensor, signal: Tensor) -> tuple[Tensor, Tensor]:
    """Fisher's information about what is measured, and the score of y; zero where it is not observed."""
    observed, own = observed_mask(model.physics, y), signal[0].detach().requires_grad_()
    p_y = likelihood(model.physics, own, event_dim=y.dim() - 1)
    information = torch.where(observed, fisher_information(p_y, own), 0.0).detach()
    pull = torch.where(observed, score(p_y, own, fill_unobserved(y, observed)), 0.0).detach()
    if not bool(information.isfinite().all() & pull.isfinite().all()) or not bool(information.any()):
        raise ValueError(
            "Linearised draws need noise whose density has a gradient in the signal; received "
            f"{describe(model.physics)}, whose Fisher information is zero or not finite; draw from the guide."
        )
    return information.expand_as(signal), pull.expand_as(signal)
