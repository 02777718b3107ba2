"""The probabilistic program of an inverse problem."""

import functools
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.reparam import LocScaleReparam
from torch import Tensor, nn

from pyro_vble._arguments import Flag, ImageShape, Named, checked
from pyro_vble._precision import full_precision
from pyro_vble.models._frozen import frozen
from pyro_vble.models._information import posterior_std
from pyro_vble.models._prior import check_prior
from pyro_vble.physics import (
    check_image_shape,
    check_physics_priors,
    consistent_image,
    fill_unobserved,
    image_shape_of,
    initial_value,
    likelihood,
    measure,
    observed_mask,
    operator_arguments,
    prior_on,
    validate_measurement,
)


@checked
class RestorationModel(nn.Module):
    r"""The joint model p(y|x) p(x|z) p(z|h) p(h) of a measurement and its image, as a Pyro program.

    .. math:: z \sim p(z|h)\,p(h), \qquad x = D(z) \;\text{ or }\; x \sim \mathcal N(D(z), \sigma(z)^2), \qquad
        y \sim p(y \mid A(x))

    Sites "h" and "z" (a VAE has only "z"), "x" and "y", in the plate "image" over the batch, dim -1. With a latent
    image, "x" is decentred: x = D(z) + σ(z)·e with e ~ N(0, I) at the site "x_decentered", so that a mean-field
    guide over (h, z, e) is q(z, h) q(x|z). Unobserved values of y (NaN, or off an inpainting mask) carry no
    likelihood.

    Semi-blind: what is not known of the operator or the noise gets a prior, becomes a site of that name, one value an
    image, and is inferred with the image.

    The model holds a frozen copy of the prior, so fitting never touches the prior it was given.

    References:
        | Variational Bayes image restoration with compressive autoencoders (Biquard et al., 2025), section III
        | https://arxiv.org/abs/2311.17744
        | Deep priors for satellite image restoration with accurate uncertainties (Biquard et al., 2024), section III
        | https://arxiv.org/abs/2412.04130

    Args:
        prior: The generative model, :class:`CAE` or :class:`VAE`.
        physics: The forward operator and its noise, a ``deepinv.physics.Physics``; or any object with a method ``A``.
            None gives the model of images alone.
        latent_image: Whether x is a latent of its own (VBLE-xz) or D(z) (VBLE). Guides know:
            ``latent_image=VBLExz.latent_image``.
        image_shape: (C, H, W) of the image, where it cannot be read off the operator.
        physics_priors: Priors of unknown parameters by name: those of the noise model ("sigma", "gain", ...) and
            arguments of ``physics.A`` ("width" of :class:`~pyro_vble.physics.GaussianBlur`).

    Raises:
        TypeError: If the prior is no prior, the operator has no method ``A``, or a parameter's prior is none.
        ValueError: If a name in ``physics_priors`` is no parameter of the operator or its noise.

    Example:
        >>> import torch, deepinv, pyro
        >>> from pyro_vble import load_prior
        >>> from pyro_vble.models import RestorationModel
        >>> physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))
        >>> model = RestorationModel(load_prior("cae-bsd"), physics)
        >>> trace = pyro.poutine.trace(model).get_trace(torch.rand(2, 3, 64, 64))
        >>> {name: tuple(trace.nodes[name]["value"].shape) for name in ("h", "z", "x", "y")}
        {'h': (2, 64, 1, 1), 'z': (2, 128, 4, 4), 'x': (2, 3, 64, 64), 'y': (2, 3, 64, 64)}
    """

    def __init__(
        self,
        prior: Any,
        physics: Any,
        *,
        latent_image: Flag = False,
        image_shape: ImageShape | None = None,
        physics_priors: Named | None = None,
    ) -> None:
        check_prior(prior)
        if physics is not None and not callable(getattr(physics, "A", None)):
            raise TypeError(
                "physics must be a deepinv.physics.Physics, or any object with a method A(x); received "
                f"{type(physics).__name__}; give your operator a method A that maps (B, C, H, W) to measurements."
            )
        check_physics_priors(physics, physics_priors or {})
        super().__init__()
        self.prior = frozen(prior)
        self.physics = physics
        self.latent_image = latent_image
        self.physics_priors = dict(physics_priors or {})
        self._moved_priors: dict[tuple, dict[str, dist.TorchDistribution]] = {}
        self._image_shapes = {} if image_shape is None else {None: image_shape}
        self._checked_shapes: set[tuple[int, ...]] = set()

    def forward(self, y: Tensor) -> Tensor:
        """The joint model, y observed; returns the image x, (*, B, C, H, W)."""
        with pyro.plate("image", len(y), dim=-1):
            x, p_y = self._measurement(y)
            observed = observed_mask(self.physics, y)
            pyro.sample("y", p_y.mask(observed).to_event(y.dim() - 1), obs=fill_unobserved(y, observed))
        return x

    def measurement(self, y: Tensor, z: Tensor | None = None) -> dist.TorchDistribution:
        """The model up to, and without, its measurement; returns p(y|x), elementwise, for measurements of y's shape.

        Given z, without the sites of the latents.
        """
        with pyro.plate("image", len(y), dim=-1):
            return self._measurement(y, z)[1]

    def image(self, y: Tensor, z: Tensor | None = None) -> Tensor:
        """The generative part alone, p(x|z) p(z|h) p(h), for a measurement of this shape; returns x.

        Given z, p(x|z) alone.
        """
        with pyro.plate("image", len(y), dim=-1):
            return self._image(y, z)

    def image_shape(self, y: Tensor) -> tuple[int, int, int]:
        """(C, H, W) of the image that measurements of this shape come from."""
        key = None if None in self._image_shapes else tuple(y.shape[1:])
        if key not in self._image_shapes:
            self._image_shapes[key] = image_shape_of(self.physics, y, getattr(self.prior, "image_shape", None))
        if key is None and self.physics is not None and tuple(y.shape[1:]) not in self._checked_shapes:
            check_image_shape(self.physics, y, self._image_shapes[key])
            self._checked_shapes.add(tuple(y.shape[1:]))
        return self._image_shapes[key]

    def initial_parameters(self, y: Tensor) -> dict[str, Tensor]:
        """Where the search for the unknown parameters of operator and noise starts, by site, (B,) each."""
        return {
            name: initial_value(self.physics, name, prior).to(y.device, y.dtype).expand(len(y))
            for name, prior in self.physics_priors.items()
        }

    @torch.no_grad()
    def initial_latents(self, y: Tensor) -> dict[str, Tensor]:
        """Latent centres by site: the encoder's, of a first guess at the image from y.

        Guides start here, so this is also where a measurement that cannot be right is refused.

        Raises:
            ValueError: If y does not fit the operator, the prior or the scale [0, 1], or observes nothing.
            TypeError: If the noise model is unknown.
        """
        dtype = self.prior._options()["dtype"]
        if y.is_floating_point() and y.dtype != dtype:
            raise TypeError(
                f"y and the prior must have one data type; received y in {y.dtype} for a prior in {dtype}; convert y, "
                "or let restore do it."
            )
        image_shape = self.image_shape(y)
        self.prior.validate_image_shape(image_shape)
        parameters = self.initial_parameters(y)
        if self.physics is not None:
            validate_measurement(self.physics, y, image_shape, parameters)
        return self.prior.encode(consistent_image(self.physics, y, image_shape, parameters))

    def initial_std(self, y: Tensor, latents: dict[str, Tensor]) -> dict[str, Tensor]:
        """Standard deviations by site that guides start from, where the model can tell them.

        Those of a decoder that is linear about ``latents``: 1 over prior's and measurement's information.
        """
        return posterior_std(self, y, latents)

    def _measurement(self, y: Tensor, z: Tensor | None = None) -> tuple[Tensor, dist.TorchDistribution]:
        if self.physics is None:
            raise ValueError(
                "A likelihood needs an operator; this model has physics=None, as after loading a posterior; pass "
                "physics=... to load_posterior or RestorationModel."
            )
        parameters = {name: pyro.sample(name, p) for name, p in self._physics_priors_on(y.real).items()}
        x = self._image(y, z)
        with full_precision(x):
            signal = measure(self.physics, x, operator_arguments(self.physics, parameters))
            return x, likelihood(self.physics, signal, parameters, event_dim=y.dim() - 1)

    def _image(self, y: Tensor, z: Tensor | None = None) -> Tensor:
        shape = self.image_shape(y)
        program = self.prior if z is None else functools.partial(self.prior.image, z)
        if not self.latent_image:
            return program(shape, latent_image=False)
        with poutine.reparam(config={"x": LocScaleReparam(centered=0.0)}):
            return program(shape, latent_image=True)

    def _physics_priors_on(self, like: Tensor) -> dict[str, dist.TorchDistribution]:
        """Priors of the unknown parameters where a tensor is; moved there once, not at every step."""
        key = like.device, like.dtype
        if key not in self._moved_priors:
            self._moved_priors[key] = {name: prior_on(p, like) for name, p in self.physics_priors.items()}
        return self._moved_priors[key]
