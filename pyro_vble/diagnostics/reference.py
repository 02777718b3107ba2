"""A gold standard at small size: Markov chains on the same model, started from the guide."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.infer import HMC, MCMC, NUTS
from torch import Tensor
from torch.distributions import biject_to, constraints

from pyro_vble import metrics
from pyro_vble._arguments import Count, CountOrZero, Flag, Seed, brief, checked, one_of, whole_from
from pyro_vble._extras import extra
from pyro_vble._one_at_a_time import one_at_a_time
from pyro_vble._precision import exact_convolutions
from pyro_vble._tensors import RealTensor
from pyro_vble.diagnostics._source import OnePosterior
from pyro_vble.inference.draws import latents_of
from pyro_vble.models.turned import turn_of
from pyro_vble.samples import Posterior, ReferencePosterior, Samples
from pyro_vble.seeding import derived_seed, seeded

if TYPE_CHECKING:
    pass

_PILOT_DRAWS = 200


@one_at_a_time
@checked
def reference_posterior(
    posterior: OnePosterior,
    *,
    num_samples: Annotated[int, whole_from(4)] = 300,
    num_warmup: CountOrZero = 300,
    num_chains: Count = 2,
    kernel: Annotated[str, one_of("nuts", "hmc")] = "nuts",
    max_tree_depth: Annotated[int, whole_from(1, 20)] = 7,
    seed: Seed | None = None,
    progress: Flag = True,
) -> ReferencePosterior:
    r"""Sample p(x, z, h | y) by Pyro's NUTS or HMC, on the model that a guide was fitted to.

    Every latent is sampled in the guide's own coordinates, :math:`v = \bar v + a\,\varepsilon` with centre and width
    estimated from its draws, and every chain starts from a draw of the guide. Chains know nothing else of it: what
    they converge to is the posterior of the model. This takes minutes where a fit takes seconds: it is for images of
    32x32 to 64x64 pixels.

    References:
        | The no-U-turn sampler (Hoffman and Gelman, 2014)
        | https://arxiv.org/abs/1111.4246

    Args:
        posterior: A fitted posterior of one image, with its operator. One of VBLE-xz has the image as a latent. Of
            several fits the chains start from each in turn.
        num_samples: Draws of each chain.
        num_warmup: Steps of each chain that adapt step size and mass matrix, and are dropped.
        num_chains: Number of chains, one after another.
        kernel: "nuts" or "hmc" (trajectories of length π/2).
        max_tree_depth: NUTS takes at most 2 to this power leapfrog steps a draw.
        seed: Seed; that of the posterior by default.
        progress: Whether to show a bar.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If there are several images, no operator, fewer than 4 draws a chain, from which no convergence can
            be told, or the kernel is unknown.

    Example:
        >>> import torch, deepinv
        >>> import pyro_vble as pv
        >>> physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.2))
        >>> y = torch.rand(1, 1, 28, 28)
        >>> posterior = pv.restore(y, physics, "vae-mnist", num_steps=20, seed=0, progress=False)
        >>> reference = pv.reference_posterior(posterior, num_samples=5, num_warmup=5, progress=False)
        >>> reference.image.shape
        torch.Size([2, 5, 1, 1, 28, 28])
    """
    if len(posterior.y) != 1:
        raise ValueError(f"Chains are for one image; received a batch of {len(posterior.y)}; restore one of them.")
    if posterior.model.physics is None:
        raise ValueError("Chains need the forward operator; pass physics=... to load_posterior.")
    turns = {turn_of(fit.model.prior) for fit in posterior.fits}
    if len(turns) > 1:
        raise ValueError(
            f"Chains are for one prior; received one that is averaged over {len(turns)} symmetries; pass one of its "
            "fits, posterior.fits[k]."
        )
    seed = posterior.lasting_seed(seed)
    start = time.perf_counter()
    targets = [_Target(fit, seed) for fit in posterior.fits]
    images, latents, acceptance, divergent = [], [], [], 0
    for chain in range(num_chains):
        target, exact = targets[chain % len(targets)], exact_convolutions(posterior.y.device)
        with seeded(derived_seed(seed, "chain", chain)), pyro.validation_enabled(False), exact:
            if kernel == "nuts":
                sampler = NUTS(potential_fn=target.potential, max_tree_depth=max_tree_depth)
            else:
                sampler = HMC(potential_fn=target.potential, trajectory_length=np.pi / 2)
            mcmc = MCMC(
                sampler,
                num_samples=num_samples,
                warmup_steps=num_warmup,
                initial_params=target.start(),
                disable_progbar=not progress,
            )
            mcmc.run()
            drawn = [target.values(one) for one in _unstacked(mcmc.get_samples())]
            images.append(torch.stack([target.image(values) for values in drawn]))
        latents.append({name: torch.stack([values[name] for values in drawn]) for name in drawn[0]})
        diagnostics = mcmc.diagnostics()
        acceptance.append(float(diagnostics["acceptance rate"]["chain 0"]))
        divergent += len(diagnostics["divergences"]["chain 0"])
    out = lambda value: value.to(posterior.output_device)  # noqa: E731
    return ReferencePosterior(
        image=out(torch.stack(images)),
        latents={name: out(torch.stack([chain[name] for chain in latents])) for name in latents[0]},
        y=out(posterior.y),
        physics=posterior.physics,
        seconds=time.perf_counter() - start,
        acceptance=torch.tensor(acceptance),
        num_divergent=divergent,
    )


@checked
def compare_with_reference(
    reference: ReferencePosterior,
    posteriors: Mapping,
    *,
    truth: RealTensor | None = None,
    num_samples: Count = 200,
    seconds: Mapping | None = None,
) -> Any:
    """Posteriors beside the chains, in one table.

    | column | what it is |
    |---|---|
    | ``mean``, ``std`` | posterior mean and standard deviation, averaged over pixels |
    | ``mean_error`` | root mean square of mean less chains' mean, in chains' standard deviations |
    | ``std_ratio`` | median of standard deviation over chains' |
    | ``coverage_90_of_chains`` | share of the chains' draws that 90 % intervals hold |
    | ``coverage_90``, ``psnr`` | of the truth, where it is known |
    | ``seconds`` | where given |
    | ``r_hat``, ``ess_bulk`` | of the chains alone: independent draws have nothing to converge |

    Args:
        reference: The chains.
        posteriors: Posteriors by name.
        truth: The true image.
        num_samples: Draws of each posterior.
        seconds: Their times, by name.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If posteriors or the truth are of other images than the chains.
    """
    with extra("diagnostics"):
        import pandas as pd
    shape = tuple(reference.image.shape[2:])
    for name, posterior in posteriors.items():
        if not isinstance(posterior, Samples) or tuple(posterior.shape) != shape:
            raise ValueError(
                f"posteriors must be by name, of the chains' image {shape}; received {brief(posterior)} as {name!r}."
            )
    if truth is not None and tuple(truth.shape) != shape:
        raise ValueError(f"truth must have the shape of the chains' image, {shape}; received {tuple(truth.shape)}.")

    rows = {}
    for name, posterior in posteriors.items():
        n = posterior.stored or num_samples
        mean, std = posterior.mmse_x(n), posterior.std(n)
        rows[name] = _row(reference, mean, std, posterior.interval(0.9, n), truth)
        rows[name]["seconds"] = (seconds or {}).get(name, float("nan"))
    own = _row(reference, reference.mmse_x(), reference.std(), reference.interval(0.9), truth)
    rows["chains"] = own | {"seconds": reference.seconds} | reference.convergence()
    return pd.DataFrame.from_dict(rows, orient="index")


def _row(
    reference: ReferencePosterior,
    mean: Tensor,
    std: Tensor,
    interval: tuple[Tensor, Tensor],
    truth: Tensor | None,
) -> dict[str, float]:
    low, high = interval
    scale = reference.std().clamp_min(1e-12)
    row = {
        "mean": float(mean.mean()),
        "std": float(std.mean()),
        "mean_error": float(((mean - reference.mmse_x()) / scale).square().mean().sqrt()),
        "std_ratio": float((std / scale).median()),
        "coverage_90_of_chains": float(((reference.samples >= low) & (reference.samples <= high)).double().mean()),
    }
    if truth is not None:
        row |= {"coverage_90": metrics.coverage(interval, truth), "psnr": metrics.psnr(mean, truth)}
    return row


class _Target:
    """The posterior's density in the guide's coordinates."""

    def __init__(self, posterior: Posterior, seed: int) -> None:
        self.posterior, self.model, self.y = posterior, posterior.model, posterior.y
        supports = {name: prior.support for name, prior in self.model.physics_priors.items()}
        with seeded(derived_seed(seed, "pilot")), torch.no_grad():
            pilot = latents_of(posterior.guide_trace(_PILOT_DRAWS))
        self.transforms = {name: biject_to(supports.get(name, constraints.real)) for name in pilot}
        free = {name: self.transforms[name].inv(value) for name, value in pilot.items()}
        self.centre = {name: value.mean(0) for name, value in free.items()}
        # A point mass has no width of its own.
        self.width = {name: value.std(0).clamp_min(1e-4) for name, value in free.items()}

    def start(self) -> dict[str, Tensor]:
        """A draw of the guide."""
        with torch.no_grad():
            drawn = latents_of(self.posterior.guide_trace(1))
        return {
            name: (self.transforms[name].inv(value[0]) - self.centre[name]) / self.width[name]
            for name, value in drawn.items()
        }

    def values(self, position: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Latents by site at a position."""
        return {name: self.transforms[name](value) for name, value in self._free(position).items()}

    def potential(self, position: Mapping[str, Tensor]) -> Tensor:
        """-log p(y, x, z, h) at a position, with the transforms' Jacobian."""
        free = self._free(position)
        values = {name: self.transforms[name](value) for name, value in free.items()}
        jacobian = sum(self.transforms[n].log_abs_det_jacobian(free[n], values[n]).sum() for n in free)
        trace = poutine.trace(poutine.condition(self.model, data=values)).get_trace(self.y)
        return -torch.as_tensor(trace.log_prob_sum() + jacobian)

    def _free(self, position: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Unconstrained latents at a position."""
        return {name: self.centre[name] + self.width[name] * value for name, value in position.items()}

    @torch.no_grad()
    def image(self, values: Mapping[str, Tensor]) -> Tensor:
        """The image that belongs to the latents."""
        image = poutine.condition(self.model.image, data=dict(values))(self.y)
        return image.expand(self.posterior.shape)


def _unstacked(samples: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    return [{name: value[i] for name, value in samples.items()} for i in range(len(next(iter(samples.values()))))]
