"""The model about some latents, as if decoder, operator and noise were linear and Gaussian there."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_vble.inference.conjugate_gradient import ChannelPreconditioner, Vectors
from pyro_vble.inference.elimination import Measurement
from pyro_vble.inference.jacobian import Jacobian
from pyro_vble.inference.precision import reduced_precision, resolve_precision
from pyro_vble.inference.transposition import TransposableLayers
from pyro_vble.models.restoration import RestorationModel
from pyro_vble.seeding import seeded

# Draws of N(0, Λ) that tell the preconditioner of its matrix.
_PROBES = 32
# So many times more values of e than of latents, and no more, excuse what is left of the latents' equations.
_MOST_OF_E = 8


class Linearisation:
    r"""The Gaussian posterior N(v̄ + Λ⁻¹g, Λ⁻¹) of latents v = (h, z), were the model linear about v̄.

    .. math:: \Lambda = P + \sum_i J_i^\top W_i J_i, \qquad
        b = P^{1/2} \varepsilon + \sum_i J_i^\top W_i^{1/2} \varepsilon_i

    - what is measured: J = ∂A(D(z))/∂v; W the Fisher information of the noise, or what is left of it when an image's
      own part σe, with σ held at σ(z̄), is integrated out: see :class:`~pyro_vble.inference.elimination.Measurement`;
    - p(z|h): J = ∂(z - μ(h))/∂v, W = 1/s², with s² the variance;
    - its scale: J = ∂ log s/∂h, W = 2, the information that z has about it; its residual is taken for 0, for the z at
      the centre of a posterior says too little of its spread;
    - what depends on nothing (h, the z of a VAE): P its prior's precision, one over its variance.

    With white noise for the errors ε, Λ⁻¹b is a draw of N(0, Λ⁻¹); with the residuals at v̄ it is the step of Gauss and
    Newton to the mean. Both have an e that belongs to them.

    Args:
        model: The model, without unknown parameters of operator and noise.
        y: Measurement (B, ...).
        latents: v̄ by site, each (B, *event).
        copies: How many vectors of each image are multiplied at once.
        tolerance: Of the equations that products are for.

    Raises:
        ValueError: If the prior does not tell its latents' moments, or the noise has no information.
    """

    def __init__(
        self, model: RestorationModel, y: Tensor, latents: Mapping[str, Tensor], copies: int, tolerance: float = 1e-6
    ) -> None:
        shape = model.image_shape(y)
        e = latents.get("x_decentered")
        with torch.enable_grad(), TransposableLayers(copies):
            at = {name: v.detach().expand(copies, *v.shape).clone() for name, v in latents.items() if v is not e}
            at = {name: v.requires_grad_() for name, v in at.items()}
            moments = _moments(model.prior, shape, at)
            given = {name: m for name, m in moments.items() if m[1].requires_grad}
            alone = {name: m for name, m in moments.items() if name not in given}
            outputs = _predicted(model, shape, at, given)
            self._roots, self._residuals = {}, {}
            for name, (mean, variance) in given.items():
                std, scale = variance.detach().sqrt(), f"{name} scale"
                self._roots |= {name: 1 / std, scale: torch.full_like(std, 2**0.5)}
                self._residuals |= {name: (mean - at[name]).detach() / std, scale: torch.zeros_like(std)}
            self._inputs, self._jacobian = at, Jacobian(at, outputs)
            self._rough = None
            if resolve_precision("auto", model.prior, y.device) == "bfloat16":
                with reduced_precision("bfloat16", y.device):
                    moments = _moments(model.prior, shape, at)
                    rough = _predicted(model, shape, at, {name: moments[name] for name in given})
                self._rough = Jacobian(at, rough)
        self._precision = {name: (1 / variance).detach().expand_as(at[name]) for name, (_, variance) in alone.items()}
        for name, (mean, _) in alone.items():
            self._residuals[name] = self._precision[name].sqrt() * (mean - at[name]).detach()
        x, std = outputs["y"].detach(), None
        if e is not None:
            with torch.no_grad():
                std = model.prior.decode_std(latents["z"], shape)
            x = x + std * e
            self._residuals["x_decentered"] = -e.expand_as(x)
        self._measurement = Measurement(model, y, x, std, tolerance)
        self._residuals["y"] = self._measurement.residual

    def product(self, vectors: Vectors) -> Vectors:
        """Λ v."""
        return self._product(self._jacobian, vectors)

    @property
    def rough_product(self) -> Callable[[Vectors], Vectors] | None:
        """About Λ v, by networks in bfloat16; None where that is not fast."""
        return None if self._rough is None else functools.partial(self._product, self._rough)

    @property
    def eliminated(self) -> int:
        """Values of e in an image, for each of which a right-hand side of noise has size 1; of a few latents, fewer."""
        own = self._residuals.get("x_decentered")
        solved = sum(part[0, 0].numel() for part in self._inputs.values())
        return 0 if own is None else min(own[0, 0].numel(), _MOST_OF_E * solved)

    def noise(self) -> Vectors:
        """White noise for every error, with the random numbers that there are."""
        return {name: torch.randn_like(residual) for name, residual in self._residuals.items()}

    def residuals(self) -> Vectors:
        """The whitened residuals at v̄."""
        return self._residuals

    def right_hand_side(self, errors: Vectors) -> Vectors:
        """The vector b of whitened errors."""
        return self._right_hand_side(self._jacobian, errors)

    def completed(self, solution: Vectors, errors: Vectors) -> Vectors:
        """A solution Λ⁻¹b, with the e of the same errors."""
        if "x_decentered" not in errors:
            return solution
        seen = self._measurement.forward(self._jacobian.forward(solution)["y"])
        return solution | {"x_decentered": self._measurement.own(errors["x_decentered"], self._rest(errors) - seen)}

    def preconditioner(self) -> ChannelPreconditioner:
        """What is known of Λ from some draws of N(0, Λ), always the same."""
        least = self._precision | {name: root.square() for name, root in self._roots.items()}
        jacobian, copies = self._rough or self._jacobian, len(self._residuals["y"])
        with seeded(0):
            draws = [self._right_hand_side(jacobian, self.noise()) for _ in range(-(-_PROBES // copies))]
        drawn = {name: torch.cat([draw[name] for draw in draws]) for name in draws[0]}
        return ChannelPreconditioner(drawn, {name: least[name][0] for name in drawn})

    def _product(self, jacobian: Jacobian, vectors: Vectors) -> Vectors:
        predicted = jacobian.forward(vectors)
        weighted = {name: root.square() * predicted[name] for name, root in self._roots.items()}
        found = jacobian.transposed(weighted | {"y": self._measurement.information(predicted["y"])})
        for name, precision in self._precision.items():
            found[name] = found[name].addcmul(precision, vectors[name])
        return found

    def _right_hand_side(self, jacobian: Jacobian, errors: Vectors) -> Vectors:
        seen = self._measurement.transposed(self._measurement.solved(self._rest(errors)))
        found = jacobian.transposed({n: r * errors[n] for n, r in self._roots.items()} | {"y": seen})
        for name, precision in self._precision.items():
            found[name] = found[name] + precision.sqrt() * errors[name]
        return found

    def _rest(self, errors: Vectors) -> Tensor:
        own = errors.get("x_decentered")
        return errors["y"] if own is None else self._measurement.without_own(errors["y"], own)


def _predicted(
    model: RestorationModel, shape: tuple[int, int, int], at: Vectors, given: Mapping[str, tuple[Tensor, Tensor]]
) -> Vectors:
    """The decoded image, and what p(z|h) says of its latents."""
    outputs = {"y": model.prior.decode_mean(at["z"], shape)}
    for name, (mean, variance) in given.items():
        outputs |= {name: at[name] - mean, f"{name} scale": variance.log() / 2}
    return outputs


def _moments(prior: Any, shape: tuple[int, int, int], latents: Vectors) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and variance of every site given those that it depends on."""
    moments = dict(prior.latent_moments(latents, shape))
    if missing := latents.keys() - moments.keys():
        raise ValueError(
            "Linearised draws need a prior that tells mean and variance of its latents; received "
            f"{type(prior).__name__}, which does not of {', '.join(sorted(missing))}; define latent_moments."
        )
    return {name: moments[name] for name in latents}
