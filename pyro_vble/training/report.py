"""What a training writes and says: weights, card, picture, figures."""

import copy
import dataclasses
import json
import math
import platform
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vble._tensors import shape_of_image
from pyro_vble._version import __version__
from pyro_vble.inference.precision import network_precision
from pyro_vble.io.atomic import atomic_path
from pyro_vble.io.prior_files import save_prior
from pyro_vble.io.priors import load_prior
from pyro_vble.models import Prior
from pyro_vble.training.checkpoint import TrainingState
from pyro_vble.training.data import ImageSet
from pyro_vble.training.evaluation import Evaluation, VarianceRatios, evaluate_with_calibration

PRIOR, CARD = "prior.safetensors", "card.json"
_LARGEST_SIDE = 512


@dataclass(frozen=True)
class Report:
    """Measures and writes the averaged prior of a training.

    Attributes:
        state: The training.
        images: Images to measure on.
        folder: Where to write.
        origin: What the card says of where the prior comes from.
    """

    state: TrainingState
    images: ImageSet
    folder: Path
    origin: dict[str, Any]

    def brief(self) -> float:
        """Write the weights; returns the PSNR of the middles of the images."""
        self._save()
        prior, batch_size = self.state.average, self.state.recipe.data.batch_size
        device, crop = self.state.skipped.device, self.state.recipe.data.crop
        squared: list[float] = []
        with torch.no_grad(), network_precision(self.state.precision, device):
            for first in range(0, len(self.images.images), batch_size):
                indices = range(first, min(first + batch_size, len(self.images.images)))
                x = torch.cat([self.images.middle(i, crop, crop) for i in indices]).to(device)
                decoded = prior.decode_mean(prior.encode(x)["z"], shape_of_image(x))
                squared += (decoded.clamp(0, 1) - x).square().mean((1, 2, 3)).tolist()
        return -10 * math.log10(max(sum(squared) / len(squared), 1e-10))

    def final(self) -> tuple[Prior, Evaluation, VarianceRatios | None]:
        """Write the weights, measure what was written, and write the card; returns the prior, on the CPU."""
        self._save()
        prior = load_prior(self.folder / PRIOR)
        evaluation, calibrated = self._measure(prior, range(len(self.images.images)))
        card = self.origin | {
            "init": self.state.init,
            "steps": self.state.step,
            "steps_skipped": int(self.state.skipped),
            "seconds": round(self.state.elapsed, 1),
            "complete": self.state.complete,
            "precision": self.state.precision,
            "validation": dataclasses.asdict(evaluation),
            "calibration": dataclasses.asdict(calibrated) if calibrated else None,
        }
        with atomic_path(self.folder / CARD) as temporary:
            temporary.write_text(json.dumps(card, indent=2) + "\n")
        return prior.cpu(), evaluation, calibrated

    def seconds(self) -> float:
        """An estimate of how long ``final`` takes, from its largest image."""
        sizes = [self._middle(i).shape[-2:].numel() for i in range(len(self.images.images))]
        prior, largest = copy.deepcopy(self.state.average), [sizes.index(max(sizes))]
        self._measure(prior, largest)  # the first time is slower
        start = time.monotonic()
        self._measure(prior, largest)
        return (time.monotonic() - start) * sum(sizes) / max(sizes)

    def _measure(self, prior: Prior, indices: Iterable[int]) -> tuple[Evaluation, VarianceRatios | None]:
        prior = prior.to(self.state.skipped.device)
        precision, dequantize = self.state.precision, self.state.recipe.data.dequantize
        return evaluate_with_calibration(
            prior, lambda: map(self._middle, indices), dequantize=dequantize, precision=precision
        )

    def _middle(self, index: int) -> Tensor:
        crop = self.state.recipe.data.crop
        one_size = hasattr(self.state.average, "image_shape")
        return self.images.middle(index, crop if one_size else _LARGEST_SIDE, crop)

    def _save(self) -> None:
        metadata = {key: self.origin[key] for key in ("recipe_name", "data")} | {"steps": self.state.step}
        save_prior(self.state.average, self.folder / PRIOR, metadata=metadata)


def machine(device: torch.device) -> str:
    """The machine in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def versions() -> dict[str, str]:
    """Versions of what computes."""
    return {"pyro_vble": __version__, "torch": torch.__version__, "python": platform.python_version()}
