"""What methods stand on: a prior, a denoiser, trained networks; loaded once, before any clock runs."""

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pyro_vble.baselines import load_direct
from pyro_vble.baselines.denoisers import ImageDenoiser, denoiser_on
from pyro_vble.baselines.direct import direct_header
from pyro_vble.io.checksums import digest_of, tensors_checksum
from pyro_vble.io.priors import load_prior
from pyro_vble.models import Prior
from pyro_vble.models.freezing import frozen

_DIGITS = 16


class MissingResourceError(RuntimeError):
    """What a method stands on is not there; the message says what, and where to get it."""


@dataclass(frozen=True)
class Resources:
    """What methods stand on.

    Attributes:
        device: Where everything is computed.
        prior_name: Of the prior.
        denoiser_name: "drunet", downloaded on first use, or the path of FFDNet's weights.
        networks: Folder of what ``pyro-vble train direct`` wrote, or None.
        bands: Of the images.
    """

    device: torch.device
    prior_name: str
    denoiser_name: str = "drunet"
    networks: Path | None = None
    bands: int = 3
    _direct: dict[Path, Any] = field(default_factory=dict, repr=False)
    _checksums: dict[Any, str] = field(default_factory=dict, repr=False)

    @functools.cached_property
    def prior(self) -> Prior:
        """The prior, on the device."""
        return frozen(load_prior(self.prior_name)).to(self.device)

    @functools.cached_property
    def denoiser(self) -> ImageDenoiser:
        """The denoiser, on the device.

        Raises:
            MissingResourceError: If it cannot be had.
        """
        try:
            return denoiser_on(self.denoiser_name, self.bands, self.device)
        except (RuntimeError, FileNotFoundError) as error:
            raise MissingResourceError(
                f"the denoiser is missing ({' '.join(str(error).split())}); --denoiser names a file of FFDNet's weights"
            ) from error

    def direct_path(self, architecture: str, scale: int) -> Path:
        """The file of a direct network.

        Raises:
            MissingResourceError: If the folder holds none, or several, of this architecture and scale.
        """
        remedy = (
            f"pyro-vble train direct --network {architecture} --scale {scale} --output DIR/{architecture}-x{scale}"
            ".safetensors trains one, and --networks DIR finds it"
        )
        if self.networks is None:
            raise MissingResourceError(f"no folder of trained networks is named; {remedy}")
        wanted = {"architecture": architecture, "scale": scale, "bands": self.bands}
        found = []
        for path in sorted(self.networks.glob("*.safetensors")):
            header = direct_header(path)
            if header is not None and all(header.get(key) == value for key, value in wanted.items()):
                found.append(path)
        if len(found) != 1:
            several = f"{len(found)} networks" if found else "no network"
            raise MissingResourceError(
                f"{self.networks} holds {several} {architecture} of scale {scale} for {self.bands} bands; {remedy}"
            )
        return found[0]

    def direct(self, path: Path) -> torch.nn.Module:
        """A direct network, on the device."""
        if path not in self._direct:
            self._direct[path] = load_direct(path).to(self.device)
        return self._direct[path]

    def fingerprint(self, needs: str | None, architecture: str = "", scale: int = 1) -> str:
        """What a method stands on in words, with a checksum of its weights; empty for what stands on nothing.

        Args:
            needs: "prior", "denoiser", "network", or None.
            architecture: Of the network.
            scale: Of the network.

        Raises:
            MissingResourceError: If it is not there.
        """
        if needs is None:
            return ""
        key = (needs, architecture, scale)
        if key not in self._checksums:
            if needs == "network":
                name, checksum = architecture, digest_of(self.direct_path(architecture, scale))
            elif needs == "prior":
                name, checksum = self.prior_name, tensors_checksum(self.prior.state_dict())
            else:
                name, checksum = self.denoiser.name, tensors_checksum(self.denoiser.state_dict())
            self._checksums[key] = f"{name} {checksum[:_DIGITS]}"
        return self._checksums[key]
