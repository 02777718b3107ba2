"""Where a restoration's error comes from: the problem, the prior's decoder, or the search."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vble._arguments import Count, CountOrZero, Flag, Seed, brief, checked
from pyro_vble._one_at_a_time import one_at_a_time
from pyro_vble._tensors import RealTensor
from pyro_vble.diagnostics._source import OnePosterior
from pyro_vble.fitting import fit
from pyro_vble.guides.abilities import check_can_scatter, scatter
from pyro_vble.guides.building import build_guide
from pyro_vble.guides.reference import maker_of, reference_of
from pyro_vble.inference.precision import network_precision
from pyro_vble.metrics import BORDER, inner
from pyro_vble.models import Prior, RestorationModel
from pyro_vble.samples import Fitted, Posterior
from pyro_vble.seeding import derived_seed, fresh_seed, seeded

#: The parts, and the error that is to be explained.
PARTS = ("error", "uncertainty", "representation", "optimisation")
_TITLES = {
    "error": "error of the estimate",
    "uncertainty": "uncertainty: posterior std",
    "representation": "representation: truth less\nits projection",
    "optimisation": "optimisation: estimate less\nthat of the best fit",
}
# Of the largest values so many are beyond the colours of a figure.
_TAIL = 0.995


@dataclass(frozen=True)
class ErrorBudget:
    """Three errors of a restoration, told apart, and the whole. They are no summands of it.

    Attributes:
        error: |x̂ - x*|, (B, C, H, W); NaN where the truth is unknown, here and below.
        uncertainty: The posterior's standard deviation: what the measurement leaves open.
        representation: |x* - P x*|, with P x* the nearest image in the decoder's range: what no latent can be.
        optimisation: |x̂ - x̂'|, with x̂' the estimate of the fit of largest ELBO: what a better search would change.
        elbo: Of every fit its ELBO at λ = 1, in nats, (B,), by name: "given", and those that were made to compare with.
        distance: Of every fit the root mean square of its estimate less x̂', (B,), by name.
        border: Pixels that root mean squares leave out.
    """

    error: Tensor
    uncertainty: Tensor
    representation: Tensor
    optimisation: Tensor
    elbo: dict[str, Tensor]
    distance: dict[str, Tensor]
    border: int

    @property
    def rms(self) -> dict[str, Tensor]:
        """Root mean squares of the three and of the error, (B,) each, less the border."""
        return {part: _rms(getattr(self, part), self.border) for part in PARTS}


class _StartedAtTruth(RestorationModel):
    """The same model, whose guides start at the encoding of an image in place of a first guess."""

    def __init__(self, model: RestorationModel, y: Tensor, truth: Tensor) -> None:
        super().__init__(
            model.prior,
            model.physics,
            latent_image=model.latent_image,
            image_shape=model.image_shape(y),
            physics_priors=model.physics_priors,
        )
        self._truth = truth

    @torch.no_grad()
    def initial_latents(self, y: Tensor) -> dict[str, Tensor]:
        """The encoding of the truth."""
        return self.prior.encode(self._truth)


@one_at_a_time
@checked
def error_budget(
    posterior: OnePosterior,
    truth: RealTensor,
    *,
    num_samples: Count = 100,
    num_restarts: CountOrZero = 2,
    from_truth: Flag = True,
    projection_steps: Count = 200,
    border: CountOrZero = BORDER,
    seed: Seed | None = None,
    progress: Flag = False,
    **settings: Any,
) -> ErrorBudget:
    r"""Tell apart what the measurement leaves open, what the decoder cannot make, and what the fit has not found.

    .. math:: \mathrm{std}[x|y], \qquad \lvert x^* - D(\hat z) \rvert, \quad
        \hat z = \arg\min_z \lVert x^* - D(z) \rVert^2, \qquad \lvert \hat x - \hat x' \rvert

    For the last, the guide is fitted again, longer: from the usual start, from starts that are scattered, and from the
    encoding of the truth; :math:`\hat x'` is the estimate of the largest ELBO, image by image, the given fit's among
    them. All estimates are means of samples of one seed, so that their differences have little noise. If the fit from
    the truth has the largest ELBO and another estimate, the search is to blame; if it has the smaller, the model is.

    The projection is local, by L-BFGS from the encoding of the truth.

    Args:
        posterior: The posterior. Of several fits, the first one's guide is fitted again.
        truth: The true image (B, C, H, W); NaN where it is unknown.
        num_samples: Samples behind estimates and standard deviations, and behind ELBOs.
        num_restarts: How many of the fits start scattered.
        from_truth: Whether one of the fits starts at the encoding of the truth.
        projection_steps: Iterations of L-BFGS.
        border: Pixels that root mean squares leave out at the border.
        seed: Seed of fits and samples.
        progress: Whether to show bars.
        settings: Settings of :func:`pyro_vble.fit`; ``quality="accurate"`` unless told. A tempered posterior needs its
            ``kl_weight`` again.

    Raises:
        TypeError: If an argument has a wrong type, or the guide cannot be built again by name.
        ValueError: If the truth has another shape than the image, or no known value, the operator is not known, or
            restarts are asked for of a guide that cannot be scattered.

    Example:
        >>> import torch, deepinv
        >>> import pyro_vble as pv
        >>> from pyro_vble.diagnostics import error_budget
        >>> physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))
        >>> x = torch.rand(1, 1, 28, 28)
        >>> posterior = pv.restore(physics(x), physics, "vae-mnist", num_steps=5, progress=False, seed=0)
        >>> budget = error_budget(posterior, x, num_restarts=1, num_steps=5, num_samples=4)
        >>> sorted(budget.elbo)
        ['first guess', 'given', 'scattered 1', 'truth']
    """
    _check(posterior, truth)
    first = posterior.fits[0]
    seed = fresh_seed() if seed is None else seed
    truth = truth.to(first.y)
    known = truth.isfinite()
    filled = torch.where(known, truth, first.mmse_z.to(first.y))
    fits: dict[str, Fitted] = {"given": posterior}
    fits |= _fitted_again(first, filled, num_restarts, from_truth, seed, {"progress": progress, **settings})
    how = {"num_samples": num_samples, "seed": seed}
    estimates = {name: one.mmse_x(**how).to(truth) for name, one in fits.items()}
    elbo = {name: _elbo(one.fits[0], num_samples, seed) for name, one in fits.items()}
    best = torch.stack(list(elbo.values())).argmax(0)
    nearest = torch.stack(list(estimates.values()))[best, torch.arange(len(truth), device=best.device)]
    away = {name: torch.where(known, (one - nearest).abs(), torch.nan) for name, one in estimates.items()}
    uncertainty = posterior.std(**how).to(truth)
    projected = projection(first.model.prior, filled, known, num_steps=projection_steps)
    maps = {
        "error": estimates["given"] - truth,
        "uncertainty": torch.where(known, uncertainty, torch.nan),
        "representation": projected - truth,
        "optimisation": away["given"],
    }
    out = {name: value.abs().to(posterior.output_device) for name, value in maps.items()}
    distance = {name: _rms(value, border).cpu() for name, value in away.items()}
    return ErrorBudget(
        **out, elbo={name: value.cpu() for name, value in elbo.items()}, distance=distance, border=border
    )


def projection(prior: Prior, x: Tensor, known: Tensor, *, num_steps: int) -> Tensor:
    """The image in the decoder's range nearest to x where it is known, from the encoding of x; (B, C, H, W)."""
    shape = (x.shape[1], x.shape[2], x.shape[3])
    with torch.inference_mode(False), torch.enable_grad(), network_precision("float32", x.device):
        x = x.clone()
        with torch.no_grad():
            start = prior.encode(x)["z"]
        z = start.clone().requires_grad_()
        search = torch.optim.LBFGS([z], max_iter=num_steps, history_size=20, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            search.zero_grad()
            squares = (torch.where(known, prior.decode_mean(z, shape) - x, 0.0) ** 2).sum()
            squares.backward()
            return squares

        search.step(loss)
        with torch.no_grad():
            return prior.decode_mean(z, shape)


@checked
def plot_error_budget(budget: ErrorBudget, *, image: CountOrZero = 0, title: str = "") -> Any:
    """Draw the error of one image and its three parts on one scale, their root mean squares, and the fits; the figure.

    Raises:
        ValueError: If there is no such image.
    """
    import matplotlib.pyplot as plt

    if image >= len(budget.error):
        raise ValueError(f"image must be less than {len(budget.error)}, the number of images; received {image}.")
    maps = {part: getattr(budget, part)[image].detach().float().cpu().mean(0) for part in PARTS}
    shown = torch.cat([value[value.isfinite()] for value in maps.values()])
    top = float(shown.quantile(_TAIL)) if shown.numel() < 1 << 24 else float(shown.max())
    figure = plt.figure(figsize=(13.5, 5.6), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(1.35, 1))
    upper, lower = parts
    axes = upper.subplots(1, len(PARTS))
    rms = {part: float(value[image]) for part, value in budget.rms.items()}
    for axis, (part, value) in zip(axes, maps.items(), strict=True):
        drawn = axis.imshow(value.numpy(), cmap="magma", vmin=0, vmax=top, interpolation="nearest")
        axis.set(xticks=[], yticks=[])
        axis.set_title(_TITLES[part], fontsize=9)
    upper.colorbar(drawn, ax=axes, label="image in [0, 1]", fraction=0.03)
    bars, fits = lower.subplots(1, 2)
    bars.barh(list(rms), list(rms.values()), color=["0.4", "C0", "C1", "C2"])
    bars.invert_yaxis()
    bars.set(xlabel="root mean square (image in [0, 1])")
    largest = max(float(value[image]) for value in budget.elbo.values())
    for k, name in enumerate(budget.elbo):
        fits.plot(
            float(budget.distance[name][image]),
            float(budget.elbo[name][image]) - largest,
            "o",
            color=f"C{k}",
            label=name,
        )
    fits.set(xlabel="estimate less that of the best fit (rms)", ylabel="ELBO less the largest")
    fits.legend(frameon=False, fontsize=8)
    if title:
        figure.suptitle(title, fontsize=11, parse_math=False)
    return figure


def _check(posterior: Fitted, truth: Tensor) -> None:
    if tuple(truth.shape) != posterior.shape:
        raise ValueError(f"truth must have the shape of the image, {posterior.shape}; received {brief(truth)}.")
    if not bool(truth.isfinite().any()):
        raise ValueError("truth must have a known value; received one of NaN alone.")
    if posterior.physics is None:
        raise ValueError(
            "Fits to compare with need the forward operator, which is not saved with a posterior; pass physics=... to "
            "load_posterior."
        )


def _fitted_again(
    first: Posterior, truth: Tensor, num_restarts: int, from_truth: bool, seed: int, settings: dict[str, Any]
) -> dict[str, Posterior]:
    """Fits from the usual start, from scattered ones, and from the encoding of the truth."""
    maker = first.maker or maker_of(**reference_of(first.guide))
    settings = {"quality": "accurate", "precision": first.precision, **settings}
    models = {"first guess": first.model}
    models |= {f"scattered {k + 1}": first.model for k in range(num_restarts)}
    if from_truth:
        models["truth"] = _StartedAtTruth(first.model, first.y, truth)
    found = {}
    for k, (name, model) in enumerate(models.items()):
        guide = build_guide(maker, model, first.y)
        if name.startswith("scattered"):
            check_can_scatter(guide)
            with seeded(derived_seed(seed, "scatter", k)):
                scatter(guide, model, first.y)
        found[name] = fit(model, guide, first.y, seed=derived_seed(seed, "fit", k), **settings)
    return found


def _elbo(one: Posterior, num_samples: int, seed: int) -> Tensor:
    """The ELBO at λ = 1 of every image, (B,)."""
    weights = torch.cat([draws.log_weights for draws in one.draws(num_samples, seed=seed)])
    return weights.double().mean(0)


def _rms(value: Tensor, border: int) -> Tensor:
    return inner(value, border).double().square().flatten(1).nanmean(1).sqrt()
