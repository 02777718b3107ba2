"""The model about some latents, as if decoder, operator and noise were linear and Gaussian there."""

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_vble.inference.conjugate_gradient import ChannelPreconditioner, Vectors
from pyro_vble.inference.transposition import TransposableConvolutions
from pyro_vble.models.restoration import RestorationModel
from pyro_vble.physics import describe, fill_unobserved, likelihood, measure, observed_mask
from pyro_vble.physics.information import fisher_information, score
from pyro_vble.seeding import seeded

# Draws of N(0, Λ) that tell the preconditioner of its matrix.
_PROBES = 32


class Linearisation:
    r"""The Gaussian posterior N(v̄ + Λ⁻¹g, Λ⁻¹) of latents v = (h, z[, e]), were the model linear about v̄.

    .. math:: \Lambda = P + \sum_i J_i^\top W_i J_i, \qquad g = P(m - \bar v) + \sum_i J_i^\top W_i r_i

    - what is measured: J = ∂A(x)/∂v with x = D(z), or D(z) + σe with σ held at σ(z̄); W the Fisher information of the
      noise, W r the score of y;
    - p(z|h): J = ∂(z - μ(h))/∂v, W = 1/s², r = μ - z, with s² the variance;
    - its scale: J = ∂ log s/∂h, W = 2, the information that z has about it; r = 0, for the z at the centre of a
      posterior says too little of its spread;
    - what depends on nothing (h, e, the z of a VAE): P its prior's precision, one over its variance, and m its mean.

    Jacobians are never formed: a product with one is the gradient of a gradient, and so works for whatever autograd
    differentiates twice. The networks run once, for all products.

    Args:
        model: The model, without unknown parameters of operator and noise.
        y: Measurement (B, ...).
        latents: v̄ by site, each (B, *event).
        copies: How many vectors of each image are multiplied at once.

    Raises:
        ValueError: If the prior does not tell its latents' moments, or the noise has no information.
    """

    def __init__(self, model: RestorationModel, y: Tensor, latents: Mapping[str, Tensor], copies: int) -> None:
        shape = model.image_shape(y)
        with torch.enable_grad(), TransposableConvolutions():
            at = {name: v.detach().expand(copies, *v.shape).clone() for name, v in latents.items()}
            self._inputs = {name: v.requires_grad_() for name, v in at.items()}
            moments = _moments(model.prior, shape, self._inputs)
            given = {name: m for name, m in moments.items() if m[1].requires_grad}
            signal = _signal(model, shape, self._inputs)
            information, pull = _information(model, y, signal)
            self._outputs, self._weights, self._pulls = {"y": signal}, {"y": information}, {"y": pull}
            for name, (mean, variance) in given.items():
                precision, scale = 1 / variance.detach(), f"{name} scale"
                self._outputs |= {name: at[name] - mean, scale: variance.log() / 2}
                self._weights |= {name: precision, scale: torch.full_like(precision, 2.0)}
                self._pulls |= {name: precision * (mean - at[name]).detach(), scale: torch.zeros_like(precision)}
            alone = {name: m for name, m in moments.items() if name not in given}
            self._precision = {n: (1 / variance).detach().expand_as(at[n]) for n, (_, variance) in alone.items()}
            self._to_mean = {n: self._precision[n] * (m - at[n]).detach() for n, (m, _) in alone.items()}
            # The gradient as a function of what it is multiplied with: its own gradient is the product with J.
            self._probes = {name: torch.zeros_like(out).requires_grad_() for name, out in self._outputs.items()}
            gradients = self._gradient(self._probes, create_graph=True)
            self._linear = {name: g for name, g in gradients.items() if g is not None and g.requires_grad}

    def forward(self, vectors: Vectors) -> Vectors:
        """J v, by what is predicted."""
        found = torch.autograd.grad(
            list(self._linear.values()),
            list(self._probes.values()),
            [vectors[name] for name in self._linear],
            retain_graph=True,
            allow_unused=True,
        )
        pairs = zip(self._probes.items(), found, strict=True)
        return {name: torch.zeros_like(probe) if f is None else f for (name, probe), f in pairs}

    def transposed(self, cotangents: Vectors) -> Vectors:
        """Jᵀ u, by latent."""
        found = self._gradient(cotangents)
        return {name: torch.zeros_like(v) if (f := found[name]) is None else f for name, v in self._inputs.items()}

    def product(self, vectors: Vectors) -> Vectors:
        """Λ v."""
        predicted = self.forward(vectors)
        found = self.transposed({name: weight * predicted[name] for name, weight in self._weights.items()})
        for name, precision in self._precision.items():
            found[name] = found[name].addcmul(precision, vectors[name])
        return found

    def noise(self) -> Vectors:
        """Draws of N(0, Λ), with the random numbers that there are: Λ⁻¹ makes draws of N(0, Λ⁻¹) of them."""
        found = self.transposed({name: w.sqrt() * torch.randn_like(w) for name, w in self._weights.items()})
        for name, precision in self._precision.items():
            found[name] = found[name] + precision.sqrt() * torch.randn_like(precision)
        return found

    def gradient(self) -> Vectors:
        """The vector g: Λ⁻¹g is the step of Gauss and Newton to the mean."""
        found = self.transposed(self._pulls)
        return {name: v + self._to_mean[name] if name in self._to_mean else v for name, v in found.items()}

    def preconditioner(self) -> ChannelPreconditioner:
        """What is known of Λ from some draws of N(0, Λ), always the same."""
        copies = len(next(iter(self._inputs.values())))
        least = self._precision | {name: w for name, w in self._weights.items() if name in self._inputs}
        with seeded(0):
            draws = [self.noise() for _ in range(-(-_PROBES // copies))]
        drawn = {name: torch.cat([draw[name] for draw in draws]) for name in self._inputs}
        return ChannelPreconditioner(drawn, {name: least[name][0] for name in drawn})

    def _gradient(self, cotangents: Vectors, *, create_graph: bool = False) -> dict[str, Tensor | None]:
        found = torch.autograd.grad(
            list(self._outputs.values()),
            list(self._inputs.values()),
            [cotangents[name] for name in self._outputs],
            retain_graph=True,
            create_graph=create_graph,
            allow_unused=True,
        )
        return dict(zip(self._inputs, found, strict=True))


def _moments(prior: Any, shape: tuple[int, int, int], latents: Vectors) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and variance of every site given those that it depends on."""
    moments = dict(prior.latent_moments(latents, shape))
    if "x_decentered" in latents:
        e = latents["x_decentered"].detach()
        moments["x_decentered"] = torch.zeros_like(e), torch.ones_like(e)
    if missing := latents.keys() - moments.keys():
        raise ValueError(
            "Linearised draws need a prior that tells mean and variance of its latents; received "
            f"{type(prior).__name__}, which does not of {', '.join(sorted(missing))}; define latent_moments."
        )
    return {name: moments[name] for name in latents}


def _signal(model: RestorationModel, shape: tuple[int, int, int], latents: Vectors) -> Tensor:
    """A(x) of copies of a batch, (n, B, ...)."""
    x = model.prior.decode_mean(latents["z"], shape)
    if "x_decentered" in latents:
        with torch.no_grad():
            std = model.prior.decode_std(latents["z"], shape)
        x = x + std * latents["x_decentered"]
    physics: Any = model.physics
    if x.shape[1] > 1:
        return measure(physics, x)  # an operator may hold a filter or a mask of each
    with contextlib.suppress(Exception):  # an operator may object in any way
        at_once = physics.A(x.flatten(0, 1))[:, None]
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
