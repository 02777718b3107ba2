"""Chains in coordinates whitened by what the measurement tells of all latents together."""

import dataclasses
from collections.abc import Iterator
from typing import Any

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
    first = first if first >= _FEWEST and position.shape[1] <= _MOST_DIMENSIONS else 0
    for state in hmc(coordinates.log_density, position, num_samples=0, num_warmup=first, **how):
        position = state.position
        visited.append(position)
        yield state
    roots = _roots(coordinates, torch.cat(visited[first // 2 :])) if first else None
    if roots is None:
        yield from hmc(coordinates.log_density, position, num_samples=num_samples, num_warmup=num_warmup - first, **how)
        return
    root, inverse = roots
    density = lambda u: coordinates.log_density(u @ inverse)  # noqa: E731
    for state in hmc(density, position @ root, num_samples=num_samples, num_warmup=num_warmup - first, **how):
        yield dataclasses.replace(state, position=state.position @ inverse)


def _roots(coordinates: Coordinates, visited: Tensor) -> tuple[Tensor, Tensor] | None:
    """The symmetric root of the information and its inverse; None where there is none."""
    count = 2 * visited.shape[1] + 100
    chosen = torch.linspace(0, len(visited) - 1, count, device=visited.device).round().long()
    matrix = coordinates.information(visited[chosen], at_once=16)
    if matrix is None:
        return None
    values, vectors = torch.linalg.eigh(matrix.double())
    roots = (vectors * values.sqrt()) @ vectors.T, (vectors * values.rsqrt()) @ vectors.T
    return roots[0].to(visited), roots[1].to(visited)
