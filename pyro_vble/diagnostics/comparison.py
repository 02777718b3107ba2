"""Guides against each other, on one measurement."""

import math
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_vble import metrics
from pyro_vble._arguments import Count, Flag, Seed, brief, checked, whole_from
from pyro_vble._extras import extra
from pyro_vble._streaming import EXACT_SAMPLES
from pyro_vble._tensors import RealTensor
from pyro_vble.diagnostics.psis import bounded_sites, k_hat_limit, smoothed_weights
from pyro_vble.diagnostics.sbc import spread
from pyro_vble.guides.abilities import guide_name
from pyro_vble.inference.draws import asked_for
from pyro_vble.io.inference_data import arviz
from pyro_vble.physics import observed_mask
from pyro_vble.restoration import restore
from pyro_vble.samples import Posterior


@checked
def compare_guides(
    y: Any,
    physics: Any,
    prior: Any,
    guides: Any,
    *,
    truth: RealTensor | None = None,
    num_samples: Annotated[int, whole_from(25)] = 200,
    block: Count = 1,
    max_units: Count = 4096,
    seed: Seed = 0,
    progress: Flag = True,
    **settings: Any,
) -> Any:
    r"""Fit several guides to one measurement, and compare them in one table, the best expected prediction first.

    - ``elbo``, ``elbo_error``: E_q[log p(y, x, z, h) - log q] at λ = 1 and its Monte Carlo error, in nats. Guides with
      and without a latent image have different models: theirs compare as models do
    - ``k_hat``: shape of the importance weights' tail, of the worst image: see :func:`importance_sampling`. Infinite
      for a guide of bounded support, whose weights cannot tell of what lies outside
    - ``elpd_loo``, ``elpd_error``: expected log predictive density of unseen blocks of y, in nats, by PSIS-LOO
    - ``elpd_diff``, ``elpd_diff_error``, ``weight``: from ``arviz.compare``: less than the best; stacking weight
    - ``high_k``: share of the blocks whose leave-one-out weights are unreliable (k-hat over its limit); all for a guide
      of bounded support
    - ``coverage_90``, ``psnr``: of central 90 % intervals and of MMSE-x, where the truth is known
    - ``seconds``: of the fit

    A unit that is left out is a block of ``block`` x ``block`` measured pixels, all bands together; of a large
    measurement only ``max_units``, evenly spread, are left out, and the densities are theirs. Weights are those of the
    guide's own draws: what is estimated is the prediction of the approximation, not of the exact posterior.

    The larger the block, the more its loss moves the posterior, and the less leave-one-out weights can tell of it: on
    photographs a hundredth of single pixels had unreliable weights, a third of 2x2 blocks, nearly all of 4x4. A
    measurement that is no image is cut into runs of ``block**2`` values. A guide without spread (MAPz) has no
    predictive density, and comes last.

    References:
        | Practical Bayesian model evaluation using leave-one-out cross-validation and WAIC (Vehtari et al., 2017)
        | https://arxiv.org/abs/1507.04544

    Args:
        y: Measurement (B, ...).
        physics: The operator and its noise.
        prior: The prior, or its name.
        guides: The guides, as for ``restore``, in a list or by name in a mapping; without names, named by their classes
            and options.
        truth: The true image (B, C, H, W).
        num_samples: Draws of each guide, 25 at least.
        block: Side of a block, in measured pixels.
        max_units: Largest number of blocks.
        seed: Seed of fits and draws.
        progress: Whether to show bars.
        settings: Settings of ``restore``.

    Returns:
        A table, a row a guide.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If there is no guide, two are of one name, several fits of each are asked for, or the truth has
            another shape than the image.

    Example:
        >>> import torch, deepinv
        >>> import pyro_vble as pv
        >>> from pyro_vble.guides import VBLE, VBLExz
        >>> physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))
        >>> table = pv.compare_guides(torch.rand(1, 3, 64, 64), physics, "cae-bsd", [VBLE, VBLExz], num_samples=30,
        ...                           num_steps=3, progress=False)
        >>> sorted(table.index)
        ['VBLE', 'VBLExz']
    """
    az = arviz()
    with extra("diagnostics"):
        import pandas as pd

    collection = isinstance(guides, Mapping | Sequence) and not isinstance(guides, str)
    members: list[Any] = list(guides.values() if isinstance(guides, Mapping) else guides) if collection else []
    if not collection or not all(callable(guide) for guide in members):
        raise TypeError(
            f"guides must be a list of guides, or a mapping from names to guides; received {brief(guides)}; write "
            "[VBLE, VBLExz]."
        )
    named = dict(guides) if isinstance(guides, Mapping) else {guide_name(guide): guide for guide in members}
    if not named or len(named) < len(members):
        names = ", ".join(map(guide_name, members)) or "none"
        raise ValueError(
            f"guides must be one or more, of different names; received {names}; "
            'name them: guides={"a": ..., "b": ...}.'
        )
    if settings.get("num_fits", 1) != 1:
        raise ValueError("Guides are compared fit by fit: a mixture of fits has no ELBO; leave num_fits out.")
    if settings.get("symmetries") is not None:
        raise ValueError("Guides are compared fit by fit: a mixture over symmetries has no ELBO; leave symmetries out.")
    rows, losses = {}, {}
    for name, guide in named.items():
        start = time.perf_counter()
        posterior = restore(y, physics, prior, guide, seed=seed, progress=progress, **settings)
        seconds = time.perf_counter() - start
        if posterior.interrupted:  # half a fit compares with none
            raise KeyboardInterrupt
        if truth is not None and tuple(truth.shape) != posterior.shape:
            raise ValueError(
                f"truth must have the shape of the image, {posterior.shape}; received {tuple(truth.shape)}."
            )
        rows[name], losses[name] = _evaluated(posterior.fits[0], truth, num_samples, block, max_units)
        rows[name]["seconds"] = seconds
    table = pd.DataFrame.from_dict(rows, orient="index")
    losses = {name: loss for name, loss in losses.items() if loss is not None}
    if len(losses) > 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compared = az.compare(losses, ic="loo", seed=seed)
        compared["weight"] /= compared["weight"].sum()  # ArviZ's solver lets them sum to one within 1e-5
        columns = {"elpd_diff": "elpd_diff", "dse": "elpd_diff_error", "weight": "weight"}
        table = table.join(compared[list(columns)].rename(columns=columns))
        table = table.loc[[*compared.index, *(name for name in table.index if name not in compared.index)]]
    order = [c for c in _COLUMNS if c in table]
    return table[order]


_COLUMNS = (
    "elbo",
    "elbo_error",
    "k_hat",
    "elpd_loo",
    "elpd_error",
    "elpd_diff",
    "elpd_diff_error",
    "weight",
    "high_k",
    "coverage_90",
    "psnr",
    "seconds",
)


def _evaluated(
    posterior: Posterior, truth: Tensor | None, num_samples: int, block: int, max_units: int
) -> tuple[dict[str, float], Any]:
    """A guide's row, and its leave-one-out result."""
    az = arviz()
    observed = observed_mask(posterior.model.physics, posterior.y)
    weights, blocks = [], []
    for chunk in posterior.draws(num_samples):
        weights.append(chunk.log_weights)
        units = block_sums(asked_for(chunk.log_likelihood), observed, block)
        blocks.append(spread(units, max_units).cpu())
    log_weights = torch.cat(weights).double()
    total = log_weights.sum(1)
    row = {"elbo": float(total.mean()), "elbo_error": float(total.std() / len(total) ** 0.5)}
    loss = None
    if bool((total != total[0]).any()):  # a point mass has no leave-one-out weights
        idata = az.from_dict(log_likelihood={"y": torch.cat(blocks).numpy()[None]})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # unreliable blocks are counted in a column of their own
            loss = az.loo(idata, pointwise=True, reff=1.0)
        bounded = bool(bounded_sites(posterior))
        row |= {
            "k_hat": math.inf if bounded else float(smoothed_weights(log_weights)[1].max()),
            "elpd_loo": float(loss.elpd_loo),
            "elpd_error": float(loss.se),
            "high_k": 1.0 if bounded else float((loss.pareto_k > k_hat_limit(num_samples)).mean()),
        }
    if truth is not None:
        few = min(num_samples, EXACT_SAMPLES)  # more would change neither figure, at several times the cost
        row["coverage_90"] = metrics.coverage(posterior.interval(0.9, few), truth)
        row["psnr"] = metrics.psnr(posterior.mmse_x(few), truth)
    return row, loss


def block_sums(values: Tensor, observed: Tensor, block: int) -> Tensor:
    """Sums (n, units) over blocks of values (n, B, ...); blocks without an observed value (B, ...) are left out."""
    seen = _pooled(observed[None].to(values), block)[0] > 0
    return _pooled(values, block)[:, seen]


def _pooled(values: Tensor, block: int) -> Tensor:
    """Sums over blocks, (n, all blocks of all images)."""
    n, size = len(values), values.shape[1]
    if values.dim() == 5:
        flat = values.sum(2).reshape(n * size, 1, *values.shape[-2:])
        height, width = flat.shape[-2:]
        flat = F.pad(flat, (0, -width % block, 0, -height % block))
        return (F.avg_pool2d(flat, block) * block**2).reshape(n, -1)
    flat = values.reshape(n, size, -1)
    flat = F.pad(flat, (0, -flat.shape[-1] % block**2))
    return flat.unflatten(-1, (-1, block**2)).sum(-1).reshape(n, -1)
