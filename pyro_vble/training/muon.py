"""Muon: momentum whose matrices are made orthogonal before they are followed."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

# A quintic with a steep start: five rounds bring all singular values of a matrix of norm 1 to within .7 and 1.2.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ROUNDS = 5
_ADAM_BETAS, _ADAM_EPS = (0.9, 0.999), 1e-8
# The root mean square of an update of Adam, roughly: with it both kinds of parameters take one rate.
_RMS_OF_ADAM = 0.2


class Muon(torch.optim.Optimizer):
    r"""Steps along orthogonalised momentum for convolutions, and Adam's for all other parameters.

    .. math::
        M \leftarrow \beta M + (1 - \beta) G, \qquad
        W \leftarrow W - 0.2\, \eta \sqrt{\max(m, n)}\; U V^\top, \quad
        U \Sigma V^\top = \beta M + (1 - \beta) G

    where a convolution's weight is the matrix W (m, n) of its first dimension and the others. The factor gives updates
    the size of Adam's, so that its rates suit. Every step runs on the parameters' device without a word to the host,
    and can be captured in a CUDA graph: the rate may be a tensor, and ``found_inf``, if it is set, a tensor that is 1
    for a step that must change nothing.

    References:
        | Muon: an optimizer for hidden layers in neural networks (Jordan et al., 2024)
        | https://kellerjordan.github.io/posts/muon
        | Muon is scalable for LLM training (Liu et al., 2025), eq. 4
        | https://arxiv.org/abs/2502.16982

    Args:
        parameters: What to optimise.
        lr: Learning rate, a number or a tensor on the parameters' device.
        momentum: Decay of the momentum.

    Example:
        >>> import torch
        >>> from pyro_vble.training.muon import Muon
        >>> layer = torch.nn.Conv2d(2, 3, 3)
        >>> before = layer.weight.detach().clone()
        >>> layer(torch.ones(1, 2, 4, 4)).square().mean().backward()
        >>> Muon(layer.parameters(), lr=0.01).step()
        >>> bool((layer.weight - before).norm() > 0)
        True
    """

    found_inf: Tensor | None = None

    def __init__(self, parameters: Iterable[Tensor], lr: float | Tensor, momentum: float = 0.95) -> None:
        parameters = list(parameters)
        groups = [
            {"params": [p for p in parameters if p.dim() == 4], "momentum": momentum},
            {"params": [p for p in parameters if p.dim() != 4], "momentum": None},
        ]
        super().__init__([group for group in groups if group["params"]], {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:
        """Take one step along the gradients."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            gradients = [p.grad for p in parameters]
            good = parameters[0].new_ones(()) if self.found_inf is None else 1 - self.found_inf
            if self.found_inf is not None:
                # What is not finite would stay so however small its factor.
                gradients = [gradient.nan_to_num(0.0, 0.0, 0.0) * good for gradient in gradients]
            if group["momentum"] is None:
                updates = self._adam(parameters, gradients, good)
            else:
                updates = self._orthogonal(parameters, gradients, good, group["momentum"])
            torch._foreach_mul_(updates, -group["lr"] * good)  # pyright: ignore[reportPrivateImportUsage]
            torch._foreach_add_(parameters, updates)  # pyright: ignore[reportPrivateImportUsage]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take in a state, wherever it was saved: torch leaves counts of steps where they were."""
        super().load_state_dict(state_dict)
        for parameter, kept in self.state.items():
            if "step" in kept:
                kept["step"] = kept["step"].to(parameter.device)

    def _orthogonal(
        self, parameters: Sequence[Tensor], gradients: Sequence[Tensor], good: Tensor, decay: float
    ) -> list[Tensor]:
        momenta = [self._kept(p, "momentum") for p in parameters]
        _follow(momenta, gradients, decay, good)
        ahead = [decay * m + (1 - decay) * g for m, g in zip(momenta, gradients, strict=True)]
        updates: list[Tensor] = [torch.empty(0)] * len(ahead)
        # Matrices of one size in one product.
        sizes: dict[tuple[int, int], list[int]] = {}
        for i, each in enumerate(ahead):
            sizes.setdefault((each.shape[0], each[0].numel()), []).append(i)
        for (rows, columns), members in sizes.items():
            matrices = torch.stack([ahead[i].reshape(rows, columns) for i in members])
            scale = _RMS_OF_ADAM * max(rows, columns) ** 0.5
            for i, matrix in zip(members, orthogonalised(matrices) * scale, strict=True):
                updates[i] = matrix.reshape(ahead[i].shape).to(ahead[i].dtype)
        return updates

    def _adam(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor], good: Tensor) -> list[Tensor]:
        means, squares = ([self._kept(p, name) for p in parameters] for name in ("exp_avg", "exp_avg_sq"))
        steps = [self._kept(p, "step", ()) for p in parameters]
        first, second = _ADAM_BETAS
        _follow(means, gradients, first, good)
        _follow(squares, [g * g for g in gradients], second, good)
        torch._foreach_add_(steps, [good] * len(steps))  # pyright: ignore[reportPrivateImportUsage]
        # At least one: a first step that is refused has moments of zero, not none.
        counts = [t.clamp_min(1) for t in steps]
        return [
            m / (1 - first**t) / ((v / (1 - second**t)).sqrt() + _ADAM_EPS)
            for m, v, t in zip(means, squares, counts, strict=True)
        ]

    def _kept(self, parameter: Tensor, name: str, shape: tuple[int, ...] | None = None) -> Tensor:
        state = self.state[parameter]
        if name not in state:
            state[name] = torch.zeros_like(parameter) if shape is None else parameter.new_zeros(shape)
        return state[name]


def orthogonalised(matrices: Tensor) -> Tensor:
    r"""Matrices (..., m, n) with their singular values brought near 1, by Newton and Schulz's iteration.

    .. math:: X \leftarrow a X + (b\, X X^\top + c\, (X X^\top)^2) X, \qquad X_0 = M / \|M\|_F

    In bfloat16 on a GPU, which is precise enough for a direction.

    Example:
        >>> import torch
        >>> from pyro_vble.training.muon import orthogonalised
        >>> values = torch.linalg.svdvals(orthogonalised(torch.eye(3, 8) + 0.1))
        >>> bool((values > 0.6).all() and (values < 1.3).all())
        True
    """
    upright = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if upright else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-20)
    x = x.bfloat16() if x.is_cuda else x
    a, b, c = _QUINTIC
    for _ in range(_ROUNDS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if upright else x


def _follow(averages: list[Tensor], values: Sequence[Tensor], decay: float, good: Tensor) -> None:
    """Move averages towards values, unless the step is none."""
    share = (1 - decay) * good
    torch._foreach_mul_(averages, 1 - share)  # pyright: ignore[reportPrivateImportUsage]
    torch._foreach_add_(averages, torch._foreach_mul(list(values), share))  # pyright: ignore[reportPrivateImportUsage]
