"""Small priors and operators whose answers are known."""

import torch
from torch import nn

from pyro_vble.models import VAE, networks

ARCHITECTURES = {
    "ScaleHyperprior": (8, 12),
    "MeanScaleHyperprior": (8, 12),
    "JointAutoregressiveHierarchicalPriors": (8, 12),
    "Cheng2020Anchor": (8,),
    "Cheng2020Attention": (8,),
}


def small_network(architecture: str = "MeanScaleHyperprior") -> nn.Module:
    """A CompressAI network of random weights, a few channels wide."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return getattr(networks.compressai().models, architecture)(*ARCHITECTURES[architecture]).eval()


class LinearEncoder(nn.Linear):
    """An encoder for linear VAEs; guides only start from it."""

    def forward(self, x):
        mean = super().forward(x.flatten(1))
        return mean, torch.ones_like(mean)


def linear_vae(weight: torch.Tensor, offset: torch.Tensor, std: float, shape: tuple[int, int, int]) -> VAE:
    """D(z) = W z + c in double precision."""
    pixels, latents = weight.shape
    linear = nn.Linear(latents, pixels).double()
    with torch.no_grad():
        linear.weight.copy_(weight)
        linear.bias.copy_(offset)
    decoder = nn.Sequential(linear, nn.Unflatten(1, shape))
    return VAE(LinearEncoder(pixels, latents).double(), decoder, (latents,), std)


class MatrixPhysics:
    """A user's own operator: a matrix on the flattened image, nothing but A and a noise model."""

    def __init__(self, matrix: torch.Tensor, noise_model: nn.Module) -> None:
        self.matrix, self.noise_model = matrix, noise_model

    def A(self, x):
        return x.flatten(1) @ self.matrix.T
