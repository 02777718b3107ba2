"""Simulation-based calibration: is the posterior right on data from the model itself?"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch
from pyro import poutine
from torch import Tensor

from pyro_vble._arguments import BrokenRuleError, Count, Flag, Rule, Seed, brief, checked, whole
from pyro_vble._one_at_a_time import one_at_a_time
from pyro_vble._tensors import OpenProbability
from pyro_vble._traces import nodes_of
from pyro_vble.diagnostics._source import axes
from pyro_vble.inference import Problem
from pyro_vble.inference.draws import asked_for, latents_of
from pyro_vble.io.inference_data import quiet_arviz
from pyro_vble.io.priors import load_prior
from pyro_vble.metrics import patch_means
from pyro_vble.models import Prior
from pyro_vble.physics import fill_unobserved, likelihood, measure, observed_mask
from pyro_vble.restoration import restore
from pyro_vble.seeding import derived_seed, fresh_seed, seeded

# The image and its decentred self, which "x" stands for.
_IMAGE_SITES = ("x", "x_decentered")

#: Draws by name, "x" and the latents, each (*, B, *event).
Values = dict[str, Tensor]
#: Gives n images' truths by name, and their measurements.
Simulator = Callable[[int], tuple[Values, Tensor]]
#: Gives n draws by name for measurements (B, ...), each (n, B, *event).
Sampler = Callable[[Tensor, int], Values]
#: From draws (*, B, *event) by name to scalars (*, B, K); "y" among them is the measurement, (B, ...) always.
Quantity = Callable[[Values], Tensor]

#: Name of the measurement's log-likelihood among the quantities.
LOG_LIKELIHOOD = "log-likelihood"


def _shape(value: Any) -> tuple[int, int, int]:
    if not isinstance(value, tuple | list | torch.Size):
        raise BrokenRuleError("type")
    shape = tuple(whole(side) for side in value)
    if len(shape) != 3 or min(shape) < 1:
        raise BrokenRuleError("value")
    return shape


ImageShape = Annotated[tuple[int, int, int], Rule("the three positive sides (C, H, W) of an image", _shape)]


@dataclass(frozen=True)
class SBC:
    """Ranks of the truth among posterior draws.

    Attributes:
        ranks: By quantity, (num_simulations, K), from 0 to ``num_draws``; uniform if the posterior is right.
        num_draws: Number of posterior draws of each simulation.
    """

    ranks: dict[str, np.ndarray]
    num_draws: int

    @property
    def num_simulations(self) -> int:
        """Number of simulations."""
        return len(next(iter(self.ranks.values())))

    @property
    def _points(self) -> np.ndarray:
        return np.arange(1, self.num_draws + 1) / (self.num_draws + 1)

    @checked
    def ecdf_difference(self, quantity: str) -> tuple[np.ndarray, np.ndarray]:
        """Points of evaluation in [0, 1], and the ranks' ECDF less the uniform's there, averaged over K.

        Raises:
            ValueError: If there is no such quantity.
        """
        if quantity not in self.ranks:
            raise ValueError(f"quantity must be one of {', '.join(map(repr, self.ranks))}; received {quantity!r}.")
        below = [(self.ranks[quantity] < rank).mean() for rank in range(1, self.num_draws + 1)]
        return self._points, np.array(below) - self._points

    @checked
    def band(self, probability: OpenProbability = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper end of the simultaneous band of :meth:`ecdf_difference` of a calibrated posterior.

        It is for one rank a simulation. The K ranks of one simulation go together, more or less, so that their average
        leaves the band less often than that.
        """
        with quiet_arviz():
            from arviz.stats.ecdf_utils import ecdf_confidence_band
        low, high = ecdf_confidence_band(self.num_simulations, self._points, self._points, prob=probability)
        return low - self._points, high - self._points

    @checked
    def passes(self, probability: OpenProbability = 0.95) -> dict[str, bool]:
        """By quantity, whether its ECDF stays within the simultaneous band."""
        low, high = self.band(probability)
        within = {}
        for name in self.ranks:
            difference = self.ecdf_difference(name)[1]
            within[name] = bool(((difference >= low) & (difference <= high)).all())
        return within


@one_at_a_time
@checked
def sbc(
    simulator: Callable,
    sampler: Callable,
    quantities: Mapping,
    *,
    num_simulations: Count = 200,
    num_draws: Count = 99,
    batch_size: Count = 8,
    seed: Seed | None = None,
    progress: Flag = True,
) -> SBC:
    r"""Simulation-based calibration of any sampler on any simulator.

    .. math:: x \sim p(x), \quad y \sim p(y|x), \quad x^{(1..n)} \sim q(x|y), \qquad
        \mathrm{rank} = \#\{j : f(x^{(j)}) < f(x)\}

    If q is the posterior, ranks are uniform on 0..n, for every scalar f(x, y). They are so too, for every f of x alone,
    if q is the prior, which has learnt nothing from y: rank the log-likelihood of y among them, which tells.

    References:
        | Validating Bayesian inference algorithms with simulation-based calibration (Talts et al., 2018)
        | https://arxiv.org/abs/1804.06788
        | Simulation-based calibration checking for Bayesian computation: the choice of test quantities shapes
          sensitivity (Modrák et al., 2023)
        | https://arxiv.org/abs/2211.02383
        | Graphical test for discrete uniformity (Säilynoja et al., 2022), for the bands
        | https://arxiv.org/abs/2103.10522

    Args:
        simulator: From n to the truths of n images by name, and their measurements.
        sampler: From measurements (B, ...) and n to n draws by name.
        quantities: The scalars to rank, by name: functions of the truth or the draws by name, to which the measurement
            is added as "y".
        num_simulations: Number of simulated measurements.
        num_draws: Number of posterior draws of each.
        batch_size: Measurements sampled at once.
        seed: Seed.
        progress: Whether to show a bar.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If a number is not positive, or there is no quantity.

    Example:
        >>> import torch
        >>> from pyro_vble.diagnostics import sbc
        >>> def simulator(n):                            # x ~ N(0, 1), y ~ N(x, 1)
        ...     x = torch.randn(n, 1)
        ...     return {"x": x}, x + torch.randn(n, 1)
        >>> def sampler(y, n):                           # N(y/2, 1/2)
        ...     return {"x": y / 2 + 0.5**0.5 * torch.randn(n, *y.shape)}
        >>> quantities = {"x": lambda v: v["x"], "log-likelihood": lambda v: -(v["y"] - v["x"]).square()}
        >>> sbc(simulator, sampler, quantities, seed=0, progress=False).passes(0.999)
        {'x': True, 'log-likelihood': True}
    """
    if not quantities or not all(callable(quantity) for quantity in quantities.values()):
        raise ValueError(f"quantities must be one or more functions by name; received {brief(quantities)}.")
    from tqdm.auto import tqdm

    seed = fresh_seed() if seed is None else seed
    ranks: dict[str, list[Tensor]] = {name: [] for name in quantities}
    starts = range(0, num_simulations, batch_size)
    for index, start in enumerate(tqdm(starts, desc="SBC", unit="batch", disable=not progress, leave=False)):
        with seeded(derived_seed(seed, "simulation", index)), torch.no_grad():
            made = simulator(min(batch_size, num_simulations - start))
            if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], Mapping)):
                raise TypeError(
                    f"simulator must give truths by name, and measurements; received {brief(made)} from it."
                )
            (truth, y), draws = made, sampler(made[1], num_draws)
            if not isinstance(draws, Mapping):
                raise TypeError(f"sampler must give draws by name; received {brief(draws)} from it.")
            truth, draws = {"y": y, **truth}, {"y": y, **draws}
            for name, quantity in quantities.items():
                true, drawn = quantity(truth), quantity(draws)
                if not isinstance(true, Tensor) or not isinstance(drawn, Tensor) or drawn.shape[1:] != true.shape:
                    raise ValueError(
                        f"{name!r} of quantities must give a tensor (B, K) of the truths, and (n, B, K) of the draws; "
                        f"received {brief(true)} and {brief(drawn)} from it."
                    )
                # Ties are broken at random: of a point mass all draws are equal.
                below = (drawn < true).sum(0)
                ties = (drawn == true).sum(0)
                ranks[name].append(below + (torch.rand(below.shape, device=below.device) * (ties + 1)).floor().long())
    return SBC({name: torch.cat(parts).cpu().numpy() for name, parts in ranks.items()}, num_draws)


@one_at_a_time
@checked
def simulation_based_calibration(
    prior: Any,
    physics: Any,
    guide: Callable,
    *,
    image_shape: ImageShape,
    num_simulations: Count = 100,
    num_draws: Count = 99,
    batch_size: Count = 4,
    patch: Count = 8,
    num_pixels: Count = 16,
    num_latents: Count = 16,
    physics_priors: Mapping | None = None,
    linearised: Flag = False,
    seed: Seed | None = 0,
    progress: Flag = True,
    **settings: Any,
) -> SBC:
    """Simulation-based calibration of a guide: images from the prior, measurements from physics, fits by ``restore``.

    Ranked are some pixels ("pixel"), the means of all patches ("patch mean"), some values of the latents ("z", and with
    a CAE "h"), the parameters of ``physics_priors`` by name, and the measurement's log-likelihood
    ("log-likelihood"), without which a guide that ignores the measurement would pass. The images are those of the model
    that the guide approximates: with VBLE x = D(z), with VBLE-xz x ~ p(x|z).

    Args:
        prior: The prior, or its name.
        physics: The operator and its noise.
        guide: The guide, as for ``restore``.
        image_shape: (C, H, W) of the images.
        num_simulations: Number of images.
        num_draws: Posterior draws of each.
        batch_size: Images fitted at once.
        patch: Side of the patches, in pixels.
        num_pixels: Number of pixels, evenly spread.
        num_latents: Number of values of each latent, evenly spread.
        physics_priors: Priors of unknown parameters, which are then drawn and inferred too.
        linearised: Rank among the draws of ``posterior.linearised`` in place of the guide's own.
        seed: Seed.
        progress: Whether to show a bar.
        settings: Settings of ``restore`` that leave the model as it is.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If a setting would fit another model than the one simulated, or a patch does not fit into the image.

    Example:
        >>> import deepinv
        >>> import pyro_vble as pv
        >>> from pyro_vble.diagnostics import simulation_based_calibration
        >>> from pyro_vble.guides import VBLE
        >>> physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))
        >>> found = simulation_based_calibration(
        ...     "cae-bsd", physics, VBLE, image_shape=(3, 64, 64), num_simulations=4, num_draws=9, num_steps=2,
        ...     progress=False)
        >>> {name: ranks.shape for name, ranks in found.ranks.items()}
        {'pixel': (4, 16), 'patch mean': (4, 192), 'log-likelihood': (4, 1), 'h': (4, 16), 'z': (4, 16)}
    """
    changing = sorted(set(settings) & {"rate_scale", "kl_weight", "num_fits", "symmetries"})
    if changing:
        raise ValueError(
            f"Images are simulated from the model that is fitted; received {', '.join(changing)}, which would fit "
            "another; scale the prior itself: prior.with_rate_scale(s)."
        )

    if patch > min(image_shape[1:]):
        raise ValueError(f"patch must fit into the image, {image_shape[1]}x{image_shape[2]}; received {patch}.")
    prior = load_prior(prior) if isinstance(prior, str | os.PathLike) else prior
    if not isinstance(prior, Prior):
        raise TypeError(f"prior must be a generative prior, or the name of one; received {brief(prior)}.")
    if not callable(getattr(physics, "A", None)):
        raise TypeError(f"physics must have a method A, as a deepinv.physics.Physics has; received {brief(physics)}.")

    with torch.no_grad(), poutine.block():
        grey = torch.full((1, *image_shape), 0.5, **prior.tensor_options())
        try:
            one = physics.A(grey)
        except Exception as error:  # an operator may refuse in any way
            raise ValueError(
                f"image_shape must be that of images which the operator takes; received {image_shape}, at which it "
                f"gave {type(error).__name__}: {error}."
            ) from error
    model, _ = Problem(one, physics, prior, guide, image_shape, physics_priors or {}).build()

    def simulator(n: int) -> tuple[Values, Tensor]:
        trace = poutine.trace(model.measurement).get_trace(one.new_zeros(n, *one.shape[1:]))
        latents = {name: value for name, value in latents_of(trace).items() if name not in _IMAGE_SITES}
        p_y = nodes_of(trace)["_RETURN"]["value"]
        y = p_y.sample()
        log_likelihood = p_y.mask(observed_mask(physics, y)).log_prob(y)
        return {"x": nodes_of(trace)["x"]["value"], LOG_LIKELIHOOD: _total(log_likelihood, 1)} | latents, y

    def sampler(y: Tensor, n: int) -> Values:
        own_seed = fresh_seed()
        options = {"seed": own_seed, "image_shape": image_shape, "physics_priors": physics_priors, "progress": False}
        with torch.enable_grad():
            posterior = restore(y, physics, prior, guide, **(options | settings))
        if posterior.interrupted:  # half a fit would be ranked as if it were one
            raise KeyboardInterrupt
        if linearised:
            (chain,) = posterior.linearised(n).chains(n, seed=own_seed)
            parts = [
                {"x": chunk.image, LOG_LIKELIHOOD: _of_images(physics, y, chunk.image.to(y.device))} | chunk.latents
                for chunk in chain
            ]
        else:
            parts = [
                {"x": chunk.image, LOG_LIKELIHOOD: _total(asked_for(chunk.log_likelihood), 2)} | chunk.latents
                for chunk in posterior.draws(n, seed=own_seed)
            ]
        names = [name for name in parts[0] if name not in _IMAGE_SITES[1:]]
        return {name: torch.cat([part[name] for part in parts]).to(y.device) for name in names}

    with torch.no_grad():
        sites = simulator(1)[0]
    quantities: dict[str, Quantity] = {
        "pixel": lambda v: spread(v["x"].flatten(-3), num_pixels),
        "patch mean": lambda v: patch_means(v["x"], patch).flatten(-3),
        LOG_LIKELIHOOD: lambda v: v[LOG_LIKELIHOOD],
    }
    for name, value in sites.items():
        if name not in ("x", LOG_LIKELIHOOD):
            quantities[name] = partial(_some, name=name, event_dim=value.dim() - 1, count=num_latents)
    return sbc(
        simulator,
        sampler,
        quantities,
        num_simulations=num_simulations,
        num_draws=num_draws,
        batch_size=batch_size,
        seed=seed,
        progress=progress,
    )


@checked
def plot_sbc(found: SBC, *, probability: OpenProbability = 0.95, ax: Any = None) -> Any:
    """Draw every quantity's ECDF difference within the simultaneous band; returns the axes."""
    ax = axes(ax, (5.2, 3.6))
    low, high = found.band(probability)
    for index, name in enumerate(found.ranks):
        points, difference = found.ecdf_difference(name)
        if index == 0:
            label = f"calibrated, {probability:.0%} of whole curves"
            ax.fill_between(points, low, high, step="post", color="0.85", linewidth=0, label=label)
        ax.step(points, difference, where="post", label=name)
    ax.axhline(0, color="0.4", linewidth=1)
    ax.set(xlim=(0, 1), xlabel="rank of the truth, scaled to [0, 1]", ylabel="ECDF less uniform")
    ax.set_title(f"Simulation-based calibration, {found.num_simulations} simulations")
    ax.legend(frameon=False)
    return ax


def spread(values: Tensor, count: int) -> Tensor:
    """Some of the values along the last dimension, evenly spread."""
    total = values.shape[-1]
    # In double precision: a float holds whole numbers up to 2^24 only.
    chosen = torch.linspace(0, total - 1, min(count, total), dtype=torch.float64, device=values.device)
    return values[..., chosen.round().long()]


def _total(log_likelihood: Tensor, leading: int) -> Tensor:
    """Log-likelihoods (*, B, 1) of measurements, of those of their values (*, B, ...), ``leading`` dimensions first."""
    return log_likelihood.flatten(leading).sum(-1, keepdim=True)


def _of_images(physics: Any, y: Tensor, images: Tensor) -> Tensor:
    """Log-likelihoods (n, B, 1) of a measurement, given images (n, B, C, H, W)."""
    totals, observed = [], observed_mask(physics, y)
    for x in images:
        p_y = likelihood(physics, measure(physics, x), event_dim=y.dim() - 1).mask(observed)
        totals.append(_total(p_y.log_prob(fill_unobserved(y, observed)), 1))
    return torch.stack(totals)


def _some(values: Values, name: str, event_dim: int, count: int) -> Tensor:
    """Some values of a latent, (*, B, K)."""
    value = values[name]
    return spread(value.flatten(-event_dim), count) if event_dim else value[..., None]
