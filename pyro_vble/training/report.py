"""What a training writes and says: weights, card, picture, figures."""

import dataclasses
import json
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vble._version import __version__
from pyro_vble.inference.precision import network_precision
from pyro_vble.io.atomic import atomic_path
from pyro_vble.io.prior_files import save_prior
from pyro_vble.models import Prior
from pyro_vble.training.checkpoint import TrainingState
from pyro_vble.training.data import ImageSet
from pyro_vble.training.evaluation import Calibration, Evaluation, calibration, evaluate, has_std_decoder

PRIOR, CARD = "prior.safetensors", "card.json"
_LARGEST_SIDE = 512
# Writing and loading, besides evaluating, when a training ends by the clock.
_SECONDS_TO_WRITE = 3.0


@dataclass(frozen=True)
class Report:
    """Measures and writes the averaged prior of a training.

    Attributes:
        state: The training.
        images: Images to measure on.
        precision: Precision of the networks while measuring.
        folder: Where to write.
        origin: What the card says of where the prior comes from.
    """

    state: TrainingState
    images: ImageSet
    precision: str
    folder: Path
    origin: dict[str, Any]

    @property
    def prior(self) -> Prior:
        """The averaged prior, on the training's device."""
        return self.state.average.module

    def brief(self) -> dict[str, float]:
        """Write the weights; returns the validation PSNR of the middles of the images."""
        crop = self.state.recipe.data.crop
        batch = torch.cat([_middle(self.images.floats(i), crop) for i in range(len(self.images.images))])
        device = self.prior._options()["device"]
        squared = []
        with torch.no_grad(), network_precision(self.precision, device):
            for x in batch.to(device).split(self.state.recipe.data.batch_size):
                decoded = self.prior.decode_mean(self.prior.encode(x)["z"], tuple(x.shape[1:]))
                squared += (decoded.clamp(0, 1) - x).square().mean((1, 2, 3)).tolist()
        self._save()
        return {"validation_psnr": round(float(-10 * np.log10(np.mean(squared))), 4)}

    def seconds(self) -> float:
        """An estimate, on the safe side, of how long ``final`` takes."""
        start = time.monotonic()
        # Once to warm up, once to be timed.
        for _ in range(2):
            once, start = time.monotonic() - start, time.monotonic()
            self._measure(self._middles(1))
        once = time.monotonic() - start
        return 1.5 * once * len(self.images.images) + _SECONDS_TO_WRITE

    def final(self) -> tuple[Evaluation, Calibration | None]:
        """Measure, and write weights and card."""
        evaluation, calibrated = self._measure(self._middles(len(self.images.images)))
        card = self.origin | {
            "steps": self.state.step,
            "steps_skipped": int(self.state.skipped),
            "seconds": round(self.state.elapsed, 1),
            "validation": dataclasses.asdict(evaluation),
            "calibration": dataclasses.asdict(calibrated) if calibrated else None,
        }
        self._save()
        with atomic_path(self.folder / CARD) as temporary:
            temporary.write_text(json.dumps(card, indent=2) + "\n")
        return evaluation, calibrated

    def _measure(self, images: list[Tensor]) -> tuple[Evaluation, Calibration | None]:
        evaluation = evaluate(self.prior, images, precision=self.precision)
        if not has_std_decoder(self.prior):
            return evaluation, None
        dequantize = self.state.recipe.data.dequantize
        return evaluation, calibration(self.prior, images, dequantize=dequantize, precision=self.precision)

    def _middles(self, count: int) -> list[Tensor]:
        return [_middle(self.images.floats(i), _LARGEST_SIDE) for i in range(count)]

    def _save(self) -> None:
        keys = ("name", "data", "command", "version")
        metadata = {key: self.origin[key] for key in keys if key in self.origin} | {"steps": self.state.step}
        save_prior(self.prior, self.folder / PRIOR, metadata=metadata)


def machine(device: torch.device) -> str:
    """The machine in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def versions() -> dict[str, str]:
    """Versions of what computes."""
    return {"pyro_vble": __version__, "torch": torch.__version__, "python": platform.python_version()}


def _middle(x: Tensor, side: int) -> Tensor:
    """The middle of an image (1, C, H, W), at most ``side`` pixels a side."""
    rows, columns = x.shape[-2:]
    top, left = max(0, (rows - side) // 2), max(0, (columns - side) // 2)
    return x[..., top : top + side, left : left + side]
