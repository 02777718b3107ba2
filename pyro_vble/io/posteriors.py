"""Posteriors as files: safetensors, with JSON in the header."""

import json
import os
from pathlib import Path
from typing import Any

import pyro
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pyro_vble import guides as guide_classes
from pyro_vble._version import __version__
from pyro_vble.ensemble import EnsemblePosterior
from pyro_vble.guides import MeanFieldGuide
from pyro_vble.inference import resolve_device
from pyro_vble.inference.precision import dtype_of
from pyro_vble.io.atomic import atomic_path
from pyro_vble.models import Prior, RestorationModel
from pyro_vble.physics import operator_on
from pyro_vble.posterior import Posterior

_FORMAT = "pyro-vble posterior 2"


def save_posterior(posterior: Posterior, path: str | os.PathLike) -> None:
    """Write a posterior to one file: the guides' parameters, the measurement, the ELBO traces and their description.

    The prior is stored by name and fingerprint, the operator not at all.

    Raises:
        TypeError: If the guide, or the prior of a parameter inferred with the image, is none that can be built again
            by name.
    """
    guide = posterior.guide
    if getattr(guide_classes, type(guide).__name__, None) is not type(guide) or not isinstance(guide, MeanFieldGuide):
        raise TypeError(
            f"Posteriors of this library's guides can be saved (VBLE, VBLExz, MAPz); received {type(guide).__name__}; "
            "save guide.state_dict() yourself."
        )
    prior = posterior.model.prior
    description = {
        "format": _FORMAT,
        "version": __version__,
        "guide": type(guide).__name__,
        "options": guide.options,
        "prior": prior.name,
        "prior_fingerprint": fingerprint(prior),
        "prior_settings": prior.settings,
        "image_shape": list(posterior.image_shape[1:]),
        "precision": posterior.precision,
        "seed": posterior.seed,
        "num_fits": len(posterior.fits),
        "seeds": [fit.seed for fit in posterior.fits],
        "calibration": posterior.calibration and posterior.calibration.as_dict(),
        "physics_priors": {name: _family(name, p) for name, p in posterior.model.physics_priors.items()},
    }
    tensors = {"y": posterior.y}
    for k, fit in enumerate(posterior.fits):
        tensors |= {f"guide{k}.{name}": value for name, value in fit.guide.state_dict().items()}
        tensors[f"elbo{k}"] = fit.elbo
    with atomic_path(path) as temporary:
        save_file(
            {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
            temporary,
            metadata={"pyro_vble": json.dumps(description)},
        )


def load_posterior(
    path: str | os.PathLike, *, prior: Prior | None = None, physics: Any = None, device: str | torch.device = "cpu"
) -> Posterior:
    """Read a posterior that :meth:`Posterior.save` wrote.

    Args:
        path: The file.
        prior: The prior, where it was not loaded by name (one of your own).
        physics: The forward operator: what has to do with measurements needs it (``predictive``, ``draws``, most
            groups of ``to_arviz``, Markov chains, further fitting).
        device: Where to put it; "auto" is CUDA where there is one.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged or of another kind, or the prior is missing or another one.

    Example:
        >>> import tempfile, torch, deepinv
        >>> import pyro_vble as pv
        >>> physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))
        >>> posterior = pv.restore(torch.rand(1, 3, 64, 64), physics, "cae-bsd", num_steps=2, seed=0, progress=False)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     posterior.save(f"{folder}/fit.pvble")
        ...     again = pv.load_posterior(f"{folder}/fit.pvble")
        >>> bool((again.mmse_x(4) == posterior.mmse_x(4)).all())
        True
    """
    device = resolve_device(device)
    description, tensors = _read(Path(path))
    prior = _prior_of(description, prior)
    dtype = dtype_of(description["precision"])
    guide_class = getattr(guide_classes, description["guide"])
    model = RestorationModel(
        prior,
        None,
        latent_image=guide_class.latent_image,
        image_shape=tuple(description["image_shape"]),
    )
    model.prior.to(device, dtype)
    model.physics_priors = {name: _prior_of_parameter(f) for name, f in description["physics_priors"].items()}
    y = tensors.pop("y").to(device)
    fits = []
    for k, seed in enumerate(description["seeds"]):
        guide = guide_class(model, y, **description["options"])
        state = {name: value.to(device) for name, value in tensors.items() if name.startswith(f"guide{k}.")}
        guide.load_state_dict({name.removeprefix(f"guide{k}."): value for name, value in state.items()})
        fits.append(Posterior(model, guide, y, elbo=tensors[f"elbo{k}"], precision=description["precision"], seed=seed))
    if physics is not None:
        model.physics = operator_on(physics, device, dtype)
    posterior = fits[0] if len(fits) == 1 else EnsemblePosterior(fits)
    if description["calibration"] is None:
        return posterior
    from pyro_vble.diagnostics.conformal import Calibration

    return posterior.calibrated(Calibration.from_dict(description["calibration"], str(path)))


def _family(name: str, prior: Any) -> dict[str, Any]:
    """A distribution of a number as its class and parameters."""
    if getattr(pyro.distributions, type(prior).__name__, None) is not type(prior):
        raise TypeError(
            f"The prior of {name!r} must be one of pyro.distributions to be saved; received {type(prior).__name__}."
        )
    parameters = {key: float(getattr(prior, key)) for key in prior.arg_constraints}
    return {"class": type(prior).__name__, "parameters": parameters}


def _prior_of_parameter(family: dict[str, Any]) -> Any:
    return getattr(pyro.distributions, family["class"])(**family["parameters"])


def fingerprint(prior: torch.nn.Module) -> str:
    """A short hash of a prior's weights: enough to tell one prior from another."""
    import hashlib

    digest = hashlib.sha256()
    for name, value in sorted(prior.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    if not path.is_file():
        raise FileNotFoundError(f"No posterior at {path}; give the path that Posterior.save wrote.")
    try:
        with safe_open(path, framework="pt") as file:
            description = json.loads((file.metadata() or {}).get("pyro_vble", "{}"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise ValueError(
            f"A posterior must be a complete file that Posterior.save wrote; {path} cannot be read ({error}); it may "
            "be truncated: copy it again."
        ) from error
    if description.get("format") != _FORMAT:
        raise ValueError(
            f"A posterior must be a file of the format {_FORMAT!r}; {path} has {description.get('format')!r}; give a "
            "file that Posterior.save wrote with this version."
        )
    return description, tensors


# Of a prior's settings, those that a file may leave to be told.
_TOLD = ("alpha", "distortion", "rate_scale")


def _prior_of(description: dict[str, Any], prior: Prior | None) -> Prior:
    if prior is None and description["prior"] is None:
        raise ValueError(
            "This posterior was fitted with a prior of your own, which is not saved with it; pass prior=..., the same "
            "prior."
        )
    if prior is None:
        from pyro_vble.io.priors import load_prior

        settings = description["prior_settings"]
        prior = load_prior(description["prior"], **{name: settings[name] for name in _TOLD if name in settings})
    if prior.settings != description["prior_settings"]:
        raise ValueError(
            f"The prior must be the one that the posterior was fitted with, {description['prior_settings']}; received "
            f"{prior.settings}; pass that prior as prior=..."
        )
    found = fingerprint(prior)
    if found != description["prior_fingerprint"]:
        raise ValueError(
            "The prior must be the one that the posterior was fitted with (weights "
            f"{description['prior_fingerprint']}, name {description['prior']!r}); received weights {found}; pass that "
            "prior as prior=..."
        )
    return prior
