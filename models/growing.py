"""A wider compressive autoencoder that computes what a trained one does."""

import copy
import math
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from pyro_vble._arguments import Count, Seed, checked, instance_of
from pyro_vble.models import networks
from pyro_vble.models.cae import CAE
from pyro_vble.models.standard_deviation import DecoderStd
from pyro_vble.seeding import seeded

# More channels are a mistake: memory would run out.
_MOST = 4096
# What is left of PyTorch's first weights in the rows of the encoder that make new latents: enough for their decoder's
# weights, which start at zero, to have a gradient; too little to cost bits.
_FAINT = 0.1
# Logits of the entropy model of new hyper-latents rise by this from one integer to the next: a standard deviation of
# .06, and .08 bit for a value that only the encoder's noise moves.
_STEEP = 30.0


@checked
def grown(
    prior: Annotated[CAE, instance_of("a compressive autoencoder, a CAE", CAE)],
    N: Count | None = None,
    M: Count | None = None,
    *,
    seed: Seed = 0,
) -> CAE:
    r"""A wider network that computes what ``prior`` computes, to be trained on.

    .. math::
        D'(z, z') = D(z), \qquad \bar z'_{1 \ldots M} = \bar z, \qquad
        p'(z, z', h, h') = p(z, h)\, p(h')\, p(z'), \qquad p(z') = \mathcal N(0, \sigma_{\min}^2) *
        \mathcal U(-\tfrac12, \tfrac12)

    The old channels come first. New ones have random weights on what they read, and no old channel reads them yet:
    those weights are zero, and have a gradient. New latents are encoded to almost nothing and cost about .15 bit each
    under the encoder's noise (:math:`\sigma_{\min} = .11`, CompressAI's bound), nothing once rounded. A decoder of
    standard deviations grows likewise.

    References:
        | Net2Net: accelerating learning via knowledge transfer (Chen et al., 2016), of which this is the form for
          layers that normalise across channels
        | https://arxiv.org/abs/1511.05641

    Args:
        prior: A compressive autoencoder of one of the ``ZOO_CLASSES``; it stays as it is.
        N: Channels of the hidden layers, and hyper-latents; as before by default.
        M: Latents; as before by default. Networks of the Cheng2020 classes have no M of their own.
        seed: Of the random weights.

    Raises:
        TypeError: If the prior is no CAE.
        ValueError: If a size is smaller than before or beyond all memory, or the network or its decoder of standard
            deviations has other layers than the class that it is named after.

    Example:
        >>> import torch
        >>> from pyro_vble import load_prior
        >>> from pyro_vble.models.growing import grown
        >>> prior = load_prior("cae-bsd")
        >>> larger = grown(prior, N=72, M=144)
        >>> z, more = torch.randn(1, 128, 4, 4), torch.randn(1, 16, 4, 4)
        >>> bool(torch.allclose(larger.decode_mean(torch.cat((z, more), 1)), prior.decode_mean(z), atol=1e-5))
        True
    """
    network = prior.network
    sizes = _sizes(network, N, M)
    with seeded(seed):
        larger = networks.new_network(type(network).__name__, *sizes).to(**prior.tensor_options())
        std = copy.deepcopy(larger.g_s)
        _hush(larger, network)
    _take(larger, network, _layers_of_groups(network))
    decoder_std: nn.Module | None = prior.decoder_std
    if decoder_std is not None:
        if not isinstance(decoder_std, DecoderStd):
            raise ValueError(
                "A decoder of standard deviations that grows must be a DecoderStd of the decoder's layers; received "
                f"{type(decoder_std).__name__}; grow the prior without it and train another."
            )
        _take(std, decoder_std.network, {})
        decoder_std = DecoderStd(std, decoder_std.link, decoder_std.floor)
    grown_prior = CAE(
        larger, prior.alpha, decoder_std=decoder_std, distortion=prior.distortion, rate_scale=prior.rate_scale
    )
    return grown_prior.train(prior.training)


def _sizes(network: Any, N: int | None, M: int | None) -> tuple[int, int | None]:
    """N and M of the larger network, checked."""
    one_width = type(network).__name__.startswith("Cheng")
    if one_width and M not in (None, N):
        raise ValueError(f"Networks of the Cheng2020 classes have no M; received {M}; leave it out.")
    sizes = {"N": (network.N, N or network.N), "M": (network.M, M or network.M)}
    for name, (before, after) in sizes.items():
        if after < before and not (one_width and name == "M"):
            raise ValueError(f"A network grows: {name} must be at least the {before} that it has; received {after}.")
        if after > _MOST:
            raise ValueError(f"{name} must be at most {_MOST}; received {after}; a network so wide fits no memory.")
    return sizes["N"][1], None if one_width else sizes["M"][1]


def _layers_of_groups(network: nn.Module) -> dict[tuple[str, int], int]:
    """Weights, by name and dimension, whose channels come in several groups, each of which grows, and how many.

    The last layer before p(z|h) makes scales and means; the first of CompressAI's ``entropy_parameters`` reads
    features of h and of the context.
    """
    if networks.has_context(network):
        return {(f"{_last_layer(network, 'entropy_parameters')}.", 0): 2, ("entropy_parameters.0.", 1): 2}
    return {(f"{_last_layer(network, 'h_s')}.", 0): 2} if networks.has_means(network) else {}


def _last_layer(network: nn.Module, part: str) -> str:
    """Name of the last convolution of a part of a network."""
    modules = getattr(network, part).named_modules()
    return f"{part}.{[name for name, module in modules if isinstance(module, nn.Conv2d)][-1]}"


def _last_of_its_own(network: nn.Module, part: str) -> str:
    """Name of the last convolution that is none of a block's: what a block of attention passes on beside its gate."""
    children = getattr(network, part).named_children()
    return f"{part}.{[name for name, child in children if isinstance(child, nn.Conv2d)][-1]}"


def _passed_by_a_gate(network: nn.Module, part: str) -> list[str]:
    """Names of the convolutions whose sum a block of attention at the end lets through its gate; none without one."""
    last, block = [*getattr(network, part).named_children()][-1]
    found = []
    for name, unit in getattr(block, "conv_a", nn.Sequential()).named_children():
        inner = [inner for inner, layer in unit.named_modules() if isinstance(layer, nn.Conv2d)]
        found.append(f"{part}.{last}.conv_a.{name}.{inner[-1]}")
    return found


@torch.no_grad()
def _take(larger: nn.Module, smaller: nn.Module, groups: dict[tuple[str, int], int]) -> None:
    """Give a larger module the weights of a smaller one, and zeros where old channels would read new ones."""
    before, after = dict(smaller.named_parameters()), dict(larger.named_parameters())
    if before.keys() != after.keys():
        odd = ", ".join(sorted(before.keys() ^ after.keys())[:3])
        raise ValueError(
            "A network that grows must have the layers of CompressAI's class of its name, and its decoder of standard "
            f"deviations those of its decoder; these are not in both: {odd}; build the larger one yourself."
        )
    transposed = {f"{name}.weight" for name, module in larger.named_modules() if isinstance(module, nn.ConvTranspose2d)}
    for name, new in after.items():
        old = before[name].to(new)
        places = [
            _places(old.shape[dim], new.shape[dim], groups.get((f"{name.rpartition('.')[0]}.", dim), 1))
            for dim in range(old.dim())
        ]
        if old.dim() == 4:  # a convolution; those that normalise read no other channel at first
            new[(slice(None), places[1]) if name in transposed else places[0]] = 0.0
        new[torch.meshgrid(*places, indexing="ij")] = old


def _places(old: int, new: int, groups: int) -> Tensor:
    """Where old channels lie among the new ones: at the start of every group."""
    return torch.cat([torch.arange(old // groups) + i * (new // groups) for i in range(groups)])


@torch.no_grad()
def _hush(larger: Any, smaller: Any) -> None:
    """Have new latents encoded to almost nothing, and expected there."""
    bottleneck, latents, hyper_latents = larger.entropy_bottleneck, smaller.M, smaller.entropy_bottleneck.channels
    for part, count in (("g_a", latents), ("h_a", hyper_latents)):
        for name in {_last_layer(larger, part), _last_of_its_own(larger, part), *_passed_by_a_gate(larger, part)}:
            layer = larger.get_submodule(name)
            layer.weight[count:] *= _FAINT
            layer.bias[count:] = 0.0
    # Their scales, and after all scales their means.
    part = "entropy_parameters" if networks.has_context(larger) else "h_s"
    layer = larger.get_submodule(_last_layer(larger, part))
    for first, value in ((0, float(larger.gaussian_conditional.lower_bound_scale.bound)), (larger.M, 0.0)):
        if first < len(layer.weight):  # not every class has means
            layer.weight[first + latents : first + larger.M] = 0.0
            layer.bias[first + latents : first + larger.M] = value
    steep = _STEEP ** (1 / len(bottleneck.matrices))
    for matrix in bottleneck.matrices:
        weights = matrix[hyper_latents:]
        # Not all alike, or they would stay so.
        weights.copy_(math.log(math.expm1(steep / weights.shape[1])) + 0.3 * torch.randn_like(weights))
    for bias in bottleneck.biases:
        bias[hyper_latents:] = 0.0
