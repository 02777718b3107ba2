"""What the latents of a compressive autoencoder are worth: whether it has too few, and how many more would pay.

``python -m benchmarks.latents FOLDER --prior cae-bsd --images 6`` prints, for channels of z from the one of fewest bits
to the one of most, what alpha·255²·MSE rises by when the channel is held at its mean given h, and the bits saved.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import pyro_vble as pv
from benchmarks.zoo import read
from pyro_vble.models import CAE


@dataclass(frozen=True)
class Worth:
    """What one channel of z does for the loss of rounded latents.

    Attributes:
        channel: Its place among the channels.
        bits: Bits of one of its latents.
        bpp: Bits per pixel that it takes.
        distortion: What alpha·255²·MSE rises by without it.
    """

    channel: int
    bits: float
    bpp: float
    distortion: float


@torch.no_grad()
def worths(prior: CAE, images: Tensor, alpha: float, ranks: list[int]) -> list[Worth]:
    """The worth of some channels, by their rank among all from the fewest bits to the most.

    Args:
        prior: A network whose p(z|h) is a Gaussian with a mean, as MeanScaleHyperprior has it.
        images: (B, 3, H, W) in [0, 1], sides multiples of its stride.
        alpha: Of the loss.
        ranks: Which.
    """
    shape = (3, *images.shape[-2:])
    latents = prior.encode(images)
    p_z = prior.p_z(latents["h"].round(), shape).base_dist
    z = (latents["z"] - p_z.mean).round() + p_z.mean
    # The density of z at a rounded value is the probability of its cell, for U(-1/2, 1/2) is convolved in.
    bits = -p_z.log_prob(z).mean((0, 2, 3)) / np.log(2)
    per_pixel = z[0, 0].numel() / images[0, 0].numel()
    order = bits.argsort().tolist()

    def distortion(z: Tensor) -> float:
        return alpha * 255**2 * float((prior.decode_mean(z, shape).clamp(0, 1) - images).square().mean())

    whole, found = distortion(z), []
    for rank in ranks:
        channel = order[rank]
        without = z.clone()
        without[:, channel] = p_z.mean[:, channel]
        own = float(bits[channel])
        found.append(Worth(channel, own, own * per_pixel, distortion(without) - whole))
    return found


def main() -> None:
    """Measure, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--prior", default="cae-bsd")
    parser.add_argument("--images", type=int, default=6, help="how many, evenly spaced in the sorted folder")
    parser.add_argument("--side", type=int, default=256, help="the middle of each, so many pixels a side")
    parser.add_argument("--ranks", type=int, default=8, help="how many channels, evenly spaced by rank")
    options = parser.parse_args()
    prior = pv.load_prior(options.prior)
    images = torch.cat(read(options.folder, options.images, options.side))
    ranks = np.linspace(0, prior.network.M - 1, options.ranks).round().astype(int).tolist()
    print("| rank | bits a latent | bits per pixel | distortion without it | worth |\n|---|---|---|---|---|")
    for rank, w in zip(ranks, worths(prior, images, prior.alpha, ranks), strict=True):
        print(f"| {rank} | {w.bits:.2f} | {w.bpp:.4f} | {w.distortion:.4f} | {w.distortion - w.bpp:.4f} |", flush=True)


if __name__ == "__main__":
    main()
