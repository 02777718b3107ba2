"""What is restored: a measurement, an operator, a prior, and the guide that approximates the posterior."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor

from pyro_vble.guides.building import build_guide, wants_latent_image
from pyro_vble.guides.mean_field import LatentImageError
from pyro_vble.models import Prior, RestorationModel
from pyro_vble.models.freezing import frozen
from pyro_vble.models.turned import UPRIGHT, Turn, TurnedPrior
from pyro_vble.physics import operator_on, part_of


@dataclass(frozen=True)
class Problem:
    """An inverse problem: y = A(x) + w with a prior of x, and a variational family.

    A part of a batch, another rate scale, a turned prior or another guide is another problem, which shares the networks
    of this one.

    Attributes:
        y: Measurement (B, ...).
        physics: The forward operator and its noise.
        prior: The prior, frozen.
        guide: What makes the guide: a class, or a callable (model, y) -> guide.
        image_shape: (C, H, W) of the image, where it can be read neither off the operator nor off the prior.
        physics_priors: Priors of parameters of operator and noise that are not known.

    Example:
        >>> import torch, deepinv
        >>> from pyro_vble import load_prior
        >>> from pyro_vble.guides import VBLE
        >>> from pyro_vble.inference import Problem
        >>> physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))
        >>> problem = Problem.on("cpu", torch.rand(2, 3, 64, 64), physics, load_prior("cae-bsd"), VBLE)
        >>> model, guide = problem.at(0.5).part(slice(0, 1)).build()
        >>> guide.loc["z"].shape, model.prior.rate_scale
        (torch.Size([1, 128, 4, 4]), 0.5)
    """

    y: Tensor
    physics: Any
    prior: Prior
    guide: Callable
    image_shape: tuple[int, int, int] | None = None
    physics_priors: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def on(
        cls,
        device: str | torch.device,
        y: Tensor,
        physics: Any,
        prior: Prior,
        guide: Callable,
        *,
        dtype: torch.dtype = torch.float32,
        image_shape: tuple[int, int, int] | None = None,
        physics_priors: Mapping[str, Any] | None = None,
    ) -> Self:
        """The problem on a device: copies of measurement, operator and prior; nothing that is given changes."""
        device = torch.device(device)
        return cls(
            y.detach().to(device, dtype, copy=True),
            operator_on(physics, device, dtype),
            frozen(prior).to(device, dtype),
            guide,
            image_shape,
            dict(physics_priors or {}),
        )

    def at(self, rate_scale: float | tuple[float, ...]) -> Self:
        """This problem with the prior at another rate scale (of each image, if there are several)."""
        return replace(self, prior=self.prior.with_rate_scale(rate_scale))

    def turned(self, turn: Turn) -> Self:
        """This problem with the prior turned; measurement and operator stay as they are."""
        return self if turn == UPRIGHT else replace(self, prior=TurnedPrior(self.prior, turn))

    def part(self, images: slice) -> Self:
        """The problem of some images of the batch."""
        scale, prior = getattr(self.prior, "rate_scale", 1.0), self.prior
        if isinstance(scale, tuple):
            prior = prior.with_rate_scale(scale[images])
        return replace(self, y=self.y[images], physics=part_of(self.physics, images, len(self.y)), prior=prior)

    def model(self, latent_image: bool | None = None) -> RestorationModel:
        """The model, as the guide wants it."""
        wanted = wants_latent_image(self.guide) if latent_image is None else latent_image
        how = {"image_shape": self.image_shape, "physics_priors": self.physics_priors}
        return RestorationModel(self.prior, self.physics, latent_image=wanted, **how)

    def build(self) -> tuple[RestorationModel, Callable]:
        """The model, and a new guide of it."""
        model = self.model()
        try:
            return model, build_guide(self.guide, model, self.y)
        except LatentImageError:  # a callable that hides which guide it makes
            model = self.model(not model.latent_image)
            return model, build_guide(self.guide, model, self.y)
