"""The probabilistic program of an inverse problem."""

from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.reparam import LocScaleReparam
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vble._arguments import Flag, ImageShape, Named, checked
from pyro_vble._precision import full_precision
from pyro_vble.models._channels import Channels, channels_of, no_channels
from pyro_vble.models._information import posterior_std
from pyro_vble.models.freezing import frozen, is_frozen
from pyro_vble.models.prior import Prior, check_prior
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

# Standard deviation that the factor of a parameter of operator or noise starts from, on the unconstrained scale.
_PARAMETER_STD = 0.1


class Start(NamedTuple):
    """Where the factor of a site starts.

    Attributes:
        loc: Centre (B, *event), in the site's own units.
        std: Standard deviation (B, *event); of a site that lives on part of the real line, of the unconstrained value.
        informed: Whether prior and measurement tell the standard deviation, so that it starts near its optimum.
        support: The site's support.
        channels: How its channels are correlated, where that was asked for.
    """

    loc: Tensor
    std: Tensor
    informed: bool = False
    support: constraints.Constraint = constraints.real
    channels: Channels | None = None


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

    The model holds a frozen copy of the prior, so fitting never touches the prior it was given; a prior that is frozen
    already is shared.

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
        TypeError: If ``prior`` is not a Prior, ``physics`` has no method ``A``, or a value of ``physics_priors`` is not
            a distribution of one real number.
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

    prior: Prior

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
        self.prior = prior if is_frozen(prior) else frozen(prior)
        self.physics = physics
        self.latent_image = latent_image
        self.physics_priors = dict(physics_priors or {})
        self._moved_priors: dict[tuple, dict[str, dist.TorchDistribution]] = {}
        self._image_shapes: dict[tuple[int, ...] | None, tuple[int, int, int]]
        self._image_shapes = {} if image_shape is None else {None: image_shape}
        self._checked_shapes: set[tuple[int, ...]] = set()

    def forward(self, y: Tensor) -> Tensor:
        """The joint model, y observed; returns the image x, (*, B, C, H, W)."""
        with pyro.plate("image", len(y), dim=-1):
            parameters = self._sampled_parameters(y)
            z = self.prior.latent(self.image_shape(y))
            x = self._image(y, z)
            p_y = self._likelihood(y, x, parameters)
            observed = observed_mask(self.physics, y)
            pyro.sample("y", p_y.mask(observed).to_event(y.dim() - 1), obs=fill_unobserved(y, observed))
        return x

    def measurement(self, y: Tensor, z: Tensor | None = None) -> dist.TorchDistribution:
        """The model up to, and without, its measurement; returns p(y|x), elementwise, for measurements of y's shape.

        Given z, without the sites of the latents.
        """
        with pyro.plate("image", len(y), dim=-1):
            parameters = self._sampled_parameters(y)
            z = self.prior.latent(self.image_shape(y)) if z is None else z
            return self._likelihood(y, self._image(y, z), parameters)

    def image(self, y: Tensor, z: Tensor | None = None) -> Tensor:
        """The generative part alone, p(x|z) p(z|h) p(h), for a measurement of this shape; returns x.

        Given z, p(x|z) alone.
        """
        with pyro.plate("image", len(y), dim=-1):
            z = self.prior.latent(self.image_shape(y)) if z is None else z
            return self._image(y, z)

    def unmeasured(self, y: Tensor) -> Tensor:
        """All latent sites of the model, in order, for a measurement of this shape; needs no operator; returns x."""
        with pyro.plate("image", len(y), dim=-1):
            self._sampled_parameters(y)
            return self._image(y, self.prior.latent(self.image_shape(y)))

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
        dtype = self.prior.tensor_options()["dtype"]
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

    def start(self, y: Tensor, *, informed: bool = True, correlated: bool = False) -> dict[str, Start]:
        """Where the factors of a guide start, by site, in the order in which the model samples them.

        Centres are the encoder's view of a first guess at the image. Standard deviations are those that a decoder that
        is linear there would have, where the model tells them (``informed``), else the prior's initial one.

        Args:
            y: Measurement (B, ...).
            informed: Whether to look for those standard deviations, which takes a decoding and its gradient.
            correlated: Whether to look for what correlates the channels of z too, which takes some more of both.

        Raises:
            ValueError: As :meth:`initial_latents` does; or if z has no channels to correlate.
            TypeError: As :meth:`initial_latents` does.
        """
        parameters, latents = self.initial_parameters(y), self.initial_latents(y)
        found = posterior_std(self, y, latents) if informed else {}
        start = {}
        for site, value in parameters.items():
            # Bounds of a support may be tensors, and belong where the measurement is.
            support = prior_on(self.physics_priors[site], value).support
            start[site] = Start(value, torch.full_like(value, _PARAMETER_STD), support=support)
        for site, loc in latents.items():
            std = found.get(site)
            std = torch.full_like(loc, self.prior.initial_std) if std is None else std
            start[site] = Start(loc, std, informed=site in found)
        if correlated:
            start["z"] = self._with_channels(y, latents, start["z"])
        if self.latent_image:
            zero = next(iter(latents.values())).new_zeros(len(y), *self.image_shape(y))
            std = found.get("x_decentered", torch.ones_like(zero))
            start["x_decentered"] = Start(zero, std, informed="x_decentered" in found)
        return start

    def _with_channels(self, y: Tensor, latents: dict[str, Tensor], start: Start) -> Start:
        """A start of z that knows how its channels are correlated."""
        if start.loc.dim() < 4:
            raise ValueError(
                "Channels that are correlated need a latent of maps, (B, M, h, w), as a compressive autoencoder has; "
                f"received one of shape {tuple(start.loc.shape)}; choose family='gaussian'."
            )
        found = channels_of(self, y, latents)
        channels = no_channels(start.std) if found is None else found
        return start._replace(std=channels.std, channels=channels)

    def _sampled_parameters(self, y: Tensor) -> dict[str, Tensor]:
        """Sample the unknown parameters of operator and noise."""
        return {name: pyro.sample(name, p) for name, p in self._physics_priors_on(y).items()}

    def _image(self, y: Tensor, z: Tensor) -> Tensor:
        """x ~ p(x|z), or x = D(z)."""
        shape = self.image_shape(y)
        if not self.latent_image:
            return self.prior.image(z, shape, latent_image=False)
        with poutine.reparam(config={"x": LocScaleReparam(centered=0.0)}):
            return self.prior.image(z, shape, latent_image=True)

    def _likelihood(self, y: Tensor, x: Tensor, parameters: dict[str, Tensor]) -> dist.TorchDistribution:
        """p(y|A(x)), elementwise."""
        if self.physics is None:
            raise ValueError(
                "A likelihood needs an operator; this model has physics=None, as after loading a posterior; pass "
                "physics=... to load_posterior or RestorationModel."
            )
        with full_precision(x):
            signal = measure(self.physics, x, operator_arguments(self.physics, parameters))
            return likelihood(self.physics, signal, parameters, event_dim=y.dim() - 1)

    def _physics_priors_on(self, like: Tensor) -> dict[str, dist.TorchDistribution]:
        """Priors of the unknown parameters where a tensor is; moved there once, not at every step."""
        key = like.device, like.dtype
        if key not in self._moved_priors:
            self._moved_priors[key] = {name: prior_on(p, like) for name, p in self.physics_priors.items()}
        return self._moved_priors[key]
