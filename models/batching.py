"""Running image networks under plates, on any number of bands and in the precision each part needs."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# What goes through a network at once where no gradient is wanted: small batches stay in a CPU's cache, large ones fill
# a GPU, and memory does not grow with the batch. 2^15 are the latents of 256x256 pixels.
_VALUES_AT_ONCE = {"cpu": 4 * 2**15, "cuda": 64 * 2**15}


def batched(network: Callable[[Tensor], Tensor], x: Tensor, event_dim: int = 3) -> Tensor:
    """Apply a network that knows one batch dimension to ``x`` of shape (*plates, *event)."""
    plates = x.shape[: x.dim() - event_dim]
    flat = x.reshape(-1, *x.shape[x.dim() - event_dim :])
    if flat.dim() == 4:
        flat = flat.contiguous(memory_format=torch.channels_last)
    rows = max(1, _VALUES_AT_ONCE.get(x.device.type, _VALUES_AT_ONCE["cpu"]) // max(1, flat[:1].numel()))
    if torch.is_grad_enabled() or len(flat) <= rows:
        return _plain(network(flat), x.dtype, plates)
    return _plain(torch.cat([network(part) for part in flat.split(rows)]), x.dtype, plates)


def _plain(out: Tensor, dtype: torch.dtype, plates: torch.Size) -> Tensor:
    # Back to plain layout and precision: what follows (operators, likelihoods) is not made of wide convolutions.
    out = out.to(dtype, memory_format=torch.contiguous_format)
    return out.reshape(*plates, *out.shape[1:])


@dataclass(frozen=True)
class Bands:
    """How an image of ``image`` bands goes through a network of ``network`` bands.

    The network's own number of bands passes as it is. A one-band image is replicated on the way in and averaged on
    the way out. Any other image goes band by band, each band as a one-band image: its latents get one more leading
    dimension, of size ``image``.
    """

    image: int
    network: int

    @property
    def groups(self) -> tuple[int, ...]:
        """Leading dimensions of the latents: () or (number of bands,)."""
        return () if self.image in (1, self.network) else (self.image,)

    def to_network(self, x: Tensor) -> Tensor:
        """From (*, bands, H, W) to (*, *groups, network bands, H, W)."""
        if self.groups:
            x = x.unsqueeze(-3)
        return x.expand(*x.shape[:-3], self.network, *x.shape[-2:])

    def mean(self, x: Tensor) -> Tensor:
        """The mean of p(x|z) from the network's bands (*, *groups, network bands, H, W) to the image's."""
        if self.image == self.network:
            return x
        return x.mean(-3, keepdim=not self.groups)

    def std(self, std: Tensor) -> Tensor:
        """The standard deviation of p(x|z), likewise.

        A network errs alike on replicated bands, so averaging them does not average its errors away: the standard
        deviation of the average is the average of the standard deviations.
        """
        return self.mean(std)
