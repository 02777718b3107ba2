"""Reading torch's files without running anything in them, or believing what they claim of their size."""

import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from pyro_vble._arguments import brief

# What a file may claim to hold, when it is small enough itself to claim too much.
_MOST_BYTES = 4 << 30
_MOST_RATIO = 200


def read_torch_file(path: Path) -> Any:
    """What ``torch.save`` wrote, read with ``weights_only=True``, on the CPU.

    Raises:
        OSError: If the file cannot be opened.
        ValueError: If it is damaged, claims to be far larger than it is, or holds more than weights.
    """
    with path.open("rb"):
        pass  # what the system has to say of it comes first, and names it
    try:
        _check_size(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises anything from EOFError to UnpicklingError, by the kind of damage
        # Torch prints some of its words in bold.
        words = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
        reason = words.splitlines()[0] if words else "no message"
        raise ValueError(
            f"{path} cannot be read as a checkpoint of tensors alone ({type(error).__name__}: {_cut(reason)}); it "
            "may be truncated, or hold more than weights: copy it again, or save its state_dict alone."
        ) from error
    return content


def claimed_bytes(value: torch.Tensor) -> int:
    """The memory that a tensor takes once each of its values has a place of its own."""
    return value.numel() * value.element_size()


def check_plain(name: str, value: torch.Tensor) -> None:
    """Raise ValueError unless a tensor is an ordinary one, and no larger than a file's may be."""
    if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized or value.is_nested:
        raise ValueError(f"{brief(name)} must be a dense tensor of plain numbers.")
    if claimed_bytes(value) > _MOST_BYTES:
        raise ValueError(f"{brief(name)} must be of at most 4 GiB; it has the shape {tuple(value.shape)}.")


def _check_size(path: Path) -> None:
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as file:
        claimed = sum(member.file_size for member in file.infolist())
    size = path.stat().st_size
    if claimed > _MOST_RATIO * size or (claimed > _MOST_BYTES and claimed > 2 * size):
        raise ValueError(f"its {size} bytes claim to hold {claimed}")


def _cut(text: str) -> str:
    return text if len(text) <= 200 else text[:200] + "..."
