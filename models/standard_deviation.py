"""Standard deviations of p(x|z) that are learned."""

import copy
import math
from typing import Annotated

import torch
from torch import Tensor, nn

from pyro_vble._arguments import NotNegative, Positive, checked, instance_of, one_of
from pyro_vble._deprecated import moved

#: Links by name, with their inverses.
LINKS = {
    "sigmoid": (torch.sigmoid, lambda std: math.log(std / (1 - std))),
    "exp": (torch.exp, math.log),
}

Link = Annotated[str, one_of(*LINKS)]
Network = Annotated[nn.Module, instance_of("a torch.nn.Module", nn.Module)]


@checked
class DecoderStd(nn.Module):
    r"""A decoder of standard deviations, one per pixel and band.

    .. math:: \sigma_\theta(z) = \mathrm{link}\big(f_\theta(z)\big) + \sigma_{\min}

    f has the architecture of the decoder of the mean. The published links are the sigmoid for compressive
    autoencoders and the exponential for VAEs.

    References:
        | Deep priors for satellite image restoration with accurate uncertainties (Biquard et al., 2024), section III
        | https://arxiv.org/abs/2412.04130

    Args:
        network: f, a module from z to (B, C, H, W).
        link: "sigmoid" or "exp".
        floor: :math:`\sigma_{\min}`, in image units.

    Raises:
        ValueError: If the link is unknown or the floor negative.

    Example:
        >>> import torch
        >>> from pyro_vble.models import DecoderStd
        >>> std = DecoderStd(torch.nn.Conv2d(2, 3, 1))
        >>> std(torch.randn(1, 2, 4, 4)).shape
        torch.Size([1, 3, 4, 4])
    """

    def __init__(self, network: Network, link: Link = "sigmoid", floor: NotNegative = 2e-4) -> None:
        super().__init__()
        self.network, self.link, self.floor = network, link, floor

    def forward(self, z: Tensor) -> Tensor:
        """Standard deviation of p(x|z), (B, C, H, W)."""
        # The link runs in z's precision: a network in bfloat16 has rounded its output once already.
        return LINKS[self.link][0](self.network(z).to(z.dtype)) + self.floor

    @classmethod
    @checked
    def starting_flat(
        cls, decoder: Network, std: Positive, link: Link = "sigmoid", floor: NotNegative = 2e-4
    ) -> "DecoderStd":
        """A copy of ``decoder``, features and all, that answers ``std`` everywhere: where training starts.

        Raises:
            ValueError: If std does not exceed the floor, or the decoder has no last layer with a bias.
        """
        if not floor < std < (1 if link == "sigmoid" else math.inf):
            raise ValueError(f"std must lie above the floor {floor} and in the range of {link}; received {std}.")
        network = copy.deepcopy(decoder)
        layers = [m for m in network.modules() if [*m.parameters(recurse=False)]]
        last = layers[-1] if layers else None
        if not isinstance(last, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) or last.bias is None:
            raise ValueError(
                "A decoder of standard deviations is made from one whose last layer is a convolution (or linear) with "
                f"a bias; received {type(decoder).__name__}; build DecoderStd(network) yourself."
            )
        with torch.no_grad():
            last.weight.zero_()
            last.bias.fill_(LINKS[link][1](std - floor))
        return cls(network, link, floor)


@checked
class LearnedStandardDeviation(nn.Module):
    r"""One standard deviation for all pixels, :math:`\gamma`, as a parameter on the log scale.

    Args:
        initial: Its first value, in image units.

    Raises:
        ValueError: If the value is not positive.

    Example:
        >>> import torch
        >>> from pyro_vble.models import LearnedStandardDeviation
        >>> round(float(LearnedStandardDeviation(0.1).value), 3)
        0.1
    """

    def __init__(self, initial: Positive) -> None:
        super().__init__()
        self.log_std = nn.Parameter(torch.tensor(math.log(initial)))

    @property
    def value(self) -> Tensor:
        """The standard deviation, a scalar."""
        return self.log_std.exp()

    def forward(self, z: Tensor) -> Tensor:
        """The standard deviation of p(x|z), (B, 1, 1, 1)."""
        return self.value.to(z.dtype).expand(len(z), 1, 1, 1)


__getattr__ = moved(__name__, {"StandardDeviationDecoder": "pyro_vble.models:DecoderStd"})
