"""How much a measurement tells of each latent: where the widths of a guide start."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_vble._precision import full_precision
from pyro_vble._tensors import shape_of_image
from pyro_vble.physics import is_divisible, likelihood, measure, observed_mask, operator_arguments, part_of
from pyro_vble.seeding import seeded

if TYPE_CHECKING:
    from pyro_vble.models.restoration import RestorationModel

# Side of the square of latents over which information is averaged: one simulated measurement gives each of them the
# square of a Gaussian, 49 of them give it to 20 %.
_WINDOW = 7
# Simulated measurements over which it is averaged where latents have no neighbours: they give it to 25 %.
_MEASUREMENTS = 32
# Images through the decoder and back at once, in pixels.
_PIXELS_AT_ONCE = 2**20


def posterior_std(model: "RestorationModel", y: Tensor, latents: dict[str, Tensor]) -> dict[str, Tensor]:
    r"""Standard deviations of the latents given y, as a decoder that is linear about ``latents`` would have them.

    .. math:: a_k = \Big(\frac{1}{\mathrm{Var}[p(v_k)]} + F_k\Big)^{-1/2}, \qquad
        F_k = E_{y' \sim p(y|x)}\Big[\Big(\frac{\partial \log p(y'|x)}{\partial v_k}\Big)^2\Big], \qquad x = D(z)

    for v = z and, with a latent image, v = e in x = D(z) + σ(z)·e. F is Fisher's information, from one simulated
    measurement, averaged over neighbours, or from several where latents are no maps: it works for every operator and
    noise. With a linear decoder and Gaussian noise this is the optimum of a mean-field Gaussian guide.

    Latents whose prior the model does not tell the variance of are left out, as is everything where the likelihood
    has no useful gradient.

    Args:
        model: A :class:`~pyro_vble.models.RestorationModel`.
        y: Measurement (B, ...).
        latents: Centres by site.
    """
    image_shape = model.image_shape(y)
    variance = model.prior.latent_variance(latents, image_shape)
    if model.physics is None or not variance:
        return {}
    with torch.no_grad():
        mean = model.prior.decode_mean(latents["z"], image_shape)
    score = _score(model, y, mean)
    if score is None:
        return {}
    information = {"z": _of_latent(model, y, latents["z"], score)}
    if model.latent_image:
        with torch.no_grad():
            own = (score * model.prior.decode_std(latents["z"], image_shape)).square()
        information["x_decentered"] = smoothed(own)
        variance = variance | {"x_decentered": torch.ones_like(mean)}
    found = {site: (1 / variance[site] + value).rsqrt() for site, value in information.items()}
    return found if all(bool(value.isfinite().all()) for value in found.values()) else {}


def _of_latent(model: "RestorationModel", y: Tensor, z: Tensor, score: Tensor) -> Tensor:
    """Fisher's information about z, from the gradient in D(z) for the first simulated measurement, or from more."""
    if z.dim() >= 4:
        return smoothed(_through_decoder(model.prior, z, model.image_shape(y), score[None])[0].square())
    scores = scores_of_latent(model, y, z, _MEASUREMENTS)
    return torch.full_like(z, torch.nan) if scores is None else scores.square().mean(0)


def scores_of_latent(model: "RestorationModel", y: Tensor, z: Tensor, num_draws: int) -> Tensor | None:
    """Gradients in z of the log-likelihood of measurements simulated from D(z), (num_draws, *z.shape); None where there
    is none.
    """
    if model.physics is None:
        return None
    image_shape = model.image_shape(y)
    with torch.no_grad():
        mean = model.prior.decode_mean(z, image_shape)
    scores = [_score(model, y, mean, draw) for draw in range(num_draws)]
    known = [score for score in scores if score is not None]
    if len(known) < num_draws:
        return None
    return _through_decoder(model.prior, z, image_shape, torch.stack(known))


def _score(model: "RestorationModel", y: Tensor, x: Tensor, draw: int = 0) -> Tensor | None:
    """The gradient in x of the log-likelihood of a measurement simulated from x; None where there is none.

    Image by image, each with the same random numbers, so that an image starts alike alone and in a batch; but for an
    operator that cannot be cut.
    """
    parameters, physics = model.initial_parameters(y), model.physics
    if not is_divisible(physics, y, shape_of_image(x)):
        scores = [_score_of(physics, y, x, parameters, draw)]
    else:
        scores = []
        for i in range(len(y)):
            image = slice(i, i + 1)
            own = {name: value[image] for name, value in parameters.items()}
            scores.append(_score_of(part_of(physics, image, len(y)), y[image], x[image], own, draw))
    known = [part for part in scores if part is not None]
    if len(known) < len(scores):
        return None
    score = torch.cat(known)
    return score if bool(score.any()) and bool(score.isfinite().all()) else None


def _score_of(physics: Any, y: Tensor, x: Tensor, parameters: dict[str, Tensor], draw: int) -> Tensor | None:
    x = x.detach().requires_grad_()
    with torch.enable_grad(), full_precision(x), seeded(draw):
        signal = measure(physics, x, operator_arguments(physics, parameters))
        p_y = likelihood(physics, signal, parameters, event_dim=y.dim() - 1)
        log_likelihood = torch.where(observed_mask(physics, y), p_y.log_prob(p_y.sample()), 0.0).sum()
        return torch.autograd.grad(log_likelihood, x)[0] if log_likelihood.requires_grad else None


def _through_decoder(prior: Any, z: Tensor, image_shape: tuple[int, int, int], scores: Tensor) -> Tensor:
    """Gradients in z, for gradients in D(z), (n, *D(z).shape): one pass through the decoder, and n back."""
    at_once = max(1, _PIXELS_AT_ONCE // (image_shape[1] * image_shape[2]))
    if isinstance(getattr(prior, "rate_scale", 1.0), tuple):
        at_once = len(z)  # a scale for each image of the batch
    parts = zip(z.split(at_once), scores.split(at_once, dim=1), strict=True)
    return torch.cat([_part_through_decoder(prior, part, image_shape, own) for part, own in parts], dim=1)


def _part_through_decoder(prior: Any, z: Tensor, image_shape: tuple[int, int, int], scores: Tensor) -> Tensor:
    z = z.detach().requires_grad_()
    with torch.enable_grad():
        mean = prior.decode_mean(z, image_shape)
        return torch.stack([torch.autograd.grad(mean, z, score, retain_graph=True)[0] for score in scores])


def smoothed(maps: Tensor) -> Tensor:
    """Local means over the last two dimensions, of as many as there are towards the border."""
    sides = [min(_WINDOW, side - 1 + side % 2) for side in maps.shape[-2:]]
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    padding = [side // 2 for side in sides]
    return F.avg_pool2d(flat, sides, stride=1, padding=padding, count_include_pad=False).reshape(maps.shape)
