"""Priors as codecs and as densities, beside classical codecs at their best setting under the very same loss.

``python -m benchmarks.zoo FOLDER --priors cae-bsd FILE --images 16 --output results.json`` prints for every prior
alpha·255²·MSE + bits per pixel, with rounded latents as a codec has them and with the encoder's noise as its training
has them, and the evidence lower bound. alpha is the first prior's, or ``--alpha``. NAME:0.7 is a prior at that rate
scale.
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import pyro_vble as pv
from benchmarks.codecs import CODECS, best
from benchmarks.measuring import keep_table
from pyro_vble.io.images import evenly_spaced
from pyro_vble.models import CAE, networks
from pyro_vble.seeding import seeded
from pyro_vble.training import NegativeELBO, read_images
from pyro_vble.training.objective import SiteOfImages


@dataclass(frozen=True)
class Figures:
    """What coding an image costs and loses; of several images, means.

    Attributes:
        loss: alpha·255²·MSE + bits per pixel; None where there is no code.
        bpp: Bits per pixel; None where there is no code.
        psnr: Of the decoded image, in dB.
        elbo: Lower bound of log2 p(x), bits per pixel; None but for a prior under its encoder.
    """

    loss: float | None
    bpp: float | None
    psnr: float
    elbo: float | None = None


def figures(mse: float, bpp: float, alpha: float, elbo: float | None = None) -> Figures:
    """The figures of one image."""
    return Figures(alpha * 255**2 * mse + bpp, bpp, _decibels(mse), elbo)


def rounded(prior: CAE, x: Tensor, alpha: float) -> Figures:
    """An image (1, 3, H, W) with its latents rounded, as a codec has them, at the rate of its entropy models."""
    rows, columns = x.shape[-2:]
    decoded, bits = networks.quantized_autoencoding(prior.network.eval(), prior.rate_scale * prior.padded(x))
    decoded = (decoded[..., :rows, :columns] / prior.rate_scale).clamp(0, 1)
    mse = float((decoded - x).square().mean())
    return figures(mse, bits / (rows * columns), alpha)


def with_noise(prior: CAE, x: Tensor, alpha: float) -> Figures:
    """An image (1, 3, H, W) with the encoder's noise: the terms of the ELBO."""
    with SiteOfImages() as site:
        terms = site.terms(NegativeELBO(prior)(x))
    return figures(float(terms.mse), float(terms.rate), alpha, -float(terms.loss))


def centres(prior: CAE, x: Tensor, alpha: float) -> Figures:
    """An image (1, 3, H, W) decoded from the middle of its encoding, which no code can tell: PSNR alone."""
    mse = float((prior.decode_mean(prior.encode(x)["z"], (3, *x.shape[-2:])).clamp(0, 1) - x).square().mean())
    return Figures(None, None, _decibels(mse))


#: Ways to take an image through a prior.
WAYS: dict[str, Callable[[CAE, Tensor, float], Figures]] = {
    "rounded": rounded,
    "encoder's noise": with_noise,
    "centres": centres,
}


@torch.no_grad()
def of_prior(prior: CAE, images: list[Tensor], alpha: float) -> dict[str, Figures]:
    """Mean figures of a prior on images (1, 3, H, W), by way."""
    with seeded(0):
        return {way: mean([take(prior, x, alpha) for x in images]) for way, take in WAYS.items()}


def of_codec(name: str, images: list[Tensor], alpha: float) -> Figures:
    """Mean figures of one of the classical codecs on images (1, 3, H, W)."""
    pixels = (np.ascontiguousarray((255 * x[0]).round().byte().permute(1, 2, 0).numpy()) for x in images)
    coded = [best(CODECS[name], each, alpha) for each in pixels]
    return mean([figures(each.mse, each.bpp, alpha) for each in coded])


def mean(rows: list[Figures]) -> Figures:
    """Means over images."""
    columns = zip(*(asdict(row).values() for row in rows), strict=True)
    return Figures(*(None if None in column else sum(column) / len(column) for column in columns))


def read(folder: Path, count: int | None, largest: int | None = None) -> list[Tensor]:
    """Evenly spaced images of a folder, (1, 3, H, W) in [0, 1], or their middles."""
    images = read_images(folder)
    sides = [max(image.shape[1:]) for image in images.images]
    chosen = evenly_spaced(list(range(len(sides))), count or len(sides))
    return [images.middle(i, largest or sides[i], 1) for i in chosen]


def row_of(name: str, row: Figures) -> str:
    """A row in Markdown."""
    cells = (row.loss, ".3f"), (row.bpp, ".3f"), (row.psnr, ".2f"), (row.elbo, ".3f")
    texts = ("-" if value is None else format(value, form) for value, form in cells)
    return f"| {name} | {' | '.join(texts)} |"


def _decibels(mse: float) -> float:
    return -10 * math.log10(mse) if mse > 0 else math.inf


def main() -> None:
    """Measure, print a table in Markdown, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    takes = "names or paths that load_prior takes, with :S at rate scale S"
    parser.add_argument("--priors", nargs="+", default=["cae-bsd"], help=takes)
    parser.add_argument("--images", type=int, help="how many, evenly spaced in the sorted folder; by default all")
    parser.add_argument("--largest", type=int, help="the middle of larger images, so many pixels a side")
    parser.add_argument("--alpha", type=float, help="of the loss, in place of the first prior's")
    parser.add_argument("--no-codecs", action="store_true", help="priors alone")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    priors = {}
    for name in options.priors:
        path, _, scale = name.partition(":")
        priors[name] = pv.load_prior(path, rate_scale=float(scale or 1))
    for name, prior in priors.items():
        if not isinstance(prior, CAE):
            parser.error(f"only compressive autoencoders are codecs; {name} is a {type(prior).__name__}.")
    alpha = options.alpha or next(iter(priors.values())).alpha
    if alpha is None:
        parser.error("the first prior tells no alpha; pass --alpha.")
    images = read(options.folder, options.images, options.largest)
    about = {"folder": str(options.folder), "images": len(images), "alpha": alpha}
    table: dict[str, dict] = {}
    print(f"{len(images)} images of {options.folder}, alpha {alpha:g}\n")
    print("| | loss | bits per pixel | PSNR, dB | ELBO, bits per pixel |\n|---|---|---|---|---|")

    def show(rows: dict[str, Figures]) -> None:
        for name, row in rows.items():
            table[name] = asdict(row)
            print(row_of(name, row), flush=True)
        keep_table(options.output, about, table)

    for name in () if options.no_codecs else CODECS:
        show({name: of_codec(name, images, alpha)})
    for name, prior in priors.items():
        show({f"{name}, {way}": row for way, row in of_prior(prior, images, alpha).items()})


if __name__ == "__main__":
    main()
