"""Loading generative priors."""

import importlib.resources
import os
import re
from pathlib import Path
from typing import Any

from pyro_vble.io.hub import download, parse_hub_name
from pyro_vble.io.prior_files import read_prior
from pyro_vble.models import CAE, Prior, _compressai


def load_prior(
    name: str | os.PathLike,
    *,
    alpha: float | None = None,
    architecture: str | None = None,
    distortion: str | None = None,
    rate_scale: float = 1.0,
    sha256: str | None = None,
) -> Prior:
    """Load a generative prior by name or from a file.

    - a bundled prior: ``"cae-bsd"`` (:func:`available_priors` lists them);
    - a network of the CompressAI zoo, ``"mbt2018-mean/5"``: name and quality, downloaded on first use;
    - a file on the Hugging Face Hub, ``"owner/repository/file.pth@revision"``: downloaded on first use, its checksum
      compared with the Hub's; without a revision the newest, whose commit the prior's ``name`` then holds;
    - a local ``.safetensors`` file, alpha and architecture read from its header where it has them;
    - a local CompressAI checkpoint (``.pth``, ``.pt``, ``.tar``), read with ``weights_only=True``;
    - a local checkpoint in the layout of the published VBLE weights (``mbt_0.0483_bsd_std-diagonal...``), its
      variance decoder included.

    Args:
        name: Name or path.
        alpha: Bitrate parameter, where the file does not tell.
        architecture: Name of the CompressAI class, where the weights should not decide.
        distortion: "mean" or "sum" over bands, the convention of alpha; by default what the file says, "sum" for the
            published VBLE weights, else "mean".
        rate_scale: s in (0, 1], see :class:`~pyro_vble.models.CAE`.
        sha256: Checksum that a file from the Hub must have, besides the Hub's own.

    Raises:
        ValueError: If the name is unknown, the file is damaged, or alpha cannot be told.
        ImportError: If CompressAI cannot be imported.
        ConnectionError: If weights cannot be downloaded.

    Example:
        >>> from pyro_vble import load_prior
        >>> load_prior("cae-bsd").alpha
        0.025
    """
    name = os.fspath(name)
    if name in available_priors():
        with importlib.resources.as_file(_bundled() / f"{name}.safetensors") as path:
            prior = read_prior(path, alpha, architecture, distortion)
    elif Path(name).is_file():
        prior = read_prior(Path(name), alpha, architecture, distortion)
    elif re.fullmatch(r"[a-z0-9-]+/\d", name) and name.split("/")[0] in _compressai.ZOO_CLASSES:
        prior = _from_zoo(name)
        if alpha is not None and alpha != prior.alpha:
            raise ValueError(f"{name} was trained with alpha={prior.alpha}; received alpha={alpha}; leave it out.")
    elif (wanted := parse_hub_name(name)) is not None and not Path(name).parent.is_dir():
        path, found = download(wanted, sha256=sha256)
        prior, name = read_prior(path, alpha, architecture, distortion), found.name
    else:
        raise ValueError(
            f"A prior is a bundled name ({', '.join(available_priors())}), a CompressAI zoo name with its quality "
            f"({', '.join(f'{zoo}/5' for zoo in _compressai.ZOO_CLASSES)}), a file on the Hub "
            f"(owner/repository/file.ext) or the path of an existing file; received {name!r}."
        )
    prior.name = name
    prior.eval()
    return prior if rate_scale == 1 else prior.with_rate_scale(rate_scale)


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


def _from_zoo(name: str) -> CAE:
    zoo, quality = name.split("/")
    try:
        network = _compressai.zoo_network(zoo, int(quality))
    except (OSError, TimeoutError) as error:
        raise ConnectionError(
            f"The weights of {name} are downloaded on first use, and that failed ({error}). On a machine without "
            "network, copy the checkpoint there and pass its path: load_prior('.../file.pth.tar', "
            f"alpha={_compressai.ZOO_ALPHAS.get(int(quality))})."
        ) from error
    except ValueError as error:
        raise ValueError(f"The CompressAI zoo has no {name!r}: {error}.") from error
    return CAE(network, _compressai.ZOO_ALPHAS[int(quality)])
