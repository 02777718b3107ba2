"""Draws of Markov chains."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_vble._arguments import Count, checked
from pyro_vble.inference.draws import Draws
from pyro_vble.samples.stored import AT_ONCE, StoredSamples
from pyro_vble.seeding import derived_seed

if TYPE_CHECKING:
    from arviz import InferenceData


class ReferencePosterior(StoredSamples):
    """Draws of Markov chains from p(x, z, h | y).

    Args:
        image: Images (chains, draws, B, C, H, W).
        latents: Latents by site, each (chains, draws, B, *event).
        y: The measurement.
        physics: The operator.
        seconds: Time of all chains, warm-up included.
        acceptance: Mean acceptance probability of each chain, (chains,).
        num_divergent: Number of divergent transitions after warm-up.
    """

    def __init__(
        self,
        image: Tensor,
        latents: dict[str, Tensor],
        y: Tensor,
        *,
        physics: Any = None,
        seconds: float = float("nan"),
        acceptance: Tensor | None = None,
        num_divergent: int = 0,
    ) -> None:
        super().__init__(image.flatten(0, 1), y=y, physics=physics)
        self.image, self.latents = image, latents
        self.seconds, self.num_divergent = seconds, num_divergent
        self.acceptance = torch.full((len(image),), torch.nan) if acceptance is None else acceptance

    @property
    def samples(self) -> Tensor:
        """Images of all chains, (chains * draws, B, C, H, W)."""
        return self.images

    @property
    def groups(self) -> frozenset[str]:
        """ArviZ's groups that can be made of them."""
        return super().groups | {"latents"}

    @checked
    def convergence(self, patch: Count = 8) -> dict[str, float]:
        """R-hat (largest; NaN with one chain), and bulk and tail effective sample size (smallest).

        Of patch means; with the suffix of a latent's name, of all its values.
        """
        from pyro_vble.io.inference_data import arviz
        from pyro_vble.metrics import patch_means

        az = arviz()
        quantities = {"": patch_means(self.image, min(patch, *self.image.shape[-2:]))}
        quantities |= {f"_{name}": value for name, value in self.latents.items() if name != "x_decentered"}
        found = {}
        for suffix, value in quantities.items():
            dataset = az.convert_to_dataset({"v": value.flatten(2).cpu().numpy()})
            several = len(value) > 1
            found[f"r_hat{suffix}"] = float(az.rhat(dataset)["v"].max()) if several else float("nan")
            for method in ("bulk", "tail"):
                found[f"ess_{method}{suffix}"] = float(az.ess(dataset, method=method)["v"].min())
        return found

    def chains(
        self, num_samples: int, *, seed: int | None = None, densities: bool = False, replicas: bool = False
    ) -> Sequence[Iterator[Draws]]:
        """The draws of every chain, at even distances where fewer are asked for."""
        each = -(-num_samples // len(self.image))
        chosen = self._chosen(each, self.image.shape[1])
        return [iter([self._chain(k, chosen, replicas, seed)]) for k in range(len(self.image))]

    def to_arviz(self, num_samples: int | None = None, *, include: Any = None, **options: Any) -> "InferenceData":
        """Images, latents and the measurement as ArviZ ``InferenceData``, with chains.

        Arguments as those of :func:`pyro_vble.io.inference_data.to_inference_data`.
        """
        return super().to_arviz(num_samples, include=self.groups if include is None else include, **options)

    def _pieces(self, n: int, seed: int | None) -> Iterator[Draws]:
        """Images in chunks, with their latents."""
        latents = {name: value.flatten(0, 1) for name, value in self.latents.items()}
        for at in torch.arange(self.stored)[self._chosen(n, self.stored)].split(AT_ONCE):
            yield Draws(self.images[at], {name: value[at] for name, value in latents.items()})

    def _chain(self, k: int, chosen: Any, replicas: bool, seed: int | None) -> Draws:
        draws = Draws(self.image[k][chosen], {name: value[k][chosen] for name, value in self.latents.items()})
        if not replicas:
            return draws
        (replica,) = self._replicas(iter([draws]), derived_seed(self.resolved_seed(seed), "chain", k))
        return dataclasses.replace(draws, replica=replica)
