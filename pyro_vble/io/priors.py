"""Loading generative priors."""

import importlib.resources
import os
import re
from pathlib import Path
from typing import Annotated, Any

import torch

from pyro_vble._arguments import PathName, Positive, RateScale, brief, checked, one_of
from pyro_vble.io.checksums import Sha256, digest_of
from pyro_vble.io.hub import cached, download, parse_hub_name
from pyro_vble.io.prior_files import read_prior
from pyro_vble.models import CAE, Prior, networks


@checked
def load_prior(
    name: PathName,
    *,
    alpha: Positive | None = None,
    architecture: Annotated[str, one_of(*networks.ZOO_CLASSES.values())] | None = None,
    distortion: Annotated[str, one_of("mean", "sum")] | None = None,
    rate_scale: RateScale = 1.0,
    sha256: Sha256 | None = None,
) -> Prior:
    """Load a generative prior by name or from a file.

    - a bundled prior: ``"cae-bsd"`` (:func:`available_priors` lists them);
    - a network of the CompressAI zoo, ``"mbt2018-mean/5"``: name and quality, downloaded on first use;
    - a file on the Hugging Face Hub, ``"owner/repository/file.pth@revision"``: downloaded on first use, its checksum
      compared with the Hub's; without a revision the newest, whose commit the prior's ``name`` then holds;
    - a local ``.safetensors`` file, alpha and architecture read from its header where it has them;
    - a local CompressAI checkpoint (``.pth``, ``.pt``, ``.tar``), read with ``weights_only=True``;
    - a local checkpoint in the layout of the published VBLE weights (``mbt_0.0483_bsd_std-diagonal...``), its
      ``variance_decoder`` becoming ``decoder_std``.

    Args:
        name: Name or path.
        alpha: Bitrate parameter, if the file does not state it.
        architecture: Name of the CompressAI class, where the weights should not decide.
        distortion: "mean" or "sum" over bands, the convention of alpha; by default what the file says, "sum" for the
            published VBLE weights, else "mean".
        rate_scale: s in (0, 1], see :class:`~pyro_vble.models.CAE`.
        sha256: Checksum that the file must have, a bundled one too; one from the Hub besides the Hub's own.

    Raises:
        ValueError: If the name is unknown, the file is damaged or has another checksum, a weight is not finite, or
            alpha cannot be told; if an argument does not belong to such a prior.
        OSError: If the file cannot be read.
        ImportError: If CompressAI cannot be imported.
        ConnectionError: If weights cannot be downloaded.

    Example:
        >>> from pyro_vble import load_prior
        >>> load_prior("cae-bsd").alpha
        0.025
    """
    path, name = Path(name), os.fspath(name)
    if name in available_priors():
        with importlib.resources.as_file(_bundled() / f"{name}.safetensors") as file:
            prior = _read(file, sha256, alpha, architecture, distortion)
    elif path.is_file():
        prior, name = _read(path, sha256, alpha, architecture, distortion), os.path.abspath(path)
    elif _is_zoo_name(name):
        prior = _from_zoo(name)
        told = {"alpha": alpha, "architecture": architecture, "distortion": distortion, "sha256": sha256}
        own = {"alpha": prior.alpha, "architecture": type(prior.network).__name__, "distortion": prior.distortion}
        for argument, value in told.items():
            if value is not None and value != own.get(argument):
                raise ValueError(
                    f"{name} is a network of CompressAI's own, with {argument} {own.get(argument, 'of its own')}; "
                    f"received {argument}={value!r}; leave it out."
                )
    elif (wanted := parse_hub_name(name)) is not None and not path.parent.is_dir():
        file, found = download(wanted, sha256=sha256)
        prior, name = read_prior(file, alpha, architecture, distortion), found.name
    else:
        raise ValueError(
            f"A prior is a bundled name ({', '.join(available_priors())}), a CompressAI zoo name with its quality "
            f"({', '.join(f'{zoo}/5' for zoo in networks.ZOO_CLASSES)}), a file on the Hub "
            f"(owner/repository/file.ext) or the path of an existing file; received {brief(name)}."
        )
    prior.name = name
    prior.eval()
    return prior if rate_scale == 1 else prior.with_rate_scale(rate_scale)


def needs_network(name: str) -> bool:
    """Whether a prior of this name would be asked for at the Hub or the CompressAI zoo: it is on no disk here."""
    if name in available_priors() or Path(name).is_file():
        return False
    if _is_zoo_name(name):
        return not _zoo_file(name).is_file()
    wanted = parse_hub_name(name)
    return wanted is not None and not Path(name).parent.is_dir() and cached(wanted) is None


def available_priors() -> list[str]:
    """Names of the priors that come with the package.

    Example:
        >>> from pyro_vble import available_priors
        >>> "cae-bsd" in available_priors()
        True
    """
    return sorted(f.name.removesuffix(".safetensors") for f in _bundled().iterdir() if f.name.endswith(".safetensors"))


def _bundled() -> Any:
    return importlib.resources.files("pyro_vble.weights")


def _read(path: Path, sha256: str | None, *told: Any) -> Prior:
    if sha256 is not None and (found := digest_of(path)) != sha256:
        raise ValueError(
            f"{path} must have the checksum {sha256}; it has {found}; take the right file, or correct sha256."
        )
    return read_prior(path, *told)


def _is_zoo_name(name: str) -> bool:
    return bool(re.fullmatch(r"[a-z0-9-]+/\d", name)) and name.split("/")[0] in networks.ZOO_CLASSES


def _zoo_file(name: str) -> Path:
    """Where torch keeps what was downloaded of the zoo."""
    zoo, quality = name.split("/")
    address = networks.compressai().zoo.image.model_urls[zoo]["mse"].get(int(quality), "none")
    return Path(torch.hub.get_dir(), "checkpoints", Path(address).name)


def _from_zoo(name: str) -> CAE:
    zoo, quality = name.split("/")
    try:
        network = networks.zoo_network(zoo, int(quality))
    except (OSError, TimeoutError) as error:
        raise ConnectionError(
            f"The weights of {name} are downloaded on first use, and that failed ({error}). On a machine without "
            "network, copy the checkpoint there and pass its path: load_prior('.../file.pth.tar', "
            f"alpha={networks.ZOO_ALPHAS.get(int(quality))})."
        ) from error
    except ValueError as error:
        raise ValueError(f"The CompressAI zoo has no {name!r}: {error}.") from error
    return CAE(network, networks.ZOO_ALPHAS[int(quality)])
