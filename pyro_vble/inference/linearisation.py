"""The model about some latents, as if decoder, operator and noise were linear and Gaussian there."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_vble._precision import full_precision
from pyro_vble.inference.conjugate_gradient import Vectors
from pyro_vble.models.restoration import RestorationModel
from pyro_vble.physics import fill_unobserved, likelihood, measure, observed_mask, operator_arguments
from pyro_vble.physics.information import fisher_information, score


class Linearisation:
    r"""The Gaussian posterior N(v̄ + Λ⁻¹g, Λ⁻¹) of latents v = (h, z[, e]) of the model that is linear about v̄.

    .. math:: \Lambda = P + \sum_i J_i^\top W_i J_i, \qquad g = P(m - \bar v) + \sum_i J_i^\top W_i r_i

    - what is measured: J = ∂A(x)/∂v with x = D(z), or D(z) + σ(z)·e; W the Fisher information of the noise, W r the score;
    - p(z|h): J = ∂(z - μ(h))/∂v, W = 1/s², r = μ - z, with s² the variance;
    - its scale: J = ∂ log s/∂h, W = 2, the information that z has about it;
    - what depends on nothing (h, e, the z of a VAE): P its prior's precision and m its mean.

    Jacobians are never formed: a product with one is the gradient of a gradient, and so works for whatever autograd
    differentiates twice. The networks run once, for all products.

    Args:
        model: The model.
        y: Measurement (B, ...).
        latents: v̄ by site, each (B, *event).
        parameters: Parameters of operator and noise by name, (B,) each.
        copies: How many vectors are multiplied at once.
    """

    def __init__(
        self,
        model: RestorationModel,
        y: Tensor,
        latents: Mapping[str, Tensor],
        parameters: Mapping[str, Tensor],
        copies: int,
    ) -> None:
        shape = model.image_shape(y)
        with torch.enable_grad(), full_precision(y):
            several = {name: v.detach().expand(copies, *v.shape).clone() for name, v in latents.items()}
            self._inputs = {name: v.requires_grad_() for name, v in several.items()}
            moments = model.prior.latent_moments(self._inputs, shape)
            given = {name: m for name, m in moments.items() if m[1].requires_grad}
            self._outputs = {"signal": self._signal(model, shape, parameters, copies)}
            weights, self._gradients = _of_signal(model, y, self._outputs["signal"], parameters, copies)
            self._weights = {"signal": weights}
            for name, (mean, variance) in given.items():
                self._outputs |= {name: several[name] - mean, f"{name} scale": variance.log() / 2}
                precision = 1 / variance.detach()
                self._weights |= {name: precision, f"{name} scale": torch.full_like(precision, 2.0)}
                self._gradients[name] = precision * (mean - several[name]).detach()
            independent = {name: m for name, m in moments.items() if name not in given}
            if "x_decentered" in latents:
                one = torch.ones_like(several["x_decentered"])
                independent["x_decentered"] = torch.zeros_like(one), one
            self._precision = {n: (1 / v).detach().expand_as(several[n]) for n, (_, v) in independent.items()}
            self._pull = {n: self._precision[n] * (m - several[n]).detach() for n, (m, _) in independent.items()}
            self._prepare()

    def _signal(self, model: RestorationModel, shape: Any, parameters: Mapping[str, Tensor], copies: int) -> Tensor:
        x = model.prior.decode_mean(self._inputs["z"], shape)
        if "x_decentered" in self._inputs:
            x = x + model.prior.decode_std(self._inputs["z"], shape) * self._inputs["x_decentered"]
        arguments = operator_arguments(model.physics, parameters)
        return measure(model.physics, x, {n: v.expand(copies, *v.shape) for n, v in arguments.items()})

    def _prepare(self) -> None:
        """The gradient as a function of what it is multiplied with: its own gradient is the product with J."""
        self._probes = {name: torch.zeros_like(out).requires_grad_() for name, out in self._outputs.items()}
        gradients = self._transposed_with_graph(self._probes)
        self._linear = {name: g for name, g in gradients.items() if g is not None and g.requires_grad}

    def _transposed_with_graph(self, cotangents: Vectors) -> dict[str, Tensor | None]:
        found = torch.autograd.grad(
            list(self._outputs.values()),
            list(self._inputs.values()),
            [cotangents[name] for name in self._outputs],
            create_graph=True,
            allow_unused=True,
        )
        return dict(zip(self._inputs, found, strict=True))

    def forward(self, vectors: Vectors) -> Vectors:
        """J v, by output."""
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
        found = torch.autograd.grad(
            list(self._outputs.values()),
            list(self._inputs.values()),
            [cotangents[name] for name in self._outputs],
            retain_graph=True,
            allow_unused=True,
        )
        pairs = zip(self._inputs.items(), found, strict=True)
        return {name: torch.zeros_like(v) if f is None else f for (name, v), f in pairs}

    def product(self, vectors: Vectors) -> Vectors:
        """Λ v."""
        images = self.forward(vectors)
        for name, weight in self._weights.items():
            images[name] *= weight
        found = self.transposed(images)
        for name, precision in self._precision.items():
            found[name] = found[name].addcmul(precision, vectors[name])
        return found

    @torch.no_grad()
    def noise(self) -> Vectors:
        """A draw of N(0, Λ): what a draw of the posterior is solved from."""
        found = self.transposed({name: w.sqrt() * torch.randn_like(w) for name, w in self._weights.items()})
        for name, precision in self._precision.items():
            found[name] = found[name] + precision.sqrt() * torch.randn_like(precision)
        return found

    @torch.no_grad()
    def diagonal(self, passes: int) -> Vectors:
        """An estimate of Λ's diagonal for each image, (B, *event): squares of draws have it for their mean."""
        total: Vectors = {}
        for _ in range(passes):
            for name, value in self.noise().items():
                total[name] = total.get(name, 0) + value.square().mean(0) / passes
        least = self._precision | {name: w for name, w in self._weights.items() if name in total}
        return {name: torch.maximum(value, least[name][0]) for name, value in total.items()}

    @torch.no_grad()
    def gradient(self) -> Vectors:
        """G, for which Λ⁻¹g is the step of Gauss and Newton to the mean."""
        zero = {name: torch.zeros_like(w) for name, w in self._weights.items()}
        found = self.transposed(zero | self._gradients)
        for name, pull in self._pull.items():
            found[name] = found[name] + pull
        return found


def _of_signal(
    model: RestorationModel, y: Tensor, signal: Tensor, parameters: Mapping[str, Tensor], copies: int
) -> tuple[Tensor, Vectors]:
    """Fisher's information about what is measured, and the score of y; nothing where it is not observed."""
    observed = observed_mask(model.physics, y)
    own = signal[:1].detach().requires_grad_()
    several = {name: value[None] for name, value in parameters.items()}
    p_y = likelihood(model.physics, own, several, event_dim=y.dim() - 1)
    information = torch.where(observed, fisher_information(p_y, own), 0.0)
    gradient = torch.where(observed, score(p_y, own, fill_unobserved(y, observed).expand_as(own)), 0.0)
    expanded = (copies, *signal.shape[1:])
    return information.detach().expand(expanded), {"signal": gradient.detach().expand(expanded)}
