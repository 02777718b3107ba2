"""Would a wider p(x|z) make better error bars, and would the evidence choose it?

``python -m benchmarks.std_scale FOLDER --output results.json`` restores the middles of photographs with the prior's
standard deviation of x given z times a few factors, and prints PSNR, coverage and interval score of the nominal 90 %
interval, and the ELBO, which would choose the factor if it were inferred with the image.
"""

from torch import Tensor, nn

import pyro_vble as pv
from benchmarks.convergence import middles, parser_of_middles
from benchmarks.measuring import keep_table, kept_table
from benchmarks.photographs import problems
from pyro_vble.diagnostics import interval_score
from pyro_vble.inference.evidence import elbo_by_image
from pyro_vble.metrics import coverage, psnr
from pyro_vble.seeding import seeded


class Scaled(nn.Module):
    """A decoder of standard deviations, times a factor."""

    def __init__(self, decoder_std: nn.Module, factor: float = 1.0) -> None:
        super().__init__()
        self.decoder_std, self.factor = decoder_std, factor

    def forward(self, z: Tensor) -> Tensor:
        """The standard deviation of x given z."""
        return self.factor * self.decoder_std(z)


def figures(x: Tensor, physics, prior) -> dict[str, float]:
    """What comes of restorations with this prior."""
    with seeded(0):
        y = physics(x)
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
    parser = parser_of_middles(__doc__, images=12, side=64)
    parser.add_argument("--factors", type=float, nargs="+", default=[0.7, 1.0, 1.5, 2.5])
    options = parser.parse_args()
    x, table = middles(options.folder, options.images, options.side), kept_table(options.output)
    prior = pv.load_prior(options.prior)
    prior.decoder_std = scaled = Scaled(prior.decoder_std)
    for problem, physics in problems(tuple(x.shape[1:]), options.problems).items():
        for factor in map(str, options.factors):
            if factor in table.get(problem, {}):
                continue
            scaled.factor = float(factor)
            row = figures(x, physics, prior)
            table.setdefault(problem, {})[factor] = row
            print(
                f"| {problem} | {factor} | {row['psnr']:.2f} dB | {row['coverage']:.1%} | {row['interval_score']:.3f} "
                f"| {row['elbo']:.0f} |",
                flush=True,
            )
            keep_table(options.output, {"prior": options.prior, "images": len(x), "side": options.side}, table)


if __name__ == "__main__":
    main()
