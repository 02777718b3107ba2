"""Would a wider p(x|z) make better error bars, and would the evidence choose it?

``python -m benchmarks.std_scale FOLDER --output results.json`` restores the middles of photographs with the prior's
standard deviation of x given z times a few factors, and prints PSNR, coverage and interval score of the nominal 90 %
interval, and the ELBO, which would choose the factor if it were inferred with the image.
"""

import argparse
from pathlib import Path

from torch import Tensor, nn

import pyro_vble as pv
from benchmarks.convergence import middles
from benchmarks.measuring import keep_table, kept_table
from benchmarks.photographs import problems
from pyro_vble.diagnostics import interval_score
from pyro_vble.inference.evidence import elbo_by_image
from pyro_vble.metrics import coverage, psnr
from pyro_vble.seeding import seeded


class Scaled(nn.Module):
    """A decoder of standard deviations, times a factor."""

    def __init__(self, decoder_std: nn.Module, factor: float) -> None:
        super().__init__()
        self.decoder_std, self.factor = decoder_std, factor

    def forward(self, z: Tensor) -> Tensor:
        """The standard deviation of x given z."""
        return self.factor * self.decoder_std(z)


def figures(x: Tensor, physics, prior_name: str, factor: float) -> dict[str, float]:
    """What comes of restorations with that factor."""
    with seeded(0):
        y = physics(x)
    prior = pv.load_prior(prior_name)
    prior.decoder_std = Scaled(prior.decoder_std, factor)
    posterior = pv.restore(y, physics, prior, seed=0, progress=False)
    with seeded(0):
        elbo = elbo_by_image(posterior.model, posterior.guide, posterior.y, precision=posterior.precision)
    return {
        "psnr": psnr(posterior.mmse_x(100), x),
        "coverage": coverage(posterior.interval(0.9, 100), x),
        "interval_score": float(interval_score(posterior, x, num_samples=100).mean()),
        "elbo": float(elbo.mean()),
    }


def main() -> None:
    """Restore, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--prior", default="cae-bsd")
    parser.add_argument("--factors", type=float, nargs="+", default=[0.7, 1.0, 1.5, 2.5])
    parser.add_argument("--problems", nargs="+", default=[""], help="only those whose name holds one of these words")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    x, table = middles(options.folder, options.images, options.side), kept_table(options.output)
    for problem, physics in problems(tuple(x.shape[1:])).items():
        if not any(word in problem for word in options.problems):
            continue
        for factor in map(str, options.factors):
            if factor in table.get(problem, {}):
                continue
            row = figures(x, physics, options.prior, float(factor))
            table.setdefault(problem, {})[factor] = row
            print(
                f"| {problem} | {factor} | {row['psnr']:.2f} dB | {row['coverage']:.1%} | {row['interval_score']:.3f} "
                f"| {row['elbo']:.0f} |",
                flush=True,
            )
            keep_table(options.output, {"prior": options.prior, "images": len(x), "side": options.side}, table)


if __name__ == "__main__":
    main()
