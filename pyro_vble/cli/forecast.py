"""How long a restoration will take and how much memory, told before it begins."""

from typing import Any

from pyro_vble._forecast import QUICK as _QUICK
from pyro_vble._forecast import forecast
from pyro_vble.cli.fit import Fit
from pyro_vble.cli.words import say, stage
from pyro_vble.inference import resolve_device


def tell_forecast(shape: tuple[int, int, int], prior: Any, fit: Fit) -> MemoryError | None:
    """Say how long a large image (C, H, W) takes and how much memory; returns what to raise if it surely does not fit.

    Nothing is said then.
    """
    if shape[1] * shape[2] < _QUICK or getattr(prior, "image_shape", None) is not None:
        return None
    samples, device = fit.samples if fit.family.spread else 1, resolve_device(fit.device)
    settings = {"steps": fit.num_steps, "samples": samples, "device": device, "precision": fit.precision}
    with stage("Estimating time and memory"):
        expected = forecast(shape, prior, fit.family.load(), fits=fit.num_fits, **settings)
    free = "" if expected.free is None else f"; {expected.free / 1e9:.1f} GB are free"
    if not expected.fits:
        remedies = ["cut the image into smaller ones"]
        remedies += ["--samples 20"] if samples > 20 else []
        remedies += ["--device cuda on a machine with a GPU"] if device.type == "cpu" else ["--device cpu"]
        return MemoryError(
            f"Restoring {shape[2]}x{shape[1]} pixels needs about {expected.needed / 1e9:.1f} GB of memory{free}; "
            f"{', or '.join(remedies)}."
        )
    say(f"{shape[2]}x{shape[1]} pixels take {expected}{free}.")
    return None
