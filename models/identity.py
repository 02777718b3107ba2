"""Telling one prior from another."""

import hashlib
import os
from pathlib import Path
from typing import Any

from torch import nn


def fingerprint(prior: nn.Module) -> str:
    """A short hash of a prior's weights: enough to tell one prior from another."""
    digest = hashlib.sha256()
    for name, value in sorted(prior.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def prior_in_words(prior: Any) -> str:
    """A prior by name; one from a file, or of one's own, by a hash of its weights too, wherever the file lies."""
    name = str(prior.name)
    if isinstance(prior, nn.Module) and (prior.name is None or os.path.isabs(name)):
        return f"{Path(name).name} #{fingerprint(prior)[:8]}"
    return name
