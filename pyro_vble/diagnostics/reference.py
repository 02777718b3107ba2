"""A gold standard at small size: Markov chains on the same model, started from the guide."""

import time
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import pyro
import torch
from pyro.infer import MCMC, NUTS
from torch import Tensor

from pyro_vble import metrics
from pyro_vble._arguments import Count, CountOrZero, Flag, Seed, brief, checked, one_of, whole_from
from pyro_vble._extras import extra
from pyro_vble._one_at_a_time import one_at_a_time
from pyro_vble._precision import exact_convolutions
from pyro_vble._tensors import RealTensor
from pyro_vble.diagnostics._coordinates import Coordinates
from pyro_vble.diagnostics._hmc import HMCState
from pyro_vble.diagnostics._source import OnePosterior
from pyro_vble.diagnostics._whitening import whitened_hmc
from pyro_vble.models.turned import turn_of
from pyro_vble.physics import operator_on
from pyro_vble.samples import ReferencePosterior, Samples
from pyro_vble.seeding import derived_seed, seeded

# Mean length of a trajectory, in standard deviations: a quarter of a turn of a harmonic oscillator.
_TRAJECTORY = 1.5708


@one_at_a_time
@checked
def reference_posterior(
    posterior: OnePosterior,
    *,
    num_samples: Annotated[int, whole_from(4)] = 300,
    num_warmup: CountOrZero = 300,
    num_chains: Count = 4,
    thinning: Count = 1,
    kernel: Annotated[str, one_of("hmc", "nuts")] = "hmc",
    max_tree_depth: Annotated[int, whole_from(1, 20)] = 7,
    seed: Seed | None = None,
    progress: Flag = True,
) -> ReferencePosterior:
    r"""Sample p(x, z, h | y) by Markov chains, on the model that a guide was fitted to.

    Chains start from draws of the guide, whose places and widths also make their coordinates: v = v̄ + a ε for every
    latent v, but for z of an autoencoder, which moves along with the mean and the width that its prior has at h.
    Chains know nothing else of the guide: what they converge to is the posterior of the model. This takes minutes
    where a fit takes seconds: it is for images of 32x32 to 64x64 pixels. ``convergence()`` of what is returned says how
    far they came.

    The kernel "hmc" is Hamiltonian Monte Carlo of all chains in one batch, so that a network is run once for all of
    them. "nuts" is Pyro's, chain after chain. Interrupted from the keyboard, "hmc" keeps the draws that it has.

    References:
        | MCMC using Hamiltonian dynamics (Neal, 2011)
        | https://arxiv.org/abs/1206.1901
        | The no-U-turn sampler (Hoffman and Gelman, 2014)
        | https://arxiv.org/abs/1111.4246

    Args:
        posterior: A fitted posterior of one image, with its operator. One of VBLE-xz has the image as a latent. Of
            several fits the chains start from each in turn.
        num_samples: Draws of each chain that are kept.
        num_warmup: Steps of each chain that adapt step size and mass matrix, and are dropped.
        num_chains: Number of chains.
        thinning: Keep every so many-th draw.
        kernel: "hmc" or "nuts".
        max_tree_depth: At most 2 to this power leapfrog steps a draw.
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
        torch.Size([4, 5, 1, 1, 28, 28])
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
    begin = time.perf_counter()
    exact = exact_convolutions(posterior.y.device)
    # A caller's autograd mode is not the chains': under inference_mode nothing would have a gradient.
    with torch.inference_mode(False), torch.enable_grad(), pyro.validation_enabled(False), exact:
        coordinates = Coordinates(posterior.fits, seed)
        if kernel == "nuts":
            chains = [
                _nuts(coordinates, chain, num_samples * thinning, num_warmup, max_tree_depth, seed, progress)
                for chain in range(num_chains)
            ]
            states, acceptances, divergent = (list(parts) for parts in zip(*chains, strict=True))
            positions, acceptance = torch.stack(states, 1)[thinning - 1 :: thinning], torch.stack(acceptances)
            num_divergent = sum(divergent)
        else:
            with seeded(derived_seed(seed, "chains")):
                how = {"trajectory": _TRAJECTORY, "max_steps": 2**max_tree_depth}
                total = num_samples * thinning
                transitions = whitened_hmc(coordinates, num_chains, num_samples=total, num_warmup=num_warmup, **how)
                kept = _kept(transitions, num_warmup + total, 4 * thinning, progress)
            positions = torch.stack([state.position for state in kept[thinning - 1 :: thinning]])
            acceptance = torch.stack([state.acceptance for state in kept]).mean(0)
            num_divergent = int(torch.stack([state.divergent for state in kept]).sum())
        with seeded(derived_seed(seed, "images")):
            drawn = [coordinates.images_and_latents(position) for position in positions]
    there, physics = posterior.output_device, posterior.physics
    out = lambda values: torch.stack(values, 1)[:, :, None].to(there)  # noqa: E731
    return ReferencePosterior(
        image=out([image for image, _ in drawn]),
        latents={name: out([latents[name] for _, latents in drawn]) for name in drawn[0][1]},
        y=posterior.y.to(there),
        physics=None if physics is None else operator_on(physics, there, posterior.y.dtype),
        seconds=time.perf_counter() - begin,
        acceptance=acceptance.cpu(),
        num_divergent=num_divergent,
    )


def _kept(transitions: Iterator[HMCState], total: int, enough: int, progress: bool) -> list[HMCState]:
    """States after warm-up; those that there are, if the keyboard interrupts and they are enough."""
    from tqdm.auto import tqdm

    kept = []
    try:
        for state in tqdm(transitions, total=total, desc="chains", unit="draw", disable=not progress, leave=False):
            if state.warm:
                kept.append(state)
    except KeyboardInterrupt:
        if len(kept) < enough:
            raise
    return kept


def _nuts(
    coordinates: Coordinates,
    chain: int,
    num_samples: int,
    num_warmup: int,
    max_tree_depth: int,
    seed: int,
    progress: bool,
) -> tuple[Tensor, Tensor, int]:
    """Positions (draws, dimensions) of one chain of Pyro's NUTS, its acceptance, and its number of divergences."""
    with seeded(derived_seed(seed, "chain", chain)):
        start = coordinates.start(chain + 1)[chain]
        sampler = NUTS(
            potential_fn=lambda at: -coordinates.log_density(at["position"][None])[0], max_tree_depth=max_tree_depth
        )
        mcmc = MCMC(
            sampler,
            num_samples=num_samples,
            warmup_steps=num_warmup,
            initial_params={"position": start},
            disable_progbar=not progress,
        )
        mcmc.run()
    found = mcmc.diagnostics()
    acceptance = torch.tensor(float(found["acceptance rate"]["chain 0"]))
    return mcmc.get_samples()["position"], acceptance, len(found["divergences"]["chain 0"])


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

    - ``mean``, ``std``: posterior mean and standard deviation, averaged over pixels
    - ``mean_error``: root mean square of mean less chains' mean, in chains' standard deviations
    - ``std_ratio``: median of standard deviation over chains'
    - ``coverage_90_of_chains``: share of the chains' draws that 90 % intervals hold
    - ``coverage_90``, ``psnr``: of the truth, where it is known
    - ``seconds``: where given
    - ``r_hat``, ``ess_bulk``: of the chains alone: independent draws have nothing to converge

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
