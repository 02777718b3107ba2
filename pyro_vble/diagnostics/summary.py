"""A posterior in a few rows: what ArviZ's summary is asked of an image."""

from typing import Any

from pyro_vble._arguments import Count, checked
from pyro_vble._tensors import OpenProbability
from pyro_vble.io.inference_data import quiet_arviz


@checked
def summary(idata: Any, *, patch: Count = 16, probability: OpenProbability = 0.9) -> Any:
    """Means, standard deviations and highest-density intervals of patch means and of scalars inferred with the image.

    ``arviz.summary`` prints a row a pixel: here the image is averaged over bands and patches first. R-hat and
    effective sample sizes are shown where there are several chains, which are independent fits or Markov chains:
    independent draws of one guide have nothing to converge.

    Args:
        idata: What ``to_arviz`` made.
        patch: Side of a patch, in pixels.
        probability: That of the intervals.

    Raises:
        TypeError: If ``idata`` has no posterior images.
        ValueError: If a patch is larger than the image.

    Example:
        >>> import torch, deepinv
        >>> import pyro_vble as pv
        >>> from pyro_vble.diagnostics import summary
        >>> physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))
        >>> posterior = pv.restore(torch.rand(1, 3, 64, 64), physics, "cae-bsd", num_steps=2, seed=0, progress=False)
        >>> summary(posterior.to_arviz(20, include=["posterior"]), patch=32).shape
        (4, 4)
    """
    with quiet_arviz():
        import arviz as az
    draws = getattr(idata, "posterior", None)
    if draws is None or "image" not in draws:
        raise TypeError(
            f"idata must hold posterior images, as posterior.to_arviz() makes it; received {type(idata).__name__}."
        )
    if patch > min(draws.sizes["row"], draws.sizes["col"]):
        raise ValueError(f"patch must fit into the image, {draws.sizes['row']}x{draws.sizes['col']}; received {patch}.")
    patches = draws["image"].mean("band").coarsen(row=patch, col=patch, boundary="trim").mean()
    patches.name = "patch mean"
    scalars = draws[[name for name in draws if draws[name].dims == ("chain", "draw", "image_batch")]]
    several = draws.sizes["chain"] > 1
    return az.summary(
        scalars.assign({"patch mean": patches}),
        hdi_prob=probability,
        kind="all" if several else "stats",
        round_to="none",
    )
