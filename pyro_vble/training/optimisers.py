"""The optimisers of training: each skips a step whose gradient is not finite."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_vble._extras import extra
from pyro_vble.training.muon import Muon
from pyro_vble.training.recipes import Schedule


def optimiser_of(schedule: Schedule, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser that a schedule names, for these parameters.

    References:
        | SOAP: Improving and stabilizing Shampoo using Adam (Vyas et al., 2024), algorithm 3
        | https://arxiv.org/abs/2409.11321
        | Leveraging second-order curvature for efficient learned image compression (Zhang and Zhu, 2026)
        | https://arxiv.org/abs/2601.20769

    Args:
        schedule: Names the optimiser and its largest learning rate.
        parameters: What it optimises.

    Raises:
        ImportError: If the package that has it is not installed.
    """
    if schedule.optimiser == "soap":
        with extra("training"):
            from pytorch_optimizer import SOAP
        return SOAP(parameters, lr=schedule.lr, weight_decay=0.0)
    if schedule.optimiser == "muon":
        return Muon(parameters, lr=schedule.lr)
    # The fused form is the one that can skip a step by itself.
    return torch.optim.Adam(parameters, lr=schedule.lr, fused=True)


def step_unless(bad: Tensor, optimiser: torch.optim.Optimizer) -> None:
    """Take a step, unless ``bad`` is true; Adam and Muon read it on the device: the host waits for nothing."""
    if isinstance(optimiser, torch.optim.Adam | Muon):
        # As torch.amp.GradScaler does it; no annotation tells of it.
        optimiser.found_inf = bad.float()  # pyright: ignore[reportAttributeAccessIssue]
        optimiser.step()
    elif not bad:
        optimiser.step()


def is_capturable(optimiser: torch.optim.Optimizer) -> bool:
    """Whether steps of an optimiser can be captured in a CUDA graph."""
    return isinstance(optimiser, torch.optim.Adam | Muon)


def keep_rates_on(device: torch.device, optimiser: torch.optim.Optimizer) -> None:
    """Keep the learning rates on a device, where captured steps read them."""
    for group in optimiser.param_groups:
        group["lr"] = torch.tensor(float(group["lr"]), device=device)
        if "capturable" in group:
            group["capturable"] = True


def keep_rates_here(optimiser: torch.optim.Optimizer) -> None:
    """Keep the learning rates as numbers, whatever device they were kept on."""
    for group in optimiser.param_groups:
        group["lr"] = float(group["lr"])
        if "capturable" in group:
            group["capturable"] = False


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate, where it is kept."""
    for group in optimiser.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
