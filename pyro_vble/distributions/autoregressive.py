"""The latent prior of context models: each latent depends on those before it."""

from collections.abc import Callable
from typing import ClassVar, Self

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vble._precision import full_precision
from pyro_vble.distributions._expand import expanded
from pyro_vble.distributions.gaussian_uniform import GaussianUniform


class AutoregressiveGaussianUniform(TorchDistribution):
    r"""A Gaussian-uniform convolution whose parameters depend causally on the latent, in raster order.

    .. math:: p(z \mid h) = \prod_k \big[\mathcal N(\mu_k, \sigma_k^2) * \mathcal U(-\tfrac12, \tfrac12)\big](z_k),
        \qquad (\mu_k, \sigma_k) = f\big(\text{hyper}(h)_k, \text{context}(z_{<k})\big)

    ``log_prob`` runs the masked convolution on its value, one parallel pass; ``sample`` goes pixel by pixel.

    References:
        | Joint autoregressive and hierarchical priors for learned image compression (Minnen et al., 2018), section 3
        | https://arxiv.org/abs/1809.02736

    Args:
        hyper: Output of the hyper-decoder, (..., K, h, w).
        context: Masked convolution of odd kernel size with zero padding, (B, M, h, w) -> (B, K', h, w); its weight
            must already be zero at and after the centre.
        parameters: Pointwise network from (B, K + K', h, w) to the pair (loc, scale), each (B, M, h, w).
        validate_args: Whether arguments are checked.

    Example:
        >>> import torch
        >>> from pyro_vble.distributions import AutoregressiveGaussianUniform
        >>> context = torch.nn.Conv2d(1, 1, 3, padding=1, bias=False)
        >>> with torch.no_grad():
        ...     _ = context.weight.zero_()
        ...     context.weight[0, 0, 1, 0] = 0.5  # the mean is half the left neighbour
        >>> p = AutoregressiveGaussianUniform(
        ...     torch.zeros(1, 1, 1, 2), context, lambda t: (t[:, 1:], torch.full_like(t[:, 1:], 0.1)))
        >>> p.conditional(torch.tensor([[[[4.0, 0.0]]]])).mean
        tensor([[[[0., 2.]]]], grad_fn=...)
        >>> p.sample().shape
        torch.Size([1, 1, 1, 2])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support: ClassVar[constraints.Constraint] = constraints.independent(constraints.real, 3)

    def __init__(
        self,
        hyper: Tensor,
        context: nn.Conv2d,
        parameters: Callable[[Tensor], tuple[Tensor, Tensor]],
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.hyper, self.context, self.parameters = hyper, context, parameters
        event_shape = torch.Size((context.in_channels, *hyper.shape[-2:]))
        super().__init__(hyper.shape[:-3], event_shape, validate_args=validate_args)

    def expand(self, batch_shape, _instance=None) -> Self:
        """Return the distribution broadcast to ``batch_shape``."""
        parameters = {
            "hyper": self.hyper.expand(*batch_shape, *self.hyper.shape[-3:]),
            "context": self.context,
            "parameters": self.parameters,
        }
        return expanded(
            self, AutoregressiveGaussianUniform, _instance, batch_shape, parameters, event_shape=self.event_shape
        )

    def conditional(self, value: Tensor) -> GaussianUniform:
        """The conditional distribution of every latent given those before it, at ``value``."""
        batch = torch.broadcast_shapes(value.shape[:-3], self.batch_shape)
        hyper = self.hyper.expand(*batch, *self.hyper.shape[-3:]).reshape(-1, *self.hyper.shape[-3:])
        flat = value.expand(*batch, *self.event_shape).reshape(-1, *self.event_shape)
        with full_precision(flat):
            loc, scale = self.parameters(torch.cat((hyper, self.context(flat)), dim=-3))
        return GaussianUniform(
            loc.reshape(*batch, *self.event_shape), scale.reshape(*batch, *self.event_shape), validate_args=False
        )

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density at ``value`` of shape (..., M, h, w), in nats, summed over the latent."""
        if self._validate_args:
            self._validate_sample(value)
        return self.conditional(value).log_prob(value).sum((-3, -2, -1))

    @torch.no_grad()
    def sample(self, sample_shape=()) -> Tensor:
        """Draw a latent in raster order: height times width evaluations of the networks on one neighbourhood."""
        shape = torch.Size(sample_shape) + self.batch_shape
        hyper = self.hyper.expand(*shape, *self.hyper.shape[-3:]).reshape(-1, *self.hyper.shape[-3:])
        channels, height, width = self.event_shape
        reach = self.context.kernel_size[0] // 2
        padded = hyper.new_zeros(len(hyper), channels, height + 2 * reach, width + 2 * reach)
        weight, bias = self.context.weight, self.context.bias
        for row in range(height):
            for column in range(width):
                patch = padded[..., row : row + 2 * reach + 1, column : column + 2 * reach + 1]
                context = nn.functional.conv2d(patch, weight, bias)
                here = hyper[..., row : row + 1, column : column + 1]
                loc, scale = self.parameters(torch.cat((here, context), dim=-3))
                padded[..., row + reach, column + reach] = GaussianUniform(loc, scale).sample()[..., 0, 0]
        return padded[..., reach : reach + height, reach : reach + width].reshape(*shape, *self.event_shape)
