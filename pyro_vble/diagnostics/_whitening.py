"""Chains in coordinates whitened by what the measurement tells of all latents together."""

import dataclasses
from collections.abc import Iterator
from typing import Any, Self

import torch
from torch import Tensor

from pyro_vble.diagnostics._coordinates import Coordinates
from pyro_vble.diagnostics._hmc import HMCState, hmc

# Beyond, the eigenvectors of a matrix (D, D) take longer than they save.
_MOST_DIMENSIONS = 6000
# Part of the warm-up that looks for places to average the information over, and the fewest transitions that do.
_FIRST_PART, _FEWEST = 0.25, 10


def whitened_hmc(
    coordinates: Coordinates, num_chains: int, *, num_samples: int, num_warmup: int, **how: Any
) -> Iterator[HMCState]:
    r"""Transitions of chains that start from the guides' draws, their positions in the coordinates given.

    After a quarter of the warm-up leapfrog steps go on in :math:`u = M^{1/2} \varepsilon`, M the information of prior
    and measurement averaged over the places visited: latents that the measurement ties to each other then move
    together. The root is the symmetric one, so that axes stay as near as can be to the latents, and the rest of the
    warm-up scales them.

    Args:
        coordinates: Density of the latents.
        num_chains: Number of chains.
        num_samples: Transitions after warm-up.
        num_warmup: Transitions of warm-up.
        how: Further arguments of :func:`hmc`.
    """
    position, visited = coordinates.start(num_chains), []
    first = int(_FIRST_PART * num_warmup)
    first = first if first >= _FEWEST else 0
    for state in hmc(coordinates.log_density, position, num_samples=0, num_warmup=first, **how):
        position = state.position
        visited.append(position)
        yield state
    whitening = Whitening.of(coordinates, torch.cat(visited[first // 2 :])) if first else None
    density, start = coordinates.log_density, position
    if whitening is not None:
        density, start = lambda u: coordinates.log_density(whitening.back(u)), whitening(position)
    for state in hmc(density, start, num_samples=num_samples, num_warmup=num_warmup - first, **how):
        yield state if whitening is None else dataclasses.replace(state, position=whitening.back(state.position))


@dataclasses.dataclass(frozen=True)
class Whitening:
    """The symmetric root of a matrix (k, k), and one of a diagonal for the dimensions beyond.

    Attributes:
        root: (k, k).
        inverse: Its inverse.
        rest: (D - k,).
    """

    root: Tensor
    inverse: Tensor
    rest: Tensor

    @classmethod
    def of(cls, coordinates: Coordinates, visited: Tensor) -> Self | None:
        """That of the information at the positions visited, (n, D); None where there is none."""
        k = coordinates.num_together
        if k > _MOST_DIMENSIONS:
            return None
        chosen = torch.linspace(0, len(visited) - 1, 2 * k + 100, device=visited.device).round().long()
        found = coordinates.information(visited[chosen], at_once=16)
        if found is None:
            return None
        values, vectors = torch.linalg.eigh(found[0].double())
        root, inverse = ((vectors * scale) @ vectors.T for scale in (values.sqrt(), values.rsqrt()))
        return cls(root.to(visited), inverse.to(visited), found[1].sqrt())

    def __call__(self, position: Tensor) -> Tensor:
        """Whitened positions (n, D)."""
        k = len(self.root)
        return torch.cat((position[:, :k] @ self.root, position[:, k:] * self.rest), 1)

    def back(self, u: Tensor) -> Tensor:
        """The positions that belong to whitened ones."""
        k = len(self.root)
        return torch.cat((u[:, :k] @ self.inverse, u[:, k:] / self.rest), 1)
